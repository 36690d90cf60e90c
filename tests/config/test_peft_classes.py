"""PEFT's config classes from their source say what PEFT's own say, for every method and any value of any setting."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from lora_ns.config.installed import peft_registrations
from lora_ns.config.peft_classes import NeedsPeft, config_class

VALUES = [0, -1, 2, 0.5, "x", True, ["a"], {"a": 1}, "all-linear"]
ONLY_PEFT_KNOWS = {"peanut"}
"""Methods whose check looks into another package (here: transformers' table of activations)."""


def verdict(build: Callable[[], Any]) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return repr(dataclasses.asdict(build()))
        except NeedsPeft:
            raise
        except Exception as error:
            return repr(error)


@pytest.mark.parametrize("method", sorted(peft_registrations()))
def test_every_setting_is_judged_as_by_peft_itself(method: str) -> None:
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftType

    theirs: Any = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(method.upper())]
    ours = config_class(method)
    fields = [field.name for field in dataclasses.fields(theirs)]
    assert [field.name for field in dataclasses.fields(ours)] == fields
    tries: list[dict[str, Any]] = [{}, *({field: value} for field in fields for value in VALUES)]
    unknown = 0
    for settings in [{"task_type": "CAUSAL_LM"} | each for each in tries]:
        try:
            assert verdict(lambda s=settings: ours(**s)) == verdict(lambda s=settings: theirs(**s)), settings  # type: ignore[misc]
        except NeedsPeft:
            unknown += 1
    assert (unknown > 0) == (method in ONLY_PEFT_KNOWS)


def test_neither_peft_nor_torch_is_imported_for_it() -> None:
    program = (
        "import sys; from lora_ns.config.peft_classes import config_class, peft_registrations; "
        "[config_class(method) for method in peft_registrations()]; "
        "found = {'peft', 'torch', 'transformers', 'accelerate'} & set(sys.modules); sys.exit(str(found) if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_a_class_asks_of_another_package_is_left_to_peft() -> None:
    with pytest.raises(NeedsPeft):
        config_class("peanut")(task_type="CAUSAL_LM")

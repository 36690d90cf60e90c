from __future__ import annotations

import pytest
from support import causal_task

from lora_ns import trackers
from lora_ns.config import RunConfig, check
from lora_ns.errors import ConfigError
from lora_ns.machine import check_machine


def config(report_to: object) -> RunConfig:
    training = {"max_steps": 1, "report_to": report_to}
    return check(causal_task("builtin:tiny-llama", training=training), "task.yaml")


@pytest.mark.parametrize("report_to", ["none", "all", [], None])
def test_no_tracker_is_needed(report_to: object) -> None:
    check_machine(config(report_to))


def test_a_tracker_that_is_not_installed_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        check_machine(config(["tensorboard", "wandb"]))
    text = str(caught.value)
    assert "tensorboard is not installed; `pip install tensorboard`" in text and "`pip install wandb`" in text
    check_machine(config("wandb"), training=False)  # evaluating reports to nobody


def test_an_unknown_tracker_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"there is no tracker 'tensorbord'\. Did you mean 'tensorboard'"):
        check_machine(config("tensorbord"))


def test_the_names_are_those_that_transformers_knows() -> None:
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    assert set(trackers.PACKAGES) <= set(INTEGRATION_TO_CALLBACK)

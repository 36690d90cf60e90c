"""What the installed libraries accept, read from JSON files of their versions."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from lora_ns.config import library_fields
from lora_ns.config.library_fields import described, types_of


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    described.cache_clear()
    return tmp_path / "lora-ns"


@pytest.mark.parametrize("package", ["peft", "transformers", "accelerate"])
def test_the_files_of_the_package_say_what_the_installed_libraries_do(package: str) -> None:
    """After another version is locked: make schemas."""
    files = list(library_fields.SHIPPED.glob(f"{package}-*.json"))
    assert [path.name for path in files] == [f"{package}-{library_fields.version(package)}.json"]
    assert json.loads(files[0].read_text()) == library_fields._COLLECTED[package]()


def test_every_registered_method_and_every_field_of_it_is_there() -> None:
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items():
        assert set(described("peft")[kind.value.lower()]) == {field.name for field in dataclasses.fields(config)}


def test_a_version_that_is_not_shipped_is_imported_once_and_kept(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def collected() -> dict[str, Any]:
        asked.append("peft")
        return {"newest": {"r": "int"}}

    monkeypatch.setattr(library_fields, "version", lambda package: "99.0")
    monkeypatch.setitem(library_fields._COLLECTED, "peft", collected)
    for _ in range(2):
        described.cache_clear()
        assert described("peft") == {"newest": {"r": "int"}}
    assert asked == ["peft"] and [path.name for path in own_cache.iterdir()] == ["peft-99.0.json"]


def test_where_nothing_can_be_kept_the_library_is_still_read(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_cache.write_text("a file where the folder would be")
    monkeypatch.setattr(library_fields, "version", lambda package: "99.0")
    assert "TrainingArguments" in described("transformers")


def test_types_judge_values_as_the_annotations_do() -> None:
    kinds = types_of(described("peft")["lora"])

    def fits(field: str, value: Any) -> bool:
        try:
            TypeAdapter(kinds[field]).validate_python(value, strict=True)
        except ValidationError:
            return False
        return True

    assert fits("r", 8) and not fits("r", "8") and not fits("r", 1.5)
    assert fits("bias", "all") and not fits("bias", "some")
    assert fits("target_modules", ["q", "k"]) and fits("target_modules", "all-linear") and not fits("target_modules", 3)
    assert fits("init_lora_weights", "pissa_niter_16") and fits("init_lora_weights", True)
    assert fits("rank_pattern", {"q": 4}) and fits("layers_to_transform", None)


def test_a_refusal_of_pefts_own_class_is_told_and_remembered(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch, tiny_causal: Path
) -> None:
    from support import causal_task

    from lora_ns.config import check
    from lora_ns.errors import ConfigError
    from lora_ns.models import peft_config

    peft = {"method": "lora", "r": 4, "layers_pattern": "layers", "target_modules": "all-linear"}
    config = check(causal_task(tiny_causal, peft=peft), "test")
    with pytest.raises(ConfigError) as first:
        peft_config.check_peft_config(config)
    monkeypatch.setattr(peft_config, "build_peft_config", lambda *_, **__: pytest.fail("PEFT was asked again"))
    with pytest.raises(ConfigError) as second:
        peft_config.check_peft_config(config)
    assert "LoraConfig refuses these settings" in str(first.value) == str(second.value)

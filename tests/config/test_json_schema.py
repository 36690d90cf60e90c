"""The schemas that editors read: up to date, true of every config that stands ready, and quick to mark a slip."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from support import REPOSITORY

from lora_ns.benchmarks import all_benchmarks
from lora_ns.config import parse_yaml
from lora_ns.config.json_schema import SCHEMAS

FOLDER = REPOSITORY / "configs/schema"
CONFIGS = sorted([*(REPOSITORY / "configs").rglob("*.yaml"), *(REPOSITORY / "examples").rglob("*.yaml")])
OTHERS = [
    REPOSITORY / "configs/glue/common.yaml",
    REPOSITORY / "configs/accelerate_config.yaml",
    *(REPOSITORY / "configs/launch").glob("*.yaml"),
]
"""What other configs extend, and what accelerate reads: no config by itself."""


def validator(path: Path) -> Draft202012Validator:
    beside = {file.name: Resource.from_contents(json.loads(file.read_text())) for file in FOLDER.glob("*.json")}
    return Draft202012Validator(json.loads(path.read_text()), registry=Registry().with_resources(beside.items()))


@pytest.mark.parametrize("kind", SCHEMAS)
def test_whatever_a_schema_refers_to_is_there(kind: str) -> None:
    for file, name in re.findall(r'"\$ref": "(\w+\.json)?#/\$defs/(\w+)"', (FOLDER / f"{kind}.json").read_text()):
        assert name in json.loads((FOLDER / (file or f"{kind}.json")).read_text())["$defs"]


@pytest.mark.parametrize("kind", SCHEMAS)
def test_the_files_are_what_the_installed_peft_and_transformers_take(kind: str) -> None:
    made = json.loads(json.dumps(SCHEMAS[kind](list(all_benchmarks()))))
    Draft202012Validator.check_schema(made)
    assert json.loads((FOLDER / f"{kind}.json").read_text()) == made, "run `make schemas`"


@pytest.mark.parametrize("path", [p for p in CONFIGS if p not in OTHERS], ids=lambda p: p.relative_to(REPOSITORY).as_posix())
def test_a_ready_config_names_its_schema_and_is_valid_by_it(path: Path) -> None:
    named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", path.read_text(encoding="utf-8"))
    assert named, "its first line names no schema"
    schema = (path.parent / named[1]).resolve()
    assert schema.parent == FOLDER
    content = parse_yaml(path.read_text(encoding="utf-8"))
    kind = "experiment" if "tasks" in content else "task" if "task_name" in content else "method"
    assert schema.stem == kind
    assert [error.message for error in validator(schema).iter_errors(content)] == []


TASK = {"task_name": "t", "task_type": "causal_lm", "model": {"name_or_path": "m"}, "dataset": {"name": "d"}}


@pytest.mark.parametrize(
    ("kind", "content", "marked"),
    [
        ("task", {**TASK, "training": {"lerning_rate": 1}}, "$.training"),
        ("task", {**TASK, "training": {"learning_rate": "fast"}}, "$.training.learning_rate"),
        ("task", {**TASK, "training": {"output_dir": "x"}}, "$.training"),
        ("task", {**TASK, "peft": {"method": "lorra"}}, "$.peft.method"),
        ("task", {**TASK, "peft": {"r": 8, "num_virtual_tokens": 3}}, "$.peft"),
        ("task", {**TASK, "peft": {"method": "prompt_tuning", "r": 8}}, "$.peft"),
        ("task", {**TASK, "dataset": {"name": "d", "prompt_templat": "x"}}, "$.dataset"),
        ("task", {**TASK, "evaluation": {"benchmarks": ["gsm9k"]}}, "$.evaluation.benchmarks[0]"),
        ("task", {**TASK, "evaluation": {"generation": {"max_tokens": 3}}}, "$.evaluation.generation"),
        ("task", {"task_name": "t"}, "$"),
        ("method", {"peft": {"method": "vera", "rank": 8}}, "$.peft"),
        ("experiment", {"name": "e", "tasks": ["t.yaml"], "methods": [{"confg": "m.yaml"}]}, "$.methods[0]"),
        ("experiment", {"name": "e", "tasks": ["t.yaml"], "methods": ["m.yaml"], "tune": {"training.learning_rate": 1}},
         "$.tune['training.learning_rate']"),
    ],
)  # fmt: skip
def test_a_slip_is_marked_where_it_is(kind: str, content: dict[str, Any], marked: str) -> None:
    assert marked in [error.json_path for error in validator(FOLDER / f"{kind}.json").iter_errors(content)]


@pytest.mark.parametrize(
    "section",
    [
        {"peft": {"method": "lora", "lora_r": 8, "use_dora": True}},
        {"peft": {"method": "prefix_tuning", "num_prefix_tokens": 8}},
        {"training": {"lr": 1e-4, "gradient_checkpointing": True, "gradient_accumulation_steps": 2}},
        {"dataset": {"name": {"train": "a.jsonl", "test": ["b.jsonl"]}, "max_train_samples": 3}},
        {"evaluation": {"benchmarks": ["gsm8k", {"name": "regex", "settings": {"pattern": "x"}, "num_fewshot": 2}]}},
    ],
)
def test_what_a_config_may_say_is_not_marked(section: dict[str, Any]) -> None:
    assert [error.message for error in validator(FOLDER / "task.json").iter_errors({**TASK, **section})] == []


def test_every_key_is_explained() -> None:
    schema = json.loads((FOLDER / "task.json").read_text())
    for name in ("model", "dataset", "evaluation", "merge", "generation"):
        for key, part in schema["$defs"][name]["properties"].items():
            assert part.get("description") or "$ref" in part, f"{name}.{key}"

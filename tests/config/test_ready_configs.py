"""The configs that stand ready, and `extends`."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import REPOSITORY

from lora_ns.benchmarks import benchmark
from lora_ns.config import load_config, read_mapping
from lora_ns.errors import ConfigError
from lora_ns.store.paths import Store
from lora_ns.store.run import Run

CONFIGS = REPOSITORY / "configs"
READY = sorted(path for path in CONFIGS.glob("*.yaml") if path.stem != "accelerate_config")
GLUE = "cola sst2 mrpc stsb qqp mnli qnli rte wnli".split()


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_a_ready_config_is_valid_and_every_benchmark_of_it_can_be_asked(path: Path) -> None:
    config = load_config(path)
    assert config.evaluation.benchmarks
    for entry in config.evaluation.benchmarks:
        assert Run(config, Store()).evaluation(entry).name


def test_every_hub_name_is_pinned_but_the_one_that_says_why_not() -> None:
    loose = []
    for path in READY:
        config = load_config(path)
        data = [config.dataset, *(Run(config, Store()).evaluation(entry).dataset for entry in config.evaluation.benchmarks)]
        loose += [f"{path.stem} {each.name}" for each in data if each.is_hub and each.revision is None]
        if not config.model.name_or_path.startswith("builtin:") and config.model.revision is None:
            loose.append(f"{path.stem} {config.model.name_or_path}")
    assert loose == ["code_feedback m-a-p/Code-Feedback"]


@pytest.mark.parametrize("task", GLUE)
def test_all_nine_glue_tasks_are_made_from_one_place(task: str) -> None:
    path = CONFIGS / f"glue_{task}.yaml"
    config = load_config(path)
    assert (config.task_name, config.dataset.subset) == (f"glue_{task}", task)
    names = [entry.name for entry in config.evaluation.benchmarks]
    assert names == (["glue_mnli_matched", "glue_mnli_mismatched"] if task == "mnli" else [f"glue_{task}"])
    assert config.task_type == benchmark(names[0]).kind
    shared = read_mapping(CONFIGS / "glue/common.yaml")
    assert (config.training.learning_rate, config.peft.fields["r"]) == (shared["training"]["learning_rate"], 8)
    assert "extends: glue/common.yaml" in path.read_text() and len(path.read_text().splitlines()) < 20


def test_mnli_is_asked_both_of_its_validation_sets() -> None:
    config = load_config(CONFIGS / "glue_mnli.yaml")
    asked = [Run(config, Store()).evaluation(entry).dataset for entry in config.evaluation.benchmarks]
    assert [data.eval_split for data in asked] == ["validation_matched", "validation_mismatched"]
    assert len({data.text_columns[0] for data in asked if data.text_columns}) == 1


def test_one_line_puts_local_rows_in_place_of_the_hubs(shared_data: Path) -> None:
    for name, folder in {"gsm8k": "gsm8k/train.jsonl", "glue_mrpc": "glue/MRPC", "glue_cola": "glue/CoLA"}.items():
        config = load_config(CONFIGS / f"{name}.yaml", {"dataset.name": str(shared_data / folder)})
        assert not config.dataset.is_hub and config.dataset.revision is None
        assert Store().rows(config.dataset).name


# -- extends ---------------------------------------------------------------------------------------------------------------


def test_a_config_lies_over_those_it_extends(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/base.yaml").write_text("a: {x: 1, y: 1}\nb: [1]\n")
    (tmp_path / "other.yaml").write_text("extends: sub/base.yaml\na: {y: 2}\n")
    (tmp_path / "more.yaml").write_text("a: {z: 3}\n")
    (tmp_path / "task.yaml").write_text("extends: [other.yaml, more.yaml]\nb: [2]\n")
    assert read_mapping(tmp_path / "task.yaml") == {"a": {"x": 1, "y": 2, "z": 3}, "b": [2]}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a": "extends: b.yml\n", "b": "x: 1\n"}, "extends: .*b.yml: there is no such file. Did you mean 'b.yaml'"),
        ({"a": "extends: b.yaml\n", "b": "extends: a.yaml\n"}, "in a circle"),
        ({"a": "extends: a.yaml\n"}, "in a circle"),
        ({"a": "extends: 3\n"}, "extends: expected a file or a list of files, found 3"),
        ({"a": "extends: b.yaml\n", "b": "x: [\n"}, "b.yaml, line 2: not valid YAML"),
    ],
)
def test_what_cannot_be_extended_is_named(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    with pytest.raises(ConfigError, match=expected):
        read_mapping(tmp_path / "a.yaml")

"""The least work: exactly which jobs a change of each class of settings brings, and that losses bring none needlessly.

The study has two methods and two seeds: four runs, one set of rows, one of tokens, one benchmark.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import REPOSITORY, causal_task, write_config

from lora_ns.config import expand_dotted, merge, read_mapping
from lora_ns.experiment.study import load_experiment
from lora_ns.store import paths as store_module
from lora_ns.store.paths import Store
from lora_ns.store.run import Run

SNAKEMAKE = str(Path(sys.executable).parent / "snakemake")


@pytest.fixture
def project(study: Path) -> Path:
    """The finished study with the workflow's files around it."""
    for name in ("workflow", "profiles"):
        shutil.copytree(REPOSITORY / name, study / name)
    for name in ("Snakefile", "environment.yml", ".gitignore"):
        shutil.copy(REPOSITORY / name, study / name)
    return study


def jobs(project: Path, target: str = "all") -> dict[str, int]:
    """Rule -> number of its jobs that a call would run now, without the target's own."""
    command = [SNAKEMAKE, target, "-n", "--cores", "1", "--config", "experiment=experiment.yaml"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=120, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    if "Job stats:" not in output:
        assert "Nothing to be done" in output
        return {}
    found = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", output.split("Job stats:")[1], re.M)}
    return {name: count for name, count in found.items() if name not in (target, "total")}


def change(file: str, **settings: Any) -> None:
    """Settings laid over those of a file, by dotted key."""
    dotted = {key.replace("__", "."): value for key, value in settings.items()}
    write_config(Path(file), merge(read_mapping(Path(file)), expand_dotted(dotted)))


def another_base_model() -> None:
    model = Path(read_mapping(Path("task.yaml"))["model"]["name_or_path"])
    shutil.copytree(model, "other-model")
    content = bytearray(Path("other-model/model.safetensors").read_bytes())
    content[-1] ^= 1
    Path("other-model/model.safetensors").write_bytes(content)
    change("task.yaml", model__name_or_path="./other-model")


def one_more_row() -> None:
    with Path("sums/train.jsonl").open("a") as file:
        file.write('{"question": "What is 50 plus 50?", "answer": "50 + 50 = 100\\n#### 100"}\n')


def benchmark_with_rows_that_are_left_out() -> None:
    Path("other.jsonl").write_text('{"question": "What is 50 plus 50?", "answer": "50 + 50 = 100\\n#### 100"}\n')
    change("task.yaml", dataset__overlap="drop", evaluation__benchmarks=[{"name": "gsm8k", "dataset": {"name": "other.jsonl"}}])


def outside_every_digest() -> None:
    """Logging, worker counts, batch shapes, documents, comments, order of keys, where Snakemake runs."""
    change("task.yaml", training__logging_steps=5, training__report_to="none", training__save_strategy="steps")
    change("task.yaml", training__per_device_train_batch_size=4, training__dataloader_num_workers=2)
    change("task.yaml", evaluation__batch_size=3)
    text = Path("task.yaml").read_text()
    task = read_mapping(Path("task.yaml"))
    write_config(Path("task.yaml"), dict(reversed(task.items())))
    Path("task.yaml").write_text("# a comment\n" + Path("task.yaml").read_text())
    assert Path("task.yaml").read_text() != text
    Path("README.md").write_text("docs")
    with Path("profiles/default/config.yaml").open("a") as file:
        file.write("\nprintshellcmds: true\n")


ALL = {"train": 4, "evaluate": 4, "tables": 1}
ONE_METHOD = {"train": 2, "evaluate": 2, "tables": 1}
CHANGES: dict[str, tuple[Callable[[], None], dict[str, int]]] = {
    "nothing": (lambda: None, {}),
    "logging, batch shapes, docs": (outside_every_digest, {}),
    "launch": (lambda: change("task.yaml", launch={"cpus_per_process": 2}), {}),
    "model: precision": (lambda: change("task.yaml", model__dtype="bfloat16"), ALL),
    "model: another base": (another_base_model, {"tokenize": 1, **ALL}),
    "peft": (lambda: change("lora.yaml", peft__r=3), ONE_METHOD),
    "training: of one method": (lambda: change("prompt.yaml", training__learning_rate=0.2), ONE_METHOD),
    "seeds: one more": (lambda: change("experiment.yaml", seeds=[0, 1, 2]), ONE_METHOD),
    "dataset: rows": (one_more_row, {"fetch": 1, "tokenize": 1, **ALL}),
    "template": (lambda: change("task.yaml", dataset__prompt_template="Q: {question}\nA:"), {"tokenize": 1, **ALL}),
    "evaluation: decoding": (
        lambda: change("task.yaml", evaluation__generation={"max_new_tokens": 9}),
        {"evaluate": 4, "tables": 1},
    ),
    "scoring: one more benchmark": (
        lambda: change("task.yaml", evaluation__benchmarks=["gsm8k", "exact_match"]),
        {"evaluate": 4, "tables": 1},
    ),
    "dataset: overlap": (lambda: change("task.yaml", dataset__overlap="drop"), {"tokenize": 1, **ALL}),
    "dataset: overlap with a benchmark's rows": (benchmark_with_rows_that_are_left_out, {"fetch": 1, "tokenize": 1, **ALL}),
    "merge": (lambda: change("experiment.yaml", merge=True), {"merge": 2}),
    "tables: words": (lambda: change("experiment.yaml", title="Another", caption="Said anew"), {"tables": 1}),
    "tables: order": (lambda: change("experiment.yaml", methods=["prompt.yaml", "lora.yaml"]), {"tables": 1}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_runs_exactly_what_depends_on_it(project: Path, name: str) -> None:
    make, expected = CHANGES[name]
    make()
    assert jobs(project) == expected


def remove(*patterns: str) -> None:
    for pattern in patterns:
        for path in [*Path().glob(pattern)]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def scramble() -> None:
    remove(".snakemake")
    rng = random.Random(0)
    for path in Path().rglob("*"):
        os.utime(path, (moment := rng.uniform(1e9, 1.7e9), moment))


def touch_everything() -> None:
    for path in Path().rglob("*"):
        path.touch()


def only_what_git_keeps() -> None:
    """A fresh clone: what .gitignore names is gone."""
    subprocess.run(["git", "init", "-q"], check=True)
    ignored = subprocess.run(
        ["git", "ls-files", "--others", "--ignored", "--exclude-standard", "--directory"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "results/adapters/" in ignored and "results/scores" not in ignored
    remove(*ignored.splitlines(), ".git")


LORA_0 = "*-lora-s0-*"
LOSSES: dict[str, tuple[Callable[[], None], dict[str, int]]] = {
    "Snakemake's memory and all clocks": (scramble, {}),
    "a touch of everything": (touch_everything, {}),
    "data": (lambda: remove("data"), {}),
    "all that git does not keep": (only_what_git_keeps, {}),
    "run and evaluation files": (lambda: remove("results/runs/*.yaml", "results/evaluations"), {}),
    "tables": (lambda: remove("results/tables"), {"tables": 1}),
    "one score": (lambda: remove(f"results/scores/{LORA_0}"), {"evaluate": 1, "tables": 1}),
    "one score and the data": (lambda: remove(f"results/scores/{LORA_0}", "data"), {"fetch": 1, "evaluate": 1, "tables": 1}),
    "one adapter's record and its score": (
        lambda: remove(f"results/scores/{LORA_0}", f"results/adapters/{LORA_0}/record.json"),
        {"train": 1, "evaluate": 1, "tables": 1},
    ),
    "one adapter, its score and all data": (
        lambda: remove(f"results/scores/{LORA_0}", f"results/adapters/{LORA_0}", "data"),
        {"fetch": 1, "tokenize": 1, "train": 1, "evaluate": 1, "tables": 1},
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_brings_back_only_what_is_needed_of_it(project: Path, name: str) -> None:
    lose, expected = LOSSES[name]
    lose()
    assert jobs(project) == expected


def test_a_lost_adapter_is_made_again_where_it_is_asked_for(project: Path) -> None:
    remove("results/adapters/*-prompt-s1-*")
    assert jobs(project) == {}
    assert jobs(project, "adapters") == {"train": 1}
    remove("data/raw")
    assert jobs(project, "data") == {"fetch": 1}


REMADE = {
    "fetch": {"rows", "tokens", "adapter", "score", "merged"},
    "tokenize": {"tokens", "adapter", "merged"},
    "train": {"adapter", "merged"},
    "evaluate": {"score"},
    "merge": {"merged"},
    "tables": {"tables"},
}


@pytest.mark.parametrize("stage", REMADE)
def test_a_bumped_protocol_renames_what_the_stage_makes_and_what_follows(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    write_config(Path("task.yaml"), causal_task("builtin:tiny-llama"))
    write_config(
        Path("e.yaml"), {"name": "e", "tasks": ["task.yaml"], "methods": [str(REPOSITORY / "configs/methods/lora.yaml")]}
    )

    def names() -> dict[str, str]:
        experiment = load_experiment(Path("e.yaml"), Store())
        (run,) = experiment.runs
        store = run.store
        return {
            "rows": run.rows,
            "tokens": run.tokens,
            "adapter": run.name,
            "score": run.evaluations[0].name,
            "merged": Run(run.config, store).merged.name,
            "tables": store.tables_record(experiment.to_dict(), []).name,
        }

    before = names()
    monkeypatch.setitem(store_module.PROTOCOL, stage, store_module.PROTOCOL[stage] + 1)
    after = names()
    assert {name for name in before if before[name] != after[name]} == REMADE[stage]

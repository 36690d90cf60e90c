"""The command line as a user meets it: processes, exit statuses, what stands on stdout and stderr."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import causal_task, lora_ns, write_config


@pytest.fixture
def task(workplace: Path, tiny_causal: Path) -> Path:
    return write_config(workplace / "task.yaml", causal_task(tiny_causal))


def test_train_evaluate_merge_make_what_is_missing_before_them(task: Path) -> None:
    done = lora_ns("evaluate", "--config", str(task))
    assert done.returncode == 0, done.stderr
    score = Path(done.stdout.splitlines()[0])
    content = json.loads(score.read_text())
    assert content["num_examples"] == 10 and content["main_metric"] in content["metrics"]
    assert f"{content['main_metric']}  " in done.stdout
    assert len(list(Path("data/raw").iterdir())) == 1
    before = {path: path.stat().st_mtime_ns for path in Path("results").rglob("*") if path.is_file()}
    again = lora_ns("train", "--config", str(task))
    assert again.returncode == 0 and Path(again.stdout.strip()) == Path("results/adapters") / content["run"]
    assert before == {path: path.stat().st_mtime_ns for path in before}
    merged = lora_ns("merge", "--config", str(task))
    assert merged.returncode == 0 and (Path(merged.stdout.strip()) / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "--config", "gone.yaml"], "there is no such file"),
        (["train", "--config", "task.yaml", "peft.rr=3"], "Did you mean 'r'?"),
        (["train", "--config", "task.yaml", "dataset.name=./sums/test.jsonll"], "there is no file"),
        (["train", "--config", "task.yaml", "dataset.response_template={answr}"], "Did you mean 'answer'?"),
        (["train", "--config", "task.yaml", "dataset.max_length=4"], "prompt alone fills max_length (4 tokens)"),
        (["train", "--config", "task.yaml", "model.name_or_path=./nowhere"], "there is no folder"),
        (["train", "--config", "task.yaml", "model.name_or_path=builtin:tiny-lama"], "Did you mean 'tiny-llama'?"),
        (["train", "--config", "task.yaml", "model.name_or_path=nobody/nothing"], "cannot be loaded"),
        (["evaluate", "--config", "task.yaml", "evaluation.benchmarks=[gsm9k]"], "Did you mean 'gsm8k'?"),
        (["validate", "task.yaml", "gone.yaml"], "there is no such file"),
        (["train"], "--config"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_is_one_paragraph_and_status_2(task: Path, words: list[str], expected: str) -> None:
    done = lora_ns(*words)
    assert done.returncode == 2, done.stderr
    assert expected in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr and done.stdout == ""
    assert not list(Path().glob("results/adapters/*")) and not list(Path().rglob("*.tmp-*"))


def test_an_unwritable_place_fails_with_status_1(task: Path) -> None:
    Path("data").write_text("a file where the folder should be")
    done = lora_ns("fetch", "--config", str(task))
    assert done.returncode == 1 and "cannot write" in done.stderr and "Traceback" not in done.stderr


def test_a_killed_training_leaves_nothing_that_counts_and_can_be_started_again(task: Path) -> None:
    long = ["train", "--config", str(task), "training.max_steps=400"]
    assert lora_ns("tokenize", "--config", str(task)).returncode == 0
    process = subprocess.Popen([sys.executable, "-m", "lora_ns", *long], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(Path().glob("results/adapters/.*tmp*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(Path().glob("results/adapters/*/record.json"))
    again = lora_ns("train", "--config", str(task), "training.max_steps=2")
    assert again.returncode == 0, again.stderr


def test_plan_lists_every_run_with_its_state(task: Path) -> None:
    write_config(Path("lora.yaml"), {"peft": {"method": "lora", "r": 2}})
    write_config(Path("e.yaml"), {"name": "e", "tasks": ["task.yaml"], "methods": ["lora.yaml"], "seeds": [0, 1]})
    lines = json.loads(lora_ns("plan", "e.yaml", "--json").stdout)["runs"]
    assert [(line["seed"], line["state"]) for line in lines] == [(0, "missing"), (1, "missing")]


def test_tables_of_an_unfinished_experiment_say_what_is_missing(task: Path) -> None:
    write_config(Path("lora.yaml"), {"peft": {"method": "lora", "r": 2}})
    write_config(Path("e.yaml"), {"name": "e", "tasks": ["task.yaml"], "methods": ["lora.yaml"], "seeds": [0]})
    done = lora_ns("tables", "e.yaml")
    assert done.returncode == 0, done.stderr
    assert "not evaluated yet" in (done.stdout + Path("results/tables/e/main.md").read_text())
    assert not list(Path("results").glob("adapters"))


def test_every_verb_explains_itself_with_an_example() -> None:
    import typer.main

    from lora_ns.cli import app

    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        assert "Example: lora-ns" in (command.help or ""), name

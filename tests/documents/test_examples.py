"""The scripts of examples/ run as they stand, on the project's own data and models."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file
from support import REPOSITORY, Run

from lora_ns.experiment.study import load_experiment

TINY = "training.max_steps=2 model.revision=null model.dtype=float32 dataset.revision=null"
WORD_PROBLEMS = (
    f"{TINY} model.name_or_path=builtin:tiny-llama dataset.name=builtin:word_problems dataset.max_length=160 "
    "'dataset.options={num_train: 48, num_validation: 8, num_test: 8}'"
)
SENTENCES = (
    f"{TINY} model.name_or_path=builtin:tiny-bert dataset.name=builtin:paraphrase dataset.max_length=64 "
    "'dataset.options={num_train: 48, num_validation: 8, num_test: 8}'"
)


def read_weights(adapter: Path) -> dict[str, Any]:
    return load_file(adapter / "adapter_model.safetensors")


def test_quick_start_trains_scores_and_says_how_to_ask(run: Run) -> None:
    done = run("python examples/quick_start.py training.max_steps=2 'evaluation.benchmarks=[perplexity]'")
    assert done.returncode == 0, done.stderr
    assert "adapter: results/adapters/my_task-tiny-llama-lora-s0-" in done.stdout
    assert re.search(r"perplexity: loss \d\.\d{3}", done.stdout)
    ask = done.stdout.split("ask it: ")[1].replace('"…"', "'What is 2 plus 2?'")
    answered = run(ask.replace("evaluation.benchmarks=[perplexity]", ""))
    assert answered.returncode == 0 and answered.stdout.strip(), answered.stderr
    wrong = run("python examples/quick_start.py training.lerning_rate=1")
    assert wrong.returncode == 2 and "learning_rate" in wrong.stderr and "Traceback" not in wrong.stderr


def test_train_glue_trains_and_scores_a_task(run: Run, clone: Path) -> None:
    done = run(f"examples/train_glue.sh mrpc {SENTENCES}")
    assert done.returncode == 0, done.stderr
    assert re.search(r"accuracy +\d\.\d{4}\n +f1 ", done.stdout)
    assert len(list((clone / "results/adapters").glob("glue_mrpc-tiny-bert-lora-*/adapter_model.safetensors"))) == 1
    assert run(f"examples/train_glue.sh {SENTENCES}").stdout == done.stdout, "mrpc is what it takes by itself"
    unknown = run("examples/train_glue.sh mrcp")
    assert unknown.returncode == 2 and "glue_mrpc.yaml" in unknown.stderr


def test_train_metamath_ends_in_a_merged_model(run: Run, clone: Path) -> None:
    columns = "'dataset.columns={instruction: question, output: answer}' dataset.eval_split=test"
    done = run(f"examples/train_metamath.sh {WORD_PROBLEMS} {columns} 'evaluation.benchmarks=[gsm8k]'")
    assert done.returncode == 0, done.stderr
    merged = clone / done.stdout.splitlines()[-1]
    assert (merged / "model.safetensors").is_file() and merged.is_relative_to(clone / "results/merged")
    run_file = next((clone / "results/runs").glob(f"{merged.name.rsplit('-', 1)[0]}.yaml"))
    assert "max_samples: 40000" in run_file.read_text()


def test_train_multi_gpu_trains_one_run_with_two_processes(run: Run, clone: Path) -> None:
    # without dropout, whose masks hang on which process a row is in
    settings = "training.max_steps=3 peft.lora_dropout=0.0 'evaluation.benchmarks=[perplexity]'"
    done = run(f"LAUNCH=configs/launch/ddp.yaml examples/train_multi_gpu.sh configs/template.yaml {settings}")
    assert done.returncode == 0, done.stderr
    folders = [line for line in done.stdout.splitlines() if line.startswith("results/adapters/")]
    assert len(folders) == 1, "the first process alone says where the adapter lies"
    shared = read_weights(clone / folders[0])
    record = json.loads((clone / folders[0] / "record.json").read_text())
    assert record["circumstances"]["processes"] == 2
    shutil.move(clone / folders[0], clone / "shared")
    assert run(f"lora-ns train --config configs/template.yaml {settings}").stdout.splitlines() == folders
    for name, alone in read_weights(clone / folders[0]).items():
        assert abs(shared[name] - alone).max() <= 1e-4 * abs(alone).max(), name


def test_run_inference_answers_a_question_and_a_file(run: Run, clone: Path) -> None:
    settings = "training.max_steps=2"
    asked = run(f"examples/run_inference.sh configs/template.yaml 'What is 2 plus 2?' {settings}")
    assert asked.returncode == 0 and asked.stdout.strip(), asked.stderr
    (clone / "questions.jsonl").write_text('{"question": "1 + 1?"}\n{"question": "2 + 2?"}\n')
    done = run(f"examples/run_inference.sh configs/template.yaml questions.jsonl answers.jsonl {settings}")
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in (clone / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 2
    alone = run("examples/run_inference.sh configs/template.yaml")
    assert alone.returncode == 2 and alone.stderr.startswith("usage: examples/run_inference.sh CONFIG")


def test_the_own_task_is_a_valid_experiment_of_two_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    runs = load_experiment(Path("examples/own_task/experiment.yaml")).runs
    assert {(run.config.task_name, run.config.method) for run in runs} == {("own_task", "lora"), ("own_task", "prefix_tuning")}
    assert {run.config.seed for run in runs} == {0, 1, 2}


def test_every_example_is_named_in_the_list_and_runnable() -> None:
    listed = (REPOSITORY / "examples/README.md").read_text()
    for path in (REPOSITORY / "examples").iterdir():
        assert f"examples/{path.name}" in listed or path.name == "README.md", path
        assert path.suffix != ".sh" or os.access(path, os.X_OK), path
    for path in set(re.findall(r"examples/[\w./]+\.(?:sh|py|yaml)", listed)):
        assert (REPOSITORY / path).is_file(), path

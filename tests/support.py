"""What tests build small runs from: rows, configs, the command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

Run = Callable[[str], subprocess.CompletedProcess[str]]
"""Runs a block of shell (tests/documents)."""

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"


def sums(count: int, start: int = 0) -> list[dict[str, str]]:
    """Rows of questions about sums, in GSM8K's form."""
    pairs = [(i % 9 + 1, i // 9 % 9 + 1) for i in range(start, start + count)]
    return [{"question": f"What is {a} plus {b}?", "answer": f"{a} + {b} = {a + b}\n#### {a + b}"} for a, b in pairs]


def causal_task(model: Path | str, **sections: object) -> dict[str, object]:
    """A small task config for generation, as plain values."""
    return {
        "task_name": "sums",
        "task_type": "causal_lm",
        "model": {"name_or_path": str(model)},
        "peft": {"method": "lora", "r": 4, "lora_alpha": 8, "target_modules": "all-linear"},
        "dataset": {
            "name": "./sums",
            "prompt_template": "Question: {question}\nAnswer:",
            "response_template": " {answer}",
            "max_length": 64,
        },
        "training": {"max_steps": 3, "global_batch_size": 8, "learning_rate": 1e-2},
        "evaluation": {"benchmarks": ["gsm8k"], "generation": {"max_new_tokens": 8}},
        **sections,
    }


def write_config(path: Path, content: object) -> Path:
    """The content as a YAML file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


APART = {"fuse": "never", "in_turn": 1}
"""A job for every run, as large models have it, so that jobs can be counted."""


def write_study(folder: Path, model: Path | str, sweep: Mapping[str, object] = APART) -> None:
    """Everything that an experiment of two methods and two seeds is written in: rows, task, methods, experiment.yaml."""
    (folder / "sums").mkdir(parents=True)
    for split, rows in {"train": sums(40), "test": sums(10, 45)}.items():
        (folder / "sums" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_config(folder / "task.yaml", causal_task(model))
    write_config(folder / "lora.yaml", {"peft": {"method": "lora", "r": 2, "target_modules": "all-linear"}})
    prompt = {"peft": {"method": "prompt_tuning", "num_virtual_tokens": 2}, "training": {"learning_rate": 0.1}}
    write_config(folder / "prompt.yaml", prompt)
    experiment = {"name": "sums", "tasks": ["task.yaml"], "methods": ["lora.yaml", "prompt.yaml"], "seeds": [0, 1]}
    write_config(folder / "experiment.yaml", {**experiment, "baseline": "lora", "sweep": dict(sweep)})


def lora_ns(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command line, as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "lora_ns", *words], cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )


def run_in(clone: Path, block: str) -> subprocess.CompletedProcess[str]:
    """Runs a block of shell in a clone, each line of it having to succeed."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(clone / "src")}
    # the environment is shared with the tests: `make` must not bring it up to date with the clone's files
    block = re.sub(r"^make ", "make --no-print-directory -o .venv/.ready ", block, flags=re.M)
    return subprocess.run(
        ["bash", "-c", "set -euo pipefail\n" + block],
        cwd=clone, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


def evaluate(run: Any, evaluation: Any, **named: Any) -> Path:
    """The score file of one run, made where it is missing; raises why there is none."""
    from lora_ns.evaluation.evaluate import evaluate_runs

    (found,) = evaluate_runs([run], evaluation, **named).values()
    if isinstance(found, Exception):
        raise found
    return found

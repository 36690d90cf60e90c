"""An experiment with scores and predictions drawn from a known model, for the tests of the report: no results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support import causal_task, write_config
from synthetic_scores import classification_score, generation_score, history

from lora_ns.config.text_files import replace_text
from lora_ns.experiment.study import load_experiment
from lora_ns.store import record
from lora_ns.store.evaluation_file import write_evaluation_file
from lora_ns.store.paths import Store
from lora_ns.store.run import Run

HOSTILE = '</script><script>document.title = "run"</script><img src=x onerror="document.title=1">'
"""What a model might write."""


def write_experiment(
    folder: Path, methods: Sequence[str] = ("none", "lora", "full"), seeds: Sequence[int] = (0, 1, 2), tasks: int = 1
) -> Path:
    """`tasks` tasks that generate and one that classifies; methods beyond the known names are LoRA under other names."""
    files = []
    for number in range(tasks):
        task = causal_task("builtin:tiny-llama", task_name=f"sums_{number}" if number else "sums")
        dataset = {**task["dataset"], "name": "builtin:word_problems"}  # type: ignore[dict-item]
        files.append(write_config(folder / f"sums_{number}.yaml", {**task, "dataset": dataset}))
    pairs: dict[str, Any] = {
        "task_name": "pairs",
        "task_type": "classification",
        "model": {"name_or_path": "builtin:tiny-bert"},
        "dataset": {
            "name": "builtin:paraphrase", "text_columns": ["sentence1", "sentence2"], "labels": ["no", "yes"]
        },
        "evaluation": {"benchmarks": ["glue_mrpc"]},
    }  # fmt: skip
    files.append(write_config(folder / "pairs.yaml", pairs))
    entries = []
    for number, method in enumerate(methods):
        known = method if method in ("none", "full") else "lora"
        peft = {"method": known} | ({"r": 2 + number} if known == "lora" else {})
        write_config(folder / "methods" / f"{method}.yaml", {"peft": peft})
        entries.append(f"methods/{method}.yaml")
    content = {
        "name": "e",
        "title": "A <b>comparison</b> & more",
        "tasks": [path.name for path in files],
        "methods": entries,
        "seeds": list(seeds),
        "baseline": methods[1],
    }
    return write_config(folder / "experiment.yaml", content)


def write_results(experiment: Path, num_examples: int = 40, with_predictions: bool = True) -> None:
    """A score of every run, as evaluation would write it, and its predictions; in the current folder."""
    store = Store()
    for run in load_experiment(experiment, store).runs:
        Run(run.config, store).write_file()
        for evaluation in run.evaluations:
            write_evaluation_file(evaluation, store)
        score = _score(run, num_examples)
        replace_text(run.scores[0], json.dumps(record.sealed(score)))
        if with_predictions:
            lines = _generated(score) if run.config.task_type == "causal_lm" else _classified(score)
            path = store.predictions(run.name, run.evaluations[0].name)
            replace_text(path, "".join(json.dumps(line) + "\n" for line in lines))


def _score(run: Run, num_examples: int) -> dict[str, Any]:
    config = run.config
    make = generation_score if config.task_type == "causal_lm" else classification_score
    accuracy = {"none": 0.1, "lora": 0.55, "full": 0.7}.get(config.method, 0.5 + len(config.method) / 50)
    score = make(config.task_name, config.method, config.seed, accuracy, num_examples)
    names = {"run": run.name, "evaluation": run.evaluations[0].name, "model": config.model.name_or_path}
    trained = {"code": {"commit": "fedcba9876543210", "dirty": False}, "packages": {"torch": "2.13.0"}}
    if config.method != "none":
        trained |= {"history": history(config.method, config.seed, 60)}
    return score | names | {"peft_method": config.peft.method, "trained": trained}


def _generated(score: dict[str, Any]) -> list[dict[str, Any]]:
    examples = score["examples"]
    return [
        {
            "id": identity,
            "prompt": f"Question: What is {i} plus {i + 1}?\nAnswer:",
            "completions": [f" {i} + {i + 1} = {2 * i + right}\n#### {2 * i + right} {HOSTILE + chr(0x2028) if i == 3 else ''}"],
            "parsed": str(2 * i + right),
            "reference": str(2 * i + 1),
            "scores": {name: values[i] for name, values in examples["scores"].items()},
        }
        for i, (identity, right) in enumerate(zip(examples["id"], examples["scores"][score["main_metric"]], strict=True))
    ]


def _classified(score: dict[str, Any]) -> list[dict[str, Any]]:
    examples = score["examples"]
    return [
        {
            "id": identity,
            "texts": [f"The cat {i} sat.", f"A cat {i} was sitting."],
            "probabilities": examples["probabilities"][i],
            "prediction": examples["prediction"][i],
            "reference": examples["reference"][i],
            "scores": {"accuracy": float(examples["prediction"][i] == examples["reference"][i])},
        }
        for i, identity in enumerate(examples["id"])
    ]

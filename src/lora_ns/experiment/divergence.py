"""Trials that diverge.  A setting whose loss is not finite has failed the search, not the workflow: that is its result.

Its adapter is a record that says so, and holds nothing else; its score holds no value.  Whoever wants to use such an
adapter is refused with the reason (`store.read_record`).
"""

from __future__ import annotations

import json
from pathlib import Path

from lora_ns.benchmarks import benchmark
from lora_ns.config.text_files import replace_text
from lora_ns.store import record
from lora_ns.store.artifact import atomic_artifact, read_record
from lora_ns.store.evaluation_file import EvaluationRequest
from lora_ns.store.run import Run


def keep_divergence(run: Run, reason: str) -> Path:
    """The record of a run that diverged, in the adapter's place; returns its folder."""
    with atomic_artifact(run.adapter) as (_, notes):
        notes |= record.describe(
            "train",
            run.digest,
            run.config.model_dump(exclude={"evaluation", "merge"}),
            inputs={"tokens": run.tokens.name},
            run=run.name,
            diverged=reason,
        )
    run.store.failure(run.name).unlink(missing_ok=True)
    return run.adapter


def score_divergence(run: Run, evaluation: EvaluationRequest) -> Path | None:
    """The score of a trial that diverged, which holds no value; None where it is there, and for every other run.

    Raises TrainingError for a run that diverged and is asked test rows.
    """
    config, path = run.config, run.score(evaluation)
    if path.is_file():
        return None
    trained = read_record(run.adapter, diverged_too=evaluation.split == "validation")
    if "diverged" not in trained:
        return None
    spec = benchmark(evaluation.benchmark)
    content = {
        "task": config.task_name,
        "task_type": config.task_type,
        "model": config.model.name_or_path,
        "method": config.method,
        "seed": config.seed,
        "run": run.name,
        "benchmark": spec.name,
        "evaluation": evaluation.name,
        "main_metric": spec.main_metric,
        "metrics": {},
        "num_examples": 0,
        "diverged": trained["diverged"],
    }
    content |= record.describe("evaluate", evaluation.digest, evaluation.to_dict(), inputs={"adapter": run.name})
    replace_text(path, json.dumps(record.sealed(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return path

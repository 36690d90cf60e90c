"""Diverged trials.  A trial whose loss is not finite has divergence as its result, and the workflow goes on.

Its adapter folder holds only a record with the reason.  Its score has no value.  Reading such an adapter raises
TrainingError with the reason (`store.artifact.read_record`).
"""

import json
from pathlib import Path

from lora_ns.benchmarks import benchmark
from lora_ns.config.text_files import replace_text
from lora_ns.store import record
from lora_ns.store.artifact import atomic_artifact, read_record
from lora_ns.store.evaluation_file import EvaluationRequest
from lora_ns.store.run import Run


def keep_divergence(run: Run, reason: str) -> Path:
    """Write the record of a diverged run in place of its adapter.  Returns its folder."""
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
    """Write a diverged trial's score without a value.  Returns its path.  None if it exists or the run did not diverge.

    Raises TrainingError if a diverged run is evaluated on another split than validation.
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

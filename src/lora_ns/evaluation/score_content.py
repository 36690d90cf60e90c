"""What a score file contains: metrics, what was trained, and what it cost."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_ns.config import DatasetConfig, RunConfig
from lora_ns.evaluation.eval_set import EvalSet
from lora_ns.evaluation.scoring import EvalResult


def unpinned(*datasets: DatasetConfig) -> list[str]:
    return [
        f"the revision of data set {data.name} is not pinned (dataset.revision)"
        for data in datasets
        if data.is_hub and data.revision is None
    ]


def score_content(config: RunConfig, eval_set: EvalSet, outcome: EvalResult, trained: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "task": config.task_name,
        "task_type": config.task_type,
        "model": config.model.name_or_path,
        "method": config.method,
        "peft_method": config.peft.method,
        "seed": config.seed,
        "run": trained["run"],
        "benchmark": eval_set.spec.name,
        "evaluation": eval_set.evaluation.name,
        "main_metric": eval_set.spec.main_metric,
        "metrics": outcome.metrics,
        "num_examples": len(eval_set.rows),
        "examples": outcome.examples,
        "unsafe_sandbox": eval_set.evaluation.sandbox == "unsafe",
        "trained": {key: trained[key] for key in TRAINED},
    }


def cost_of(trained: Mapping[str, Any], asked: Mapping[str, Any], adapter: Path) -> dict[str, Any]:
    """Cost of the run by part, null if not measured.  asked: figures of the evaluation."""
    train = trained["circumstances"]
    weights = [facts["bytes"] for name, facts in trained["outputs"].items() if name.endswith(".safetensors")]

    def figure(of: Mapping[str, Any], kind: str, part: str) -> Any:
        return of.get(kind, {}).get(part)

    return {
        "trainable_parameters": trained["parameters"]["trainable"],
        "total_parameters": trained["parameters"]["total"],
        "adapter_bytes": sum(weights),
        "train_seconds": figure(train, "seconds", "training"),
        "train_tokens": (trained["training"] or {}).get("tokens_seen"),
        "train_peak_memory_bytes": figure(train, "peak_gpu_memory_bytes", "training")
        or figure(train, "peak_memory_bytes", "training"),
        "evaluate_seconds": figure(asked, "seconds", "evaluating"),
        "evaluate_peak_memory_bytes": figure(asked, "peak_gpu_memory_bytes", "evaluating")
        or figure(asked, "peak_memory_bytes", "evaluating"),
    }


TRAINED = ("code", "packages", "steps", "training", "parameters", "inputs", "outputs", "circumstances")
"""Fields of the adapter's record that a score file contains, so it can be traced without the adapter."""

"""The metrics of each GLUE task, as in the GLUE paper.

    glue_metrics("mrpc", predictions=[1, 0, 1], references=[1, 1, 1])  ->  {"accuracy": 0.667, "f1": 0.8}

Every value is a fraction; a constant prediction has Matthews, Pearson and Spearman correlation 0.0, never NaN.

Source: Wang et al. 2018 (arXiv 1804.07461), table 1.  F1 is that of the positive class, label 1.
"""

from collections.abc import Sequence
from typing import Any

from lora_ns.benchmarks.scorers.labels import Metric, accuracy, f1, matthews_correlation, pearson, spearman
from lora_ns.errors import ConfigError

_ACCURACY: dict[str, Metric] = {"accuracy": accuracy}
_ACCURACY_AND_F1: dict[str, Metric] = {"accuracy": accuracy, "f1": f1}

GLUE_METRICS: dict[str, dict[str, Metric]] = {
    "cola": {"matthews_correlation": matthews_correlation},
    "sst2": _ACCURACY,
    "mrpc": _ACCURACY_AND_F1,
    "qqp": _ACCURACY_AND_F1,
    "stsb": {"pearson": pearson, "spearman": spearman},
    "mnli": _ACCURACY,
    "mnli_matched": _ACCURACY,
    "mnli_mismatched": _ACCURACY,
    "qnli": _ACCURACY,
    "rte": _ACCURACY,
    "wnli": _ACCURACY,
}
"""Task -> metric name -> metric.  The first metric is the one reported in papers on PEFT methods: Matthews for CoLA,
Pearson for STS-B, accuracy for the others (Hu et al. 2021, arXiv 2106.09685, table 2)."""


def glue_metrics(task: str, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
    """Return all metrics of one task.  predictions, references: [N] labels, for stsb [N] similarities."""
    if task not in GLUE_METRICS:
        raise ConfigError(f"there is no GLUE task {task!r}. Known: {', '.join(sorted(GLUE_METRICS))}.")
    return {name: metric(predictions, references) for name, metric in GLUE_METRICS[task].items()}

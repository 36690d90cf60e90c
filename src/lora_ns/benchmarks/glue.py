"""GLUE: nine sentence-understanding tasks and their metrics.

    row          {"sentence1": "…", "sentence2": "…", "label": 1}
    prediction   1
    metrics      glue_mrpc: accuracy and F1

STS-B is a regression, the others are classification.  MNLI's matched and mismatched sets are separate benchmarks;
`glue_mnli` is the matched one.  `classification` and `regression` are for your own data.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from lora_ns.benchmarks import Benchmark
from lora_ns.benchmarks.scorers.glue_metrics import GLUE_METRICS, glue_metrics
from lora_ns.benchmarks.scorers.labels import (
    Metric,
    accuracy,
    macro_f1,
    matthews_correlation,
    mean_absolute_error,
    mean_squared_error,
    pearson,
    spearman,
)


def _glue(task: str) -> Benchmark:
    names = tuple(GLUE_METRICS[task])
    return Benchmark(
        name=f"glue_{task}",
        kind="regression" if task == "stsb" else "classification",
        main_metric=names[0],
        metrics=names,
        metrics_of_labels=partial(glue_metrics, task),
    )


def _all_of(metrics: dict[str, Metric]) -> Callable[[Sequence[Any], Sequence[Any]], dict[str, float]]:
    return lambda predictions, references: {name: of(predictions, references) for name, of in metrics.items()}


_CLASSIFICATION: dict[str, Metric] = {"accuracy": accuracy, "macro_f1": macro_f1, "matthews_correlation": matthews_correlation}
_REGRESSION: dict[str, Metric] = {
    "pearson": pearson,
    "spearman": spearman,
    "mean_squared_error": mean_squared_error,
    "mean_absolute_error": mean_absolute_error,
}

BENCHMARKS = [
    *(_glue(task) for task in GLUE_METRICS),
    Benchmark(
        name="classification",
        kind="classification",
        main_metric="accuracy",
        metrics=tuple(_CLASSIFICATION),
        metrics_of_labels=_all_of(_CLASSIFICATION),
    ),
    Benchmark(
        name="regression",
        kind="regression",
        main_metric="pearson",
        metrics=tuple(_REGRESSION),
        metrics_of_labels=_all_of(_REGRESSION),
    ),
]

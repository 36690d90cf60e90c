"""The experiment's values in the formats of `dvc metrics` and `dvc plots`.

The file names hold no digest, so that DVC can compare the values of two commits.
"""

import csv
import io
import json
from statistics import fmean
from typing import Any

from lora_ns.reporting.results import Block, Results


def metrics_json(results: Results) -> str:
    """Return JSON: task -> benchmark (and model, if a task has several) -> method -> metric -> mean over seeds."""
    found: dict[str, dict[str, Any]] = {}
    for block in results.blocks:
        for method in results.methods:
            values = {metric: _values(results, block, method, metric) for metric in results.metrics(block)}
            means = {metric: round(fmean(v.values()), 10) for metric, v in values.items() if v}
            if means:
                found.setdefault(block.task, {}).setdefault(_asked(results, block), {})[method] = means
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def points_csv(results: Results) -> str:
    """Return CSV with configuration, seed and value: the main metric of every score."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["configuration", "seed", "value"])
    for block in results.blocks:
        for metric in results.metrics(block)[:1]:
            for method in results.methods:
                for seed, value in _values(results, block, method, metric).items():
                    writer.writerow([f"{block.title}: {method}", seed, f"{value:.10g}"])
    return text.getvalue()


def _values(results: Results, block: Block, method: str, metric: str) -> dict[int, float]:
    """Return seed -> value of one metric."""
    scores = results.cell(block, method)
    return {s.seed: value for s in scores if (value := s.metrics.get(metric)) is not None}


def _asked(results: Results, block: Block) -> str:
    alone = sum((b.task, b.benchmark) == (block.task, block.benchmark) for b in results.blocks) == 1
    return block.benchmark if alone else f"{block.benchmark} {block.model}"

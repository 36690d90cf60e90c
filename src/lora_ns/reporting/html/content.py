"""The data of the report's first view: the paper's tables, one entry per run, and the figures' data."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lora_ns.benchmarks import metric_names
from lora_ns.experiment.study import Study, read_trials
from lora_ns.reporting.html.read import ReadRun
from lora_ns.reporting.statistics import calibration

COSTS = {
    "trainable_parameters": "trainable parameters",
    "train_seconds": "training time (s)",
    "train_peak_memory_bytes": "training memory (bytes)",
}
"""Cost column that quality is plotted against -> axis label."""


def overview(experiment: Study, runs: Sequence[ReadRun], tables: Path) -> dict[str, Any]:
    """Return the page's data as plain values.  tables: results/tables/<experiment>, which must be up to date."""
    metrics = dict.fromkeys(metric for run in runs for score in run.scores for metric in score["metrics"])
    return {
        "name": experiment.name,
        "title": experiment.title,
        "caption": experiment.caption,
        "tasks": experiment.tasks,
        "methods": experiment.methods,
        "seeds": experiment.seeds,
        "baseline": experiment.baseline,
        "metrics": {
            name: {
                "heading": metric_names.heading(name),
                "scale": metric_names.print_factor(name),
                "decimals": metric_names.decimals(name),
            }
            for name in metrics
        },
        "costs": COSTS,
        "tables": json.loads((tables / "tables.json").read_text(encoding="utf-8")),
        "runs": [_line(run) for run in runs],
        "quality": _quality(tables),
        "curves": _curves(runs),
        "trials": read_trials(experiment.choice) if experiment.choice else [],
        "calibration": _calibrations(runs),
    }


def _line(run: ReadRun) -> dict[str, Any]:
    config = run.run.config
    results = [
        {
            "benchmark": score["benchmark"],
            "evaluation": score["evaluation"],
            "main": score["main_metric"],
            "metrics": score["metrics"],
            "n": score["num_examples"],
        }
        for score in run.scores
    ]
    return {
        "name": run.name,
        "task": config.task_name,
        "model": config.model.name_or_path,
        "method": config.method,
        "seed": config.seed,
        "state": run.state,
        "reason": run.reason,
        "results": results,
        "cost": run.scores[0].get("cost", {}) if run.scores else {},
    }


def _quality(tables: Path) -> list[dict[str, Any]]:
    """Return each block's main metric by method, with its interval and cost: the points of the Pareto figure.

    The numbers come from the CSV tables, so that figure and table cannot disagree.
    """
    costs = {(row["task"], row["model"], row["method"]): row for row in _rows(tables / "cost.csv")}
    blocks: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for row in _rows(tables / "main.csv"):
        if row["mean"]:
            blocks.setdefault((row["task"], row["benchmark"], row["model"]), []).append(row)
    found = []
    for (task, benchmark, model), rows in blocks.items():
        main = rows[0]["metric"]
        points = [
            {
                "method": row["method"],
                **{key: _number(row[key]) for key in ("mean", "low", "high")},
                "costs": {kind: _number(costs[task, model, row["method"]][kind]) for kind in COSTS},
                # the memory of runs trained together is that of the whole group
                "fused": int(costs[task, model, row["method"]]["num_fused"]) > 0,
            }
            for row in rows
            if row["metric"] == main
        ]
        found.append({"task": task, "benchmark": benchmark, "model": model, "metric": main, "points": points})
    return found


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _number(text: str) -> float | None:
    return float(text) if text else None


def history_of(run: ReadRun) -> list[dict[str, float]]:
    """Return the run's training loss as [{step, loss}]; [] if its scores hold none."""
    return next((score["trained"]["history"] for score in run.scores if score.get("trained", {}).get("history")), [])


def _curves(runs: Sequence[ReadRun]) -> list[dict[str, Any]]:
    """Return the loss by step of each task, model and method: mean, lowest and highest over seeds."""
    groups: dict[tuple[str, str, str], list[list[dict[str, float]]]] = {}
    for run in runs:
        config = run.run.config
        if history := history_of(run):
            groups.setdefault((config.task_name, config.model.name_or_path, config.method), []).append(history)
    curves = []
    for (task, model, method), histories in groups.items():
        end = min(history[-1]["step"] for history in histories)
        steps = sorted({point["step"] for history in histories for point in history if point["step"] <= end})
        loss = np.array([np.interp(steps, [p["step"] for p in h], [p["loss"] for p in h]) for h in histories])
        bands = {"mean": loss.mean(0), "low": loss.min(0), "high": loss.max(0)}
        values = {name: [round(float(v), 5) for v in band] for name, band in bands.items()}
        names = {"task": task, "model": model, "method": method, "seeds": len(histories)}
        curves.append({**names, "steps": steps, **values})
    return curves


def _calibrations(runs: Sequence[ReadRun]) -> list[dict[str, Any]]:
    """Return the calibration of classifiers with probabilities, pooled over the seeds of a method."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for run in runs:
        for score in run.scores:
            if score["examples"].get("probabilities") and score["examples"].get("reference"):
                key = (score["task"], score["benchmark"], score["method"])
                groups.setdefault(key, []).append(score["examples"])
    found = []
    for (task, benchmark, method), examples in groups.items():
        probabilities = np.concatenate([np.array(e["probabilities"]) for e in examples])
        made = calibration(probabilities, np.concatenate([np.array(e["reference"]) for e in examples]))
        bins = [
            [round(float(c), 4), round(float(a), 4), int(n)]
            for c, a, n in zip(made.confidence, made.accuracy, made.count, strict=True)
            if n
        ]
        found.append({"task": task, "benchmark": benchmark, "method": method, "error": made.error, "bins": bins})
    return found

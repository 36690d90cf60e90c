"""The figure of validation score by learning rate, from the search on the validation split."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from lora_ns.benchmarks import metric_names
from lora_ns.reporting.figures.style import grid, legend, look, plain
from lora_ns.reporting.results import Results

PARAMETER = "training.learning_rate"


def learning_rate(results: Results, trials: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Return the figure, None if no learning rate was searched.

    trials: as for `tuning_frame`; the figure averages over other parameters.
    """
    tried = [t for t in trials if PARAMETER in t["setting"] and t.get("value") is not None]
    tasks = [task for task in results.tasks if any(t["task"] == task for t in tried)]
    if not tasks:
        return None
    figure, axes = grid(len(tasks))
    for task, ax in zip(tasks, axes, strict=True):
        of_task = [t for t in tried if t["task"] == task]
        metric = str(of_task[0].get("metric", ""))
        scale = metric_names.print_factor(metric)
        for method in results.methods:
            values: dict[float, list[float]] = {}
            for trial in (t for t in of_task if t["method"] == method):
                values.setdefault(float(trial["setting"][PARAMETER]), []).append(trial["value"] * scale)
            if not values:
                continue
            rates = sorted(values)
            means = [float(np.mean(values[rate])) for rate in rates]
            style = look(results.methods, method)
            ax.plot(rates, means, label=plain(method), **style)
            chosen = {float(t["setting"][PARAMETER]) for t in of_task if t["method"] == method and t.get("chosen")}
            ringed = [(rate, mean) for rate, mean in zip(rates, means, strict=True) if rate in chosen]
            for rate, mean in ringed:
                ax.plot(rate, mean, marker="o", markersize=11, fillstyle="none", color=style["color"], markeredgewidth=1)
        ax.set_xscale("log")
        rates = sorted({float(t["setting"][PARAMETER]) for t in of_task})
        ax.xaxis.set_major_locator(FixedLocator(rates))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_title(plain(task), loc="left")
        ax.set_xlabel("learning rate")
        ax.set_ylabel(plain(f"validation {metric_names.heading(metric)}"))
    legend(figure, axes)
    return figure

"""The figure of training loss by step: mean over seeds, with a band from the lowest to the highest seed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lora_ns.reporting.figures.style import grid, legend, look, plain
from lora_ns.reporting.results import Results

POINTS = 60
"""The most points of a curve; longer histories are averaged in this many windows, which also smooths them."""


def learning_curves(results: Results) -> Figure | None:
    """Return the figure, None if no score holds a loss curve."""
    histories = _histories(results)
    pairs = list(dict.fromkeys((task, model) for task, model, _ in histories))
    if not pairs:
        return None
    figure, axes = grid(len(pairs))
    for (task, model), ax in zip(pairs, axes, strict=True):
        for method in results.methods:
            _curve(ax, results, method, histories.get((task, model, method), []))
        ax.set_title(plain(f"{task}\n{model}"), loc="left")
        ax.set_xlabel("step")
    axes[0].set_ylabel("training loss")
    legend(figure, axes)
    return figure


def _histories(results: Results) -> dict[tuple[str, str, str], list[NDArray[np.float64]]]:
    """Return (task, model, method) -> one array (step, loss) [n, 2] per run."""
    found: dict[tuple[str, str, str], list[NDArray[np.float64]]] = {}
    seen = set()
    for score in sorted(results.scores, key=lambda s: (s.run, s.benchmark)):
        points = _points(score.history)
        if score.run not in seen and len(points):
            found.setdefault((score.task, score.model, score.method), []).append(points)
            seen.add(score.run)
    order = {task: i for i, task in enumerate(results.tasks)}
    return dict(sorted(found.items(), key=lambda item: (order[item[0][0]], item[0])))


def _points(history: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    kept = [(entry["step"], entry["loss"]) for entry in history if entry.get("loss") is not None and "step" in entry]
    return np.array(kept, dtype=float).reshape(-1, 2)


def _curve(ax: Axes, results: Results, method: str, seeds: list[NDArray[np.float64]]) -> None:
    if not seeds:
        return
    end = min(points[-1, 0] for points in seeds)
    steps = np.unique(np.concatenate([points[:, 0] for points in seeds]))
    steps = steps[steps <= end]
    loss = np.stack([np.interp(steps, points[:, 0], points[:, 1]) for points in seeds])
    if steps.size > POINTS:
        windows = np.array_split(np.arange(steps.size), POINTS)
        steps = np.array([steps[w].mean() for w in windows])
        loss = np.stack([loss[:, w].mean(axis=1) for w in windows], axis=1)
    style = look(results.methods, method)
    every = max(1, steps.size // 6)
    ax.plot(steps, loss.mean(axis=0), label=plain(method), markevery=every, markersize=3.5, **style)
    if len(seeds) > 1:
        ax.fill_between(steps, loss.min(axis=0), loss.max(axis=0), color=style["color"], alpha=0.18, linewidth=0)

"""The calibration figure of classifiers: accuracy against predicted probability, and expected calibration error."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lora_ns.reporting.figures.style import look, panels, plain
from lora_ns.reporting.results import Block, Results
from lora_ns.reporting.statistics import Calibration, calibration

BINS = 10
FEWEST = 5
"""Fewest examples of a bin that is drawn: with fewer, its accuracy is noise."""


def reliability(results: Results) -> Figure | None:
    """Return the figure, None if no score holds probabilities."""
    found = {block: _calibrations(results, block) for block in results.blocks}
    found = {block: of_block for block, of_block in found.items() if of_block}
    if not found:
        return None
    figure, axes = panels(len(found), 2, height=max(2.8, 0.8 + 0.17 * len(results.methods)))
    for (block, of_block), (curves, errors) in zip(found.items(), axes, strict=True):
        _draw_curves(curves, results, of_block)
        _draw_errors(errors, results, of_block)
        curves.set_title(plain(block.title), loc="left")
    return figure


def _draw_curves(ax: Axes, results: Results, of_block: dict[str, Calibration]) -> None:
    lowest = 1.0
    for method, found in of_block.items():
        drawn = found.count >= FEWEST
        ax.plot(found.confidence[drawn], found.accuracy[drawn], markersize=4, **look(results.methods, method))
        lowest = min(lowest, *found.confidence[drawn], *found.accuracy[drawn])
    ax.plot([0, 1], [0, 1], color="0.4", linewidth=0.8, linestyle=":")
    ax.set_xlim(max(0.0, lowest - 0.05), 1.02)
    ax.set_ylim(max(0.0, lowest - 0.05), 1.02)
    ax.set_xlabel("predicted probability")
    ax.set_ylabel("accuracy")


def _draw_errors(ax: Axes, results: Results, of_block: dict[str, Calibration]) -> None:
    """Draw one row per method; its marker here is also the legend of the curves."""
    for place, (method, found) in enumerate(of_block.items()):
        style = look(results.methods, method)
        ax.plot([0, 100 * found.error], [place, place], color=style["color"], linestyle=style["linestyle"])
        ax.plot(100 * found.error, place, **style)
    ax.set_yticks(range(len(of_block)), [plain(method) for method in of_block])
    ax.set_ylim(len(of_block) - 0.5, -0.5)
    ax.set_xlim(left=0)
    ax.set_xlabel("expected calibration error (points)")


def _calibrations(results: Results, block: Block) -> dict[str, Calibration]:
    """Return the calibration of each method with probabilities, pooled over seeds."""
    found = {}
    for method in results.methods:
        examples = [s.examples for s in results.cell(block, method)]
        kept = [(e.probabilities, e.reference) for e in examples if e.probabilities and e.reference]
        if kept:
            probabilities = np.concatenate([np.array(p) for p, _ in kept])
            found[method] = calibration(probabilities, np.concatenate([np.array(r) for _, r in kept]), bins=BINS)
    return found

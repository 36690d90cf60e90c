"""The figure of quality against cost: one row per benchmark, one column per kind of cost."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lora_ns.benchmarks import metric_names
from lora_ns.reporting.figures.style import legend, logarithmic, look, panels, plain
from lora_ns.reporting.results import Block, Results, rows_of_block
from lora_ns.reporting.statistics import pareto_front

COSTS = {
    "trainable_parameters": ("trainable parameters", 1.0),
    "train_seconds": ("training time (s)", 1.0),
    "train_peak_memory_bytes": ("training memory (MiB)", 2.0**-20),
}


def pareto(results: Results, summary: pd.DataFrame, cost: pd.DataFrame) -> Figure | None:
    """Return the figure, None if no cost was measured."""
    kinds = [kind for kind in COSTS if (cost[kind] > 0).any()]
    blocks = [block for block in results.blocks if results.metrics(block)]
    if not kinds or not blocks:
        return None
    figure, axes = panels(len(blocks), len(kinds))
    for block, row in zip(blocks, axes, strict=True):
        for kind, ax in zip(kinds, row, strict=True):
            _panel(ax, results, block, summary, cost, kind)
            ax.set_title(plain(block.title) if kind == kinds[0] else "", loc="left")
            ax.set_ylabel(plain(metric_names.heading(results.metrics(block)[0])) if kind == kinds[0] else "")
            ax.set_xlabel(COSTS[kind][0] if block == blocks[-1] else "")
    legend(figure, [ax for row in axes for ax in row])
    return figure


def _panel(ax: Axes, results: Results, block: Block, summary: pd.DataFrame, cost: pd.DataFrame, kind: str) -> None:
    main = results.metrics(block)[0]
    scale = metric_names.print_factor(main)
    here = rows_of_block(summary, block)
    quality = here[here.metric == main].set_index("method")
    rows = cost[(cost.task == block.task) & (cost.model == block.model)].set_index("method")
    paid = rows[kind] * COSTS[kind][1]
    # the memory of runs trained together is that of the whole group, not the method's own
    shared = rows.index[(rows.num_fused > 0) & (kind == "train_peak_memory_bytes")]
    for method in results.methods:
        scores = results.cell(block, method)
        if not scores:
            continue
        if scores[0].is_base:
            # the base model has no training cost, so it is a line, not a point on a logarithmic axis
            ax.axhline(
                quality["mean"][method] * scale, color="0.5", linestyle=":", linewidth=1, label=f"{plain(method)} (untrained)"
            )
        elif paid[method] > 0:
            y, low, high = (quality[column][method] * scale for column in ("mean", "low", "high"))
            style = {**look(results.methods, method), "linestyle": "none"}
            style |= {"markerfacecolor": "none"} if method in shared else {}
            error = None if np.isnan(low) else [[y - low], [high - y]]
            ax.errorbar(paid[method], y, yerr=error, label=plain(method), elinewidth=0.8, capsize=2, **style)
    own = paid.drop(shared)
    _front(ax, results, block, quality["mean"] * scale, own, better=-1 if metric_names.lower_is_better(main) else 1)
    logarithmic(ax)


def _front(ax: Axes, results: Results, block: Block, quality: pd.Series, paid: pd.Series, better: int) -> None:
    trained = [
        m for m in results.methods if results.cell(block, m) and not results.cell(block, m)[0].is_base and paid.get(m, 0) > 0
    ]
    on = pareto_front(paid[trained].to_numpy(), better * quality[trained].to_numpy())
    best = sorted((paid[m], quality[m]) for m, is_on in zip(trained, on, strict=True) if is_on)
    if len(best) > 1:
        ax.plot(*zip(*best, strict=True), color="0.4", linewidth=0.9, zorder=1, drawstyle="steps-post")

"""The figure of every seed's main metric, one panel per benchmark."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lora_ns.benchmarks import metric_names
from lora_ns.reporting.figures.style import grid, look, plain
from lora_ns.reporting.results import Block, Results, rows_of_block


def seeds(results: Results, summary: pd.DataFrame) -> Figure | None:
    """Return the figure, None if there is no score."""
    blocks = [block for block in results.blocks if results.metrics(block)]
    if not blocks:
        return None
    figure, axes = grid(len(blocks), height=0.6 + 0.2 * len(results.methods))
    for position, (block, ax) in enumerate(zip(blocks, axes, strict=True)):
        _panel(ax, results, block, summary)
        if position % 3:
            ax.tick_params(labelleft=False)
    return figure


def _panel(ax: Axes, results: Results, block: Block, summary: pd.DataFrame) -> None:
    main = results.metrics(block)[0]
    scale = metric_names.print_factor(main)
    here = rows_of_block(summary, block)
    rows = here[here.metric == main].set_index("method")
    for place, method in enumerate(results.methods):
        values = [v * scale for s in results.cell(block, method) if (v := s.metrics.get(main)) is not None]
        if not values:
            continue
        # offset the seeds, so that equal values stay visible
        offset = np.linspace(-0.22, 0.22, len(values)) if len(values) > 1 else np.zeros(1)
        style = {**look(results.methods, method), "linestyle": "none"}
        low, high, mean = (rows[c][method] * scale for c in ("low", "high", "mean"))
        ax.plot([low, high], [place, place], color="0.6", linewidth=3, solid_capstyle="butt", alpha=0.6, zorder=1)
        ax.plot(values, place + offset, markersize=3.5, zorder=3, **style)
        ax.plot([mean, mean], [place - 0.33, place + 0.33], color="black", linewidth=1.2, zorder=2)
    ax.set_yticks(range(len(results.methods)), [plain(m) for m in results.methods])
    ax.set_ylim(len(results.methods) - 0.5, -0.5)
    ax.set_title(plain(block.title.replace(", ", "\n")), loc="left")
    ax.set_xlabel(plain(metric_names.heading(main)))

"""The style of all figures: colour-blind-safe colours, with markers and lines that are distinct in grey."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

WIDTH_INCHES = 6.8

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
"""Okabe & Ito 2008, "Color universal design"; yellow, hard to see on white paper, is replaced by brown."""
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*")
_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))

_SETTINGS: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "lines.linewidth": 1.3,
    "lines.markersize": 5,
    "pdf.fonttype": 42,  # TrueType: text stays searchable, and publishers accept it
    "svg.hashsalt": "lora_ns",
}


def look(methods: Sequence[str], method: str) -> dict[str, Any]:
    """Return the colour, marker and line of a method, the same in every figure of an experiment."""
    i = methods.index(method)
    return {"color": _COLOURS[i % 8], "marker": _MARKERS[i % 11], "linestyle": _LINES[i % 5]}


@contextmanager
def styled() -> Iterator[None]:
    """Apply the figure settings inside the `with` block."""
    with matplotlib.rc_context(_SETTINGS):
        yield


def panels(rows: int, columns: int, height: float = 2.3) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure with rows × columns panels; height: inches per panel."""
    figure = Figure(figsize=(WIDTH_INCHES, height * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, [list(row) for row in axes]


def grid(count: int, across: int = 3, height: float = 2.3) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` panels, at most `across` per row; the rest of the last row is blank."""
    columns = min(count, across)
    rows = -(-count // columns)
    figure, axes = panels(rows, columns, height)
    flat = [ax for row in axes for ax in row]
    for unused in flat[count:]:
        unused.set_axis_off()
    return figure, flat[:count]


def logarithmic(ax: Axes) -> None:
    """Make the x axis logarithmic with a few ticks, labelled 20, 500, 10k, 2M."""
    ax.set_xscale("log")
    ax.margins(x=0.12)
    low, high = ax.get_xlim()
    steps = (1.0,) if high / low > 300 else (1.0, 3.0) if high / low > 30 else (1.0, 2.0, 5.0)
    ax.xaxis.set_major_locator(LogLocator(subs=steps, numticks=8) if high / low > 6 else MaxNLocator(4))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.xaxis.set_minor_formatter(NullFormatter())


def legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """Add one legend below all panels, each label once."""
    entries: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if entries:
        figure.legend([*entries.values()], [*entries], loc="outside lower center", ncols=min(5, len(entries)))


def plain(text: str) -> str:
    """Escape `$`, which matplotlib would read as a formula."""
    return text.replace("$", r"\$")


def save(figure: Figure, out: Path, name: str, made_by: str = "") -> list[Path]:
    """Save name.pdf and name.png, byte for byte the same for the same drawing; returns both paths.

    made_by: stored as Subject in the PDF's metadata and as Description in the PNG's.
    """
    paths = [out / f"{name}.pdf", out / f"{name}.png"]
    subject, description = ({"Subject": made_by}, {"Description": made_by}) if made_by else ({}, {})
    with warnings.catch_warnings():
        # a glyph that the font lacks is drawn as a box, which is no reason to fail
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(paths[0], metadata={"CreationDate": None, "Creator": None, "Producer": None, **subject})
        figure.savefig(paths[1], dpi=160, metadata={"Software": None, **description})
    return paths

"""The main table: mean and interval over seeds of each method on each metric."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from lora_ns.benchmarks import metric_names
from lora_ns.reporting.results import Block, Results, rows_of_block
from lora_ns.reporting.rng import SEED, generator
from lora_ns.reporting.score_file import Score
from lora_ns.reporting.statistics import (
    RESAMPLES,
    Interval,
    bca_interval,
    example_standard_error,
    mean,
    t_interval,
    wilson_interval,
)
from lora_ns.reporting.tables.comparison import not_distinguishable
from lora_ns.reporting.tables.notes import Notes
from lora_ns.reporting.tables.table import DASH, Cell, Column, Section, Table, limits, number

METRICS_ABREAST = 2
"""Metrics printed per benchmark: the main one, and one more with different values.  main.csv has all."""

_MARKS = {
    "Wilson over examples": ("‡", "One seed, or seeds that all agree: Wilson interval over the test examples."),
    "BCa over examples": (
        "§",
        "One seed, or seeds that all agree: BCa bootstrap interval over the test examples "
        f"({RESAMPLES:,} resamples, random seed {SEED}).",
    ),
}


@dataclass(frozen=True)
class Summary:
    """One method on one metric of one block. Values are fractions; NaN if there is no score.

    interval: the kind of low and high, "t over seeds", "Wilson over examples" or "BCa over examples".
    rank: "best", "tied" (a paired test does not distinguish it from the best), "untested" (no such test) or "".
    """

    task: str
    benchmark: str
    model: str
    metric: str
    method: str
    mean: float = np.nan
    low: float = np.nan
    high: float = np.nan
    interval: str = ""
    sd: float = np.nan
    example_se: float = np.nan
    num_seeds: int = 0
    num_examples: int = 0
    rank: str = ""


def summarise(results: Results) -> pd.DataFrame:
    """Return one row per block, metric and method, even if the method has no score."""
    rows = [
        _summary(results, block, metric, method)
        for block in results.blocks
        for metric in results.metrics(block) or [""]
        for method in results.methods
    ]
    frame = pd.DataFrame(rows, columns=list(Summary.__dataclass_fields__))
    for block in results.blocks:
        for metric in results.metrics(block):
            _rank(results, frame, block, metric)
    return frame


def _summary(results: Results, block: Block, metric: str, method: str) -> Summary:
    scores = [s for s in results.cell(block, method) if s.metrics.get(metric) is not None]
    place = (block.task, block.benchmark, block.model, metric, method)
    if not scores:
        return Summary(*place)
    values = np.array([s.metrics[metric] for s in scores], dtype=float)
    interval, kind = _interval(scores, metric, values, place)
    lowest, highest = metric_names.bounds(metric)
    if not (lowest <= values.min() and values.max() <= highest):
        lowest, highest = -np.inf, np.inf  # a user-defined metric, so its bounds are unknown
    return Summary(
        *place,
        mean=float(values.mean()),
        # np.maximum and np.minimum keep NaN
        low=float(np.maximum(interval.low, lowest)),
        high=float(np.minimum(interval.high, highest)),
        interval=kind,
        sd=_spread(values),
        example_se=_example_error(scores, metric),
        num_seeds=len(values),
        num_examples=max(s.num_examples for s in scores),
    )


def _spread(values: np.ndarray) -> float:
    """Return the standard deviation over seeds; 0 if they agree up to rounding."""
    if len(values) < 2:
        return float("nan")
    return 0.0 if np.ptp(values) <= 1e-12 * np.abs(values).max() else float(values.std(ddof=1))


def _interval(scores: list[Score], metric: str, values: np.ndarray, place: tuple[str, ...]) -> tuple[Interval, str]:
    if _spread(values) > 0:
        return t_interval(values), "t over seeds"
    examples, resampled = scores[0].example_scores(metric), scores[0].resampled(metric)
    if examples is not None and set(np.unique(examples)) <= {0.0, 1.0}:
        return wilson_interval(int(examples.sum()), examples.size), "Wilson over examples"
    if examples is not None:
        return bca_interval(mean, examples, rng=generator("bootstrap", *place)), "BCa over examples"
    if resampled is not None:
        of, arrays = resampled
        return bca_interval(of, *arrays, rng=generator("bootstrap", *place)), "BCa over examples"
    return Interval(float(values.mean()), np.nan, np.nan), ""


def _example_error(scores: list[Score], metric: str) -> float:
    values = [v for s in scores if (v := s.example_values(metric)) is not None]
    if len(values) < len(scores) or len({v.size for v in values}) > 1:
        return float("nan")
    return example_standard_error(np.stack(values))


def _rank(results: Results, frame: pd.DataFrame, block: Block, metric: str) -> None:
    """Write into the frame which method is best, tied with the best or untested."""
    of_metric = rows_of_block(frame, block)
    of_metric = of_metric[(of_metric.metric == metric) & of_metric["mean"].notna()]
    if len(of_metric) < 2:
        return
    order = of_metric["mean"] * (-1 if metric_names.lower_is_better(metric) else 1)
    best = str(of_metric["method"].iloc[int(order.argmax())])
    equals = set(of_metric["method"][np.isclose(order, order.max(), rtol=1e-12)])
    if len(equals) == len(of_metric):
        return
    tied, untested = not_distinguishable(results, block, metric, best, list(of_metric.method))
    ranks = dict.fromkeys(tied, "tied") | dict.fromkeys(untested, "untested") | dict.fromkeys(equals, "best")
    frame.loc[of_metric.index, "rank"] = [ranks.get(method, "") for method in of_metric.method]


def main_table(results: Results, summary: pd.DataFrame) -> Table:
    """Return the printed summary: one section per benchmark, one row per method."""
    experiment, notes = results.experiment, Notes(results)
    shown = {block: _shown(results, block) for block in results.blocks}
    sections = [_section(results, summary, block, metrics, notes) for block, metrics in shown.items()]
    notes.explain(
        "Mean over seeds with its 95 % interval (Student's t); SE: standard error over the test examples. Bold: the best mean."
    )
    further = {m: None for block, metrics in shown.items() for m in results.metrics(block) if m not in metrics}
    if further:
        notes.explain(f"In main.csv only: {', '.join(further)}.")
    if any(cell.marks and "†" in cell.marks for section in sections for row in section.rows for cell in row):
        notes.symbol("†", "Not distinguishable from the best (paired test, p > 0.05 after Holm).")
    return Table(
        name="main",
        title=experiment.heading,
        caption=experiment.caption_of(),
        label=experiment.label_of(),
        sections=tuple(sections),
        notes=notes.all(),
    )


def _shown(results: Results, block: Block) -> list[str]:
    """Return the printed metrics: the main one first, then those with different values."""
    main, *others = results.metrics(block) or [""]
    scores = [s for method in results.methods for s in results.cell(block, method)]
    differing = [m for m in others if any(s.metrics.get(m) != s.metrics.get(main) for s in scores)]
    return [m for m in [main, *differing][:METRICS_ABREAST] if m]


def _section(results: Results, summary: pd.DataFrame, block: Block, metrics: list[str], notes: Notes) -> Section:
    columns = [Column("Method")]
    for position in range(METRICS_ABREAST):
        group = metric_names.heading(metrics[position]) if position < len(metrics) else ""
        mean_, interval, error = ("mean", "95 % interval", "SE") if group else ("", "", "")
        columns += [Column(mean_, "number", group, alone=group), Column(interval, "text", group), Column(error, "number", group)]
    columns += [Column("seeds", "number"), Column("examples", "number")]
    here = rows_of_block(summary, block)
    rows = [_row(here[here.method == method], method, metrics, notes, block) for method in results.methods]
    return Section(block.title, tuple(columns), tuple(rows))


def _row(of_method: pd.DataFrame, method: str, metrics: list[str], notes: Notes, block: Block) -> tuple[Cell, ...]:
    cells = [Cell(method, marks=notes.of_missing(block.task, method, block.benchmark))]
    for position in range(METRICS_ABREAST):
        if position < len(metrics):
            cells += _metric_cells(of_method[of_method.metric == metrics[position]].iloc[0], notes)
        else:
            cells += [Cell(), Cell(), Cell()]
    seeds, examples = of_method.num_seeds.max(), of_method.num_examples.max()
    return (*cells, Cell(number(seeds, 0)), Cell(number(examples, 0) if examples else DASH))


def _metric_cells(row: pd.Series, notes: Notes) -> list[Cell]:
    scale, places = metric_names.print_factor(row.metric), metric_names.decimals(row.metric)
    marks: tuple[str, ...] = ("†",) if row["rank"] == "tied" else ()
    if row["rank"] == "untested":
        marks += notes.symbol("¶", "Not compared with the best: no seeds or examples that a paired test could use.")
    if row.interval in _MARKS:
        marks += notes.symbol(*_MARKS[row.interval])
    return [
        Cell(number(row["mean"] * scale, places), bold=row["rank"] == "best"),
        Cell(limits(row.low * scale, row.high * scale, places), marks=marks),
        Cell(number(row.example_se * scale, places)),
    ]

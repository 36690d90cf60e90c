"""Each method against the baseline and against the best: paired differences, their uncertainty and a verdict."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lora_ns.benchmarks import metric_names
from lora_ns.reporting.results import Block, Results, rows_of_block
from lora_ns.reporting.rng import SEED, generator
from lora_ns.reporting.score_file import Score
from lora_ns.reporting.statistics import (
    RESAMPLES,
    Difference,
    decide,
    example_difference,
    holm,
    seed_difference,
    two_way_difference,
)
from lora_ns.reporting.tables.notes import Notes
from lora_ns.reporting.tables.table import DASH, Cell, Column, Section, Table, limits, number, p_value

NOT_COMPARED = "not compared"


@dataclass(frozen=True)
class Comparison:
    """One method minus the baseline on one block's main metric. Values are fractions; NaN if there is no comparison."""

    task: str
    benchmark: str
    model: str
    metric: str
    method: str
    baseline: str
    difference: float = np.nan
    low: float = np.nan
    high: float = np.nan
    standard_error: float = np.nan
    df: float = np.nan
    sources: str = ""
    p: float = np.nan
    detectable: float = np.nan
    num_seeds: int = 0
    num_examples: int = 0
    reason: str = ""
    """Why there is no comparison; empty if there is one."""


@dataclass(frozen=True)
class Pair:
    """Values of two methods on shared seeds and examples: [S] by seed, or [S, n] by seed and example."""

    a: NDArray[np.float64]
    b: NDArray[np.float64]


def compare(results: Results, block: Block, metric: str, method: str, other: str) -> tuple[Difference, Pair] | str:
    """Return the difference method − other on a metric with its pairs, or the reason why there is none."""
    paired = _pair(results, block, metric, method, other)
    if isinstance(paired, str):
        return paired
    if paired.a.ndim == 1:
        if paired.a.size < 2:
            return "one seed, and no scores of single examples"
        return seed_difference(paired.a, paired.b), paired
    if paired.a.shape[1] < 2:
        return "too few examples in common"
    if paired.a.shape[0] < 2:
        rng = generator("sign flip", block.task, block.benchmark, block.model, metric, method, other)
        return example_difference(paired.a[0], paired.b[0], rng), paired
    return two_way_difference(paired.a, paired.b), paired


def compare_with_baseline(results: Results) -> pd.DataFrame:
    """Compare every method with the baseline on each block's main metric, Holm-adjusted within each task.

    Columns of the frame: the fields of Comparison, p_holm, verdict.
    """
    baseline = results.experiment.baseline
    rows = [
        _comparison(results, block, method, baseline)
        for block in results.blocks
        for method in results.methods
        if baseline and method != baseline
    ]
    frame = pd.DataFrame(rows, columns=list(Comparison.__dataclass_fields__))
    frame["p_holm"] = np.nan
    for _, family in frame.groupby("task", sort=False):
        frame.loc[family.index, "p_holm"] = holm(family["p"].to_numpy(dtype=float))
    frame["verdict"] = [_verdict(row) for _, row in frame.iterrows()]
    return frame


def not_distinguishable(
    results: Results, block: Block, metric: str, best: str, methods: Sequence[str]
) -> tuple[set[str], set[str]]:
    """Return (methods that a Holm-adjusted paired test does not distinguish from the best; methods not tested)."""
    found = {m: compare(results, block, metric, m, best) for m in methods if m != best}
    tested = {m: made[0].p_value for m, made in found.items() if not isinstance(made, str)}
    adjusted = holm(list(tested.values()))
    tied = {m for m, p in zip(tested, adjusted, strict=True) if decide(-1.0, p) == "no difference shown"}
    return tied, found.keys() - tested.keys()


def comparison_table(results: Results, frame: pd.DataFrame) -> Table:
    """Return the printed comparison table, one section per block."""
    experiment, notes = results.experiment, Notes(results)
    sections = []
    for block in results.blocks:
        rows = rows_of_block(frame, block)
        if len(rows):
            sections.append(_section(block, rows, notes))
    if sections:
        notes.explain(
            f"Difference: method minus baseline ({experiment.baseline}) on the task's main metric, in points of a "
            "percentage; of a loss or perplexity in its own unit."
        )
        notes.explain(
            "Interval and p: seeds and test examples both count as drawn at random (two-way variance, Satterthwaite's "
            "degrees of freedom). Holm: adjusted within each task. Detectable: the smallest true difference that this "
            "design would have shown with 80 % probability (at 5 %, before Holm)."
        )
        if (frame.sources == "examples").any():
            notes.symbol(
                "‡",
                "One seed each: interval over test examples, p by sign flips; other seeds may differ. Right-or-wrong "
                f"answers: exact; graded ones: {RESAMPLES:,} random flips (random seed {SEED}).",
            )
        if (frame.sources == "seeds").any():
            notes.symbol("§", "No scores of single examples: interval and p over seeds alone (paired t).")
        if (frame.standard_error == 0).any():
            notes.explain(
                "A dash for interval and detectable: the difference is the same throughout, so that nothing tells how "
                "far another draw would lie; p counts only how many seeds or examples agree."
            )
    else:
        notes.explain("The experiment names no baseline, so nothing is compared.")
    return Table(
        name="comparison",
        title=f"{experiment.heading}: against the baseline",
        caption=experiment.caption_of(f"Paired differences from {experiment.baseline}." if experiment.baseline else ""),
        label=experiment.label_of("comparison"),
        sections=tuple(sections),
        notes=notes.all(),
    )


def _comparison(results: Results, block: Block, method: str, baseline: str) -> Comparison:
    metrics = results.metrics(block)
    metric = metrics[0] if metrics else ""
    place = (block.task, block.benchmark, block.model, metric, method, baseline)
    made = compare(results, block, metric, method, baseline)
    if isinstance(made, str):
        return Comparison(*place, reason=made)
    found, pair = made
    return Comparison(
        *place,
        difference=found.difference,
        low=found.low,
        high=found.high,
        standard_error=found.standard_error,
        df=found.df,
        sources=found.sources,
        p=found.p_value,
        detectable=found.detectable,
        num_seeds=len(pair.a),
        num_examples=pair.a.shape[1] if pair.a.ndim == 2 else 0,
    )


def _verdict(row: pd.Series) -> str:
    if row.reason:
        return NOT_COMPARED
    gain = -row.difference if metric_names.lower_is_better(row.metric) else row.difference
    return decide(gain, row.p_holm)


def _pair(results: Results, block: Block, metric: str, method: str, other: str) -> Pair | str:
    a = {s.seed: s for s in results.cell(block, method) if s.metrics.get(metric) is not None}
    b = {s.seed: s for s in results.cell(block, other) if s.metrics.get(metric) is not None}
    if not a or not b:
        return "no score" if not a else f"no score of {other}"
    a, b = _for_every_seed(a, b), _for_every_seed(b, a)
    seeds = sorted(a.keys() & b.keys())
    if not seeds:
        return "no seed in common"
    pairs = [(a[seed], b[seed]) for seed in seeds]
    if any(s.example_values(metric) is None for pair in pairs for s in pair):
        return Pair(*(np.array([pair[i].metrics[metric] for pair in pairs], dtype=float) for i in (0, 1)))
    if not all(pairs[0][0].asked_same_rows(s) for pair in pairs for s in pair):
        return "asked other rows"
    shared = set.intersection(*(set(s.examples.id) for pair in pairs for s in pair))
    return Pair(*(np.stack([_on(pair[i], metric, shared) for pair in pairs]) for i in (0, 1)))


def _for_every_seed(scores: dict[int, Score], others: dict[int, Score]) -> dict[int, Score]:
    """Repeat the score of a base model for every seed: a seed changes nothing in an untrained model."""
    (first, *more) = scores.values()
    return dict.fromkeys(others, first) if first.is_base and not more else scores


def _on(score: Score, metric: str, shared: set[str]) -> NDArray[np.float64]:
    """Return the values of the shared examples, sorted by id."""
    values = score.example_values(metric)
    assert values is not None
    place = {example: i for i, example in enumerate(score.examples.id)}
    return values[[place[example] for example in sorted(shared)]]


def _section(block: Block, rows: pd.DataFrame, notes: Notes) -> Section:
    metric = rows.iloc[0].metric
    group = metric_names.heading(metric) if metric else ""
    columns = (
        Column("Method"),
        Column("difference", "number", group, alone=f"{group} difference"),
        Column("95 % interval", "text", group),
        Column("p", "number"),
        Column("p (Holm)", "number"),
        Column("detectable", "number"),
        Column("verdict"),
    )
    return Section(block.title, columns, tuple(_row(row, notes) for _, row in rows.iterrows()))


def _row(row: pd.Series, notes: Notes) -> tuple[Cell, ...]:
    scale, places = metric_names.print_factor(row.metric), metric_names.decimals(row.metric)
    marks = {"examples": ("‡",), "seeds": ("§",)}.get(row.sources, ())
    verdict = f"{NOT_COMPARED}: {row.reason}" if row.reason else row.verdict
    return (
        Cell(row.method, marks=notes.of_missing(row.task, row.method, row.benchmark)),
        Cell(number(row.difference * scale, places), bold=row.verdict in ("better", "worse")),
        Cell(limits(row.low * scale, row.high * scale, places), marks=marks),
        Cell(p_value(row.p)),
        Cell(p_value(row.p_holm)),
        Cell(number(row.detectable * scale, places) if not row.reason else DASH),
        Cell(verdict, bold=row.verdict in ("better", "worse")),
    )

"""The forgetting table: the loss of each adapter on general text minus that of its base model."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lora_ns.benchmarks import metric_names
from lora_ns.reporting.results import Results
from lora_ns.reporting.score_file import Score
from lora_ns.reporting.statistics import t_interval
from lora_ns.reporting.tables.notes import Notes
from lora_ns.reporting.tables.table import Cell, Column, Section, Table, limits, number

METRIC = "loss"
"""Unit: nats per token, over all tokens of the text."""

COLUMNS = (
    "task",
    "benchmark",
    "model",
    "metric",
    "method",
    "baseline",
    "loss",
    "base_loss",
    "difference",
    "low",
    "high",
    "num_seeds",
)


def forgetting(results: Results) -> pd.DataFrame:
    """Return one row per task, model and trained method evaluated on general text; NaN if the base model was not.

    difference: mean over seeds of loss(adapter) − loss(base), positive if something was forgotten.  low, high: its 95 %
    interval by Student's t over seeds, NaN for one seed or for seeds that all agree.
    """
    scores = [score for score in results.general if score.metrics.get(METRIC) is not None]
    bases = {(s.task, s.model): s for s in reversed(scores) if s.is_base}
    cells: dict[tuple[str, str, str], list[Score]] = {}
    for score in (s for s in scores if not s.is_base):
        cells.setdefault((score.task, score.model, score.method), []).append(score)
    rows = [
        _row_of(of_cell, bases.get((task, model)))
        for (task, model, method), of_cell in sorted(
            cells.items(), key=lambda c: (results.tasks.index(c[0][0]), c[0][1], results.methods.index(c[0][2]))
        )
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row_of(scores: Sequence[Score], base: Score | None) -> tuple[object, ...]:
    first = scores[0]
    losses = np.array([s.metrics[METRIC] for s in scores], dtype=float)
    before = np.nan if base is None else float(base.metrics[METRIC] or 0.0)
    change = t_interval(losses - before)
    varies = np.ptp(losses) > 1e-12 * np.abs(losses).max()
    low, high = (change.low, change.high) if varies else (np.nan, np.nan)
    names = (first.task, first.benchmark, first.model, METRIC, first.method, base.method if base else "")
    return (*names, float(losses.mean()), before, change.estimate, low, high, len(losses))


def forgetting_table(results: Results, frame: pd.DataFrame) -> Table:
    """Return the printed table, without sections if the experiment declares no general text."""
    experiment, notes = results.experiment, Notes(results)
    places = metric_names.decimals(METRIC)
    columns = (
        Column("Method"),
        Column("base", "number", f"{METRIC} on general text", alone=f"{METRIC} of the base"),
        Column("adapter", "number", f"{METRIC} on general text", alone=f"{METRIC} of the adapter"),
        Column("difference", "number"),
        Column("95 % interval"),
        Column("seeds", "number"),
    )
    sections = []
    for (task, benchmark, model), rows in frame.groupby(["task", "benchmark", "model"], sort=False):
        cells = [
            (
                Cell(row.method, marks=notes.of_missing(row.task, row.method)),
                Cell(number(row.base_loss, places)),
                Cell(number(row.loss, places)),
                Cell(number(row.difference, places)),
                Cell(limits(row.low, row.high, places)),
                Cell(number(row.num_seeds, 0)),
            )
            for _, row in rows.iterrows()
        ]
        sections.append(Section(", ".join(str(p) for p in (task, benchmark, model) if p), columns, tuple(cells)))
    if sections:
        notes.explain(
            "Loss in nats a token on the experiment's general text; difference: adapter minus base model, mean over "
            "seeds with its 95 % interval (Student's t; a dash: one seed, or seeds that all agree). Above 0: something "
            "was forgotten."
        )
        if frame.base_loss.isna().any():
            notes.explain("A dash for the base: the base model has not been asked the general text yet.")
    else:
        notes.explain("The experiment declares no general text (`forgetting:`), so forgetting was not measured.")
    return Table(
        name="forgetting",
        title=f"{experiment.heading}: forgetting",
        caption=experiment.caption_of("Forgetting: loss on general text, against the base model."),
        label=experiment.label_of("forgetting"),
        sections=tuple(sections),
        notes=notes.all(),
    )

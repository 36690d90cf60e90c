"""Each method over all tasks: average rank and interquartile mean, where there are enough of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lora_ns import metric_names
from lora_ns.statistics import Interval, average_ranks, interquartile_mean
from lora_ns.tables.collect import Block, Results
from lora_ns.tables.notes import Notes
from lora_ns.tables.table import Cell, Column, Section, Table, limits, number

TASKS_FOR_RANKS = 3
TASKS_FOR_IQM = 4

COLUMNS = (
    "method",
    "average_rank",
    "rank_low",
    "rank_high",
    "interquartile_mean",
    "iqm_low",
    "iqm_high",
    "num_tasks",
    "num_seeds",
)


def over_tasks(results: Results) -> pd.DataFrame:
    """One row for each method that has a score on every task, none where there are too few tasks."""
    blocks = [b for b in results.blocks if results.metrics(b) and not metric_names.lower_is_better(_main(results, b))]
    methods = [m for m in results.methods if blocks and all(_seeds(results, b, m) for b in blocks)]
    if len(blocks) < TASKS_FOR_RANKS or len(methods) < 2:
        return pd.DataFrame(columns=list(COLUMNS))
    scores = _scores(results, blocks, methods)
    rows = []
    for method, of_method, rank in zip(methods, scores, average_ranks(scores), strict=True):
        row = [rank.estimate, *_within(rank, 1, len(methods))]
        if len(blocks) >= TASKS_FOR_IQM:
            iqm = interquartile_mean(of_method)
            row += [iqm.estimate, *_within(iqm, -1, 1)]
        else:
            row += [np.nan] * 3
        rows.append((method, *row, len(blocks), scores.shape[1]))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def over_tasks_table(results: Results, frame: pd.DataFrame) -> Table:
    """The figures as a reader sees them; without sections where there are too few tasks."""
    experiment, notes = results.experiment, Notes(results)
    iqm = bool(frame["interquartile_mean"].notna().any())
    columns = (
        Column("Method"),
        *_columns_of("average rank"),
        *(_columns_of("interquartile mean (%)") if iqm else ()),
        Column("tasks", "number"),
        Column("seeds", "number"),
    )
    rows = tuple(_row(row, iqm) for _, row in frame.iterrows())
    if rows:
        notes.explain(
            "Main metric of each task, over methods with a score on every task; each seed is one replication, intervals "
            "by Student's t (a dash: the seeds all agree). Rank 1 is the best."
            + ("" if iqm else f" An interquartile mean needs {TASKS_FOR_IQM} tasks.")
        )
    else:
        notes.explain(f"Not given: it needs {TASKS_FOR_RANKS} tasks and two methods with a score on each.")
    return Table(
        name="over_tasks",
        title=f"{experiment.heading}: over tasks",
        caption=experiment.caption_of("Over all tasks."),
        label=experiment.label_of("over-tasks"),
        sections=(Section("", columns, rows),) if rows else (),
        notes=notes.all(),
    )


def _main(results: Results, block: Block) -> str:
    return results.metrics(block)[0]


def _seeds(results: Results, block: Block, method: str) -> list[float]:
    """The method's main metric by seed."""
    main = _main(results, block)
    return [value for s in results.cell(block, method) if (value := s.metrics.get(main)) is not None]


def _scores(results: Results, blocks: Sequence[Block], methods: Sequence[str]) -> NDArray[np.float64]:
    """[methods, seeds, tasks], as many seeds as every cell has; a base model scored once stands for all of them."""
    cells = {(b, m): _seeds(results, b, m) for b in blocks for m in methods}
    base = {m for m in methods if all(s.is_base for b in blocks for s in results.cell(b, m))}
    seeds = min(len(values) for (_, m), values in cells.items() if m not in base or len(base) == len(methods))
    filled = [
        [(cells[b, m] * seeds if m in base and len(cells[b, m]) == 1 else cells[b, m]) for b in blocks] for m in methods
    ]
    seeds = min(seeds, *(len(values) for of_method in filled for values in of_method))
    return np.array([[values[:seeds] for values in of_method] for of_method in filled]).transpose(0, 2, 1)


def _within(interval: Interval, lowest: float, highest: float) -> tuple[float, float]:
    """The limits within what the figure can be; none where the seeds all agree, as they say nothing of others."""
    if not interval.high - interval.low > 1e-12:
        return np.nan, np.nan
    return max(interval.low, lowest), min(interval.high, highest)


def _columns_of(figure: str) -> tuple[Column, Column]:
    return Column("mean", "number", figure, alone=figure), Column("95 % interval", "text", figure)


def _row(row: pd.Series, iqm: bool) -> tuple[Cell, ...]:
    figures = [Cell(number(row.average_rank, 2)), Cell(limits(row.rank_low, row.rank_high, 2))]
    if iqm:
        figures += [
            Cell(number(100 * row.interquartile_mean, 1)),
            Cell(limits(100 * row.iqm_low, 100 * row.iqm_high, 1)),
        ]
    return (Cell(row.method), *figures, Cell(number(row.num_tasks, 0)), Cell(number(row.num_seeds, 0)))

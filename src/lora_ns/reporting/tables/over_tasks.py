"""The table over tasks: average rank and interquartile mean of each method, if there are enough tasks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lora_ns.benchmarks import metric_names
from lora_ns.reporting.results import Block, Results
from lora_ns.reporting.statistics import Interval, average_ranks, interquartile_mean
from lora_ns.reporting.tables.notes import Notes
from lora_ns.reporting.tables.table import Cell, Column, Section, Table, limits, number

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


@dataclass(frozen=True)
class Suite:
    """The blocks and methods that can be ranked, with their shared seeds; left_out: what cannot be ranked, and why."""

    blocks: tuple[Block, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    left_out: tuple[str, ...]

    @property
    def num_tasks(self) -> int:
        return len({block.task for block in self.blocks})

    @property
    def is_enough(self) -> bool:
        return self.num_tasks >= TASKS_FOR_RANKS and len(self.methods) > 1 and bool(self.seeds)


def over_tasks(results: Results) -> pd.DataFrame:
    """Return one row per method with a score in every block, no rows if there are too few tasks."""
    suite = _suite(results)
    if not suite.is_enough:
        return pd.DataFrame(columns=list(COLUMNS))
    ranks = average_ranks(_scores(results, suite, suite.blocks))
    higher = _higher_is_better(results, suite)
    means: list[Interval | None] = [None] * len(ranks)
    if len({block.task for block in higher}) >= TASKS_FOR_IQM:
        means = [interquartile_mean(of_method) for of_method in _scores(results, suite, higher)]
    rows = []
    for method, rank, iqm in zip(suite.methods, ranks, means, strict=True):
        row = [rank.estimate, *_within(rank, 1, len(ranks))]
        row += [np.nan] * 3 if iqm is None else [iqm.estimate, *_within(iqm, -1, 1)]
        rows.append((method, *row, suite.num_tasks, len(suite.seeds)))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def over_tasks_table(results: Results, frame: pd.DataFrame) -> Table:
    """Return the printed table, without sections if there are too few tasks."""
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
    suite = _suite(results)
    if rows:
        notes.explain(
            "Main metric of each benchmark, over methods with a score on every one; each seed is one replication, intervals "
            "by Student's t (a dash: the seeds all agree). Rank 1 is the best."
            + ("" if iqm else f" An interquartile mean needs {TASKS_FOR_IQM} tasks where more is better.")
        )
        if len(suite.blocks) > suite.num_tasks:
            notes.explain("A task with several benchmarks counts once for each of them.")
        lower = [block.title for block in suite.blocks if block not in _higher_is_better(results, suite)]
        if iqm and lower:
            notes.explain(f"In the ranks only, as less is better: {'; '.join(lower)}.")
    else:
        notes.explain(f"Not given: it needs {TASKS_FOR_RANKS} tasks, and two methods with a score on each for the same seeds.")
    if suite.left_out:
        notes.explain(f"Left out: {'; '.join(suite.left_out)}.")
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


def _suite(results: Results) -> Suite:
    blocks = tuple(block for block in results.blocks if results.metrics(block))
    out = [f"{block.title} (no score)" for block in results.blocks if block not in blocks]
    methods = []
    for method in results.methods:
        lacking = [block.title for block in blocks if not _by_seed(results, block, method)]
        if not lacking:
            methods.append(method)
        elif len(lacking) < len(blocks):
            out.append(f"{method} (no score on {' and on '.join(lacking)})")
        else:
            out.append(f"{method} (no score)")
    cells = {(b, m): _by_seed(results, b, m) for b in blocks for m in methods}
    bound = [set(values) for (b, m), values in cells.items() if not _is_lone_base(results, b, m)]
    # if every cell is a base model scored once, there is one replication
    shared = set.intersection(*(bound or [set(values) for values in cells.values()] or [set()]))
    dropped = sorted(set().union(*bound) - shared) if bound else []
    if methods and dropped:
        out.append(f"seeds that not every cell has ({', '.join(map(str, dropped))})")
    return Suite(blocks, tuple(methods), tuple(sorted(shared)), tuple(out))


def _by_seed(results: Results, block: Block, method: str) -> dict[int, float]:
    """Return seed -> value of the method's main metric."""
    main = _main(results, block)
    return {s.seed: value for s in results.cell(block, method) if (value := s.metrics.get(main)) is not None}


def _is_lone_base(results: Results, block: Block, method: str) -> bool:
    """Whether the only score is a base model's, which is valid for every seed."""
    scores = results.cell(block, method)
    return len(scores) == 1 and scores[0].is_base


def _higher_is_better(results: Results, suite: Suite) -> tuple[Block, ...]:
    return tuple(b for b in suite.blocks if not metric_names.lower_is_better(_main(results, b)))


def _scores(results: Results, suite: Suite, blocks: Sequence[Block]) -> NDArray[np.float64]:
    """Return main metrics [methods, seeds, blocks], more is better: losses and perplexities are negated."""

    def values(block: Block, method: str) -> list[float]:
        of = _by_seed(results, block, method)
        lone = next(iter(of.values())) if _is_lone_base(results, block, method) else None
        sign = -1 if metric_names.lower_is_better(_main(results, block)) else 1
        return [sign * (of[seed] if lone is None else lone) for seed in suite.seeds]

    return np.array([[values(b, m) for b in blocks] for m in suite.methods]).transpose(0, 2, 1)


def _within(interval: Interval, lowest: float, highest: float) -> tuple[float, float]:
    """Clip the interval to the possible range; NaN limits if the seeds all agree."""
    if not interval.high - interval.low > 1e-12:
        return np.nan, np.nan
    return max(interval.low, lowest), min(interval.high, highest)


def _columns_of(figure: str) -> tuple[Column, Column]:
    return Column("mean", "number", figure, alone=figure), Column("95 % interval", "text", figure)


def _row(row: pd.Series, iqm: bool) -> tuple[Cell, ...]:
    figures = [Cell(number(row.average_rank, 2)), Cell(limits(row.rank_low, row.rank_high, 2))]
    if iqm:
        figures += [Cell(number(100 * row.interquartile_mean, 1)), Cell(limits(100 * row.iqm_low, 100 * row.iqm_high, 1))]
    return (Cell(row.method), *figures, Cell(number(row.num_tasks, 0)), Cell(number(row.num_seeds, 0)))

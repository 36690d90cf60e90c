"""Score files to one tidy frame: every value once, with its run and score file."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from lora_ns.errors import DataError
from lora_ns.reporting.score_file import Score, read_score

VALUE_COLUMNS = ("task", "benchmark", "model", "method", "seed", "metric", "value", "num_examples", "run", "score_file")


@dataclass(frozen=True)
class Missing:
    """A run of the experiment without all its scores.

    benchmarks: those without a score; () if only the general text is missing; None means all.
    """

    run: str
    task: str
    method: str
    seed: int
    state: Literal["missing", "failed"]
    reason: str = ""
    benchmarks: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Experiment:
    """The parts of the experiment file that the tables use."""

    name: str
    title: str = ""
    baseline: str = ""
    methods: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    caption: str = ""
    label: str = ""

    @property
    def heading(self) -> str:
        """The title, or the name if there is no title."""
        return self.title or self.name

    def caption_of(self, part: str = "") -> str:
        """Return the caption of one table: its content, then the experiment."""
        return " ".join(text for text in (part, self.caption or self.heading) if text)

    def label_of(self, part: str = "") -> str:
        """Return the LaTeX label of one table."""
        return "-".join(text for text in (self.label or f"tab:{self.name}", part) if text)


@dataclass(frozen=True, order=True)
class Block:
    """One group of comparable scores: one task, one benchmark, one base model."""

    task: str
    benchmark: str
    model: str

    @property
    def title(self) -> str:
        """The non-empty parts, joined by commas."""
        return ", ".join(part for part in (self.task, self.benchmark, self.model) if part)


@dataclass(frozen=True)
class Results:
    """An experiment with its scores and its missing runs.

    general: scores on general text, including the base models'. They measure forgetting and are never in `scores`.
    """

    experiment: Experiment
    scores: tuple[Score, ...]
    missing: tuple[Missing, ...] = ()
    general: tuple[Score, ...] = ()

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Methods in the experiment's order, then any others with a score or a missing run."""
        return _ordered(self.experiment.methods, [s.method for s in self.scores] + [m.method for m in self.missing])

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """Tasks in the experiment's order, then any others with a score or a missing run."""
        return _ordered(self.experiment.tasks, [s.task for s in self.scores] + [m.task for m in self.missing])

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """Blocks in the order of the tasks; a task without any score has one block with empty benchmark and model."""
        found = sorted({Block(s.task, s.benchmark, s.model) for s in self.scores})
        return tuple(b for task in self.tasks for b in [f for f in found if f.task == task] or [Block(task, "", "")])

    @cached_property
    def _by_cell(self) -> dict[tuple[Block, str], list[Score]]:
        cells: dict[tuple[Block, str], list[Score]] = {}
        for score in sorted(self.scores, key=lambda s: s.seed):
            cells.setdefault((Block(score.task, score.benchmark, score.model), score.method), []).append(score)
        return cells

    def cell(self, block: Block, method: str) -> list[Score]:
        """Return the scores of one method in one block, sorted by seed."""
        return self._by_cell.get((block, method), [])

    def metrics(self, block: Block) -> list[str]:
        """Return the block's metrics, its main metric first."""
        scores = [s for method in self.methods for s in self.cell(block, method)]
        names = dict.fromkeys(s.main_metric for s in scores)
        names.update(dict.fromkeys(metric for s in scores for metric, value in s.metrics.items() if value is not None))
        return list(names)

    def lacking(self, task: str, method: str, benchmark: str | None = None) -> list[Missing]:
        """Return a method's runs on a task without a score (on the benchmark, if one is given), sorted by seed."""
        of_method = (m for m in self.missing if (m.task, m.method) == (task, method))
        here = (m for m in of_method if not benchmark or m.benchmarks is None or benchmark in m.benchmarks)
        return sorted(here, key=lambda m: m.seed)


def rows_of_block(frame: pd.DataFrame, block: Block) -> pd.DataFrame:
    """Return the rows of a frame that belong to the block."""
    return frame[(frame.task == block.task) & (frame.benchmark == block.benchmark) & (frame.model == block.model)]


def collect(
    experiment: Mapping[str, Any],
    score_paths: Sequence[Path],
    missing: Sequence[Mapping[str, Any]],
    root: Path,
    general: Collection[str] = (),
) -> Results:
    """Read the score files into one Results.

    general: names of the evaluations on general text, which measure forgetting.
    root: folder to which the printed paths are relative, so that the tables are the same in every checkout.
    Raises DataError for a file that is no score file, and for two scores of one run on one benchmark.
    """
    # sorted by run and evaluation, not by folder: `verify` mixes files from its scratch store with the originals
    scores = tuple(read_score(path, root) for path in sorted(score_paths, key=lambda path: path.parts[-2:]))
    asked_general = tuple(score for score in scores if score.evaluation in general)
    compared = tuple(score for score in scores if score.evaluation not in general)
    _refuse_doubles(compared)
    absent = tuple(Missing(**_known(Missing, row)) for row in missing)
    return Results(Experiment(**_known(Experiment, experiment)), compared, absent, asked_general)


def values_frame(results: Results) -> pd.DataFrame:
    """Return a tidy frame with one row per value (columns VALUE_COLUMNS); values are fractions, not per cent."""
    rows = [
        (b.task, b.benchmark, b.model, method, s.seed, metric, s.metrics[metric], s.num_examples, s.run, s.path)
        for b in results.blocks
        for metric in results.metrics(b)
        for method in results.methods
        for s in results.cell(b, method)
        if s.metrics.get(metric) is not None
    ]
    rows += [
        (s.task, s.benchmark, s.model, s.method, s.seed, metric, value, s.num_examples, s.run, s.path)
        for s in results.general
        for metric, value in s.metrics.items()
        if value is not None
    ]
    return pd.DataFrame(rows, columns=list(VALUE_COLUMNS))


def _known(kind: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given values of a dataclass's fields; lists become tuples."""
    found = {f.name: given[f.name] for f in fields(kind) if given.get(f.name) is not None}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


def _refuse_doubles(scores: Sequence[Score]) -> None:
    seen: dict[tuple[str, str, str, str, int], Score] = {}
    for score in scores:
        key = (score.task, score.benchmark, score.model, score.method, score.seed)
        if key in seen:
            raise DataError(
                f"Two score files speak of the same thing ({score.method}, seed {score.seed}, on {score.benchmark} of "
                f"{score.task}): {seen[key].path} and {score.path}. Give the tables the one that the experiment means."
            )
        seen[key] = score


def _ordered(first: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*first, *sorted(set(others))]))

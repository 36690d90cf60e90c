"""Score files to one tidy frame: every value once, with the run and the file that it is from."""

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
    """A run of the experiment that lacks a score.

    benchmarks: those that it lacks, () where only the general text was not asked; None: all of them.
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
    """What the tables take from the experiment file."""

    name: str
    title: str = ""
    baseline: str = ""
    methods: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    caption: str = ""
    label: str = ""

    @property
    def heading(self) -> str:
        """The title, or the name where there is none."""
        return self.title or self.name

    def caption_of(self, part: str = "") -> str:
        """The caption of one table: what it shows, then what the experiment is."""
        return " ".join(text for text in (part, self.caption or self.heading) if text)

    def label_of(self, part: str = "") -> str:
        """The LaTeX label of one table."""
        return "-".join(text for text in (self.label or f"tab:{self.name}", part) if text)


@dataclass(frozen=True, order=True)
class Block:
    """What is compared with one another: the methods on one benchmark of one task with one base model."""

    task: str
    benchmark: str
    model: str

    @property
    def title(self) -> str:
        """Its parts, those that are known."""
        return ", ".join(part for part in (self.task, self.benchmark, self.model) if part)


@dataclass(frozen=True)
class Results:
    """An experiment with the scores that it has and the runs that it lacks, in the order of its tables.

    general: scores on general text, the base models' among them; they are compared with the base, never in `scores`.
    """

    experiment: Experiment
    scores: tuple[Score, ...]
    missing: tuple[Missing, ...] = ()
    general: tuple[Score, ...] = ()

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """In the experiment's order, then whatever else has a score."""
        return _ordered(self.experiment.methods, [s.method for s in self.scores] + [m.method for m in self.missing])

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """In the experiment's order, then whatever else has a score."""
        return _ordered(self.experiment.tasks, [s.task for s in self.scores] + [m.task for m in self.missing])

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """In the order of the experiment's tasks; a task without any score is a block of its own."""
        found = sorted({Block(s.task, s.benchmark, s.model) for s in self.scores})
        return tuple(b for task in self.tasks for b in [f for f in found if f.task == task] or [Block(task, "", "")])

    @cached_property
    def _by_cell(self) -> dict[tuple[Block, str], list[Score]]:
        cells: dict[tuple[Block, str], list[Score]] = {}
        for score in sorted(self.scores, key=lambda s: s.seed):
            cells.setdefault((Block(score.task, score.benchmark, score.model), score.method), []).append(score)
        return cells

    def cell(self, block: Block, method: str) -> list[Score]:
        """The scores of one method in one block, by seed."""
        return self._by_cell.get((block, method), [])

    def metrics(self, block: Block) -> list[str]:
        """The block's metrics, its main metric first."""
        scores = [s for method in self.methods for s in self.cell(block, method)]
        names = dict.fromkeys(s.main_metric for s in scores)
        names.update(dict.fromkeys(metric for s in scores for metric, value in s.metrics.items() if value is not None))
        return list(names)

    def lacking(self, task: str, method: str, benchmark: str | None = None) -> list[Missing]:
        """The runs of a method on a task that lack a score (of the benchmark, where one is named), by seed."""
        of_method = (m for m in self.missing if (m.task, m.method) == (task, method))
        here = (m for m in of_method if not benchmark or m.benchmarks is None or benchmark in m.benchmarks)
        return sorted(here, key=lambda m: m.seed)


def rows_of_block(frame: pd.DataFrame, block: Block) -> pd.DataFrame:
    """The rows of a frame that speak of the block."""
    return frame[(frame.task == block.task) & (frame.benchmark == block.benchmark) & (frame.model == block.model)]


def collect(
    experiment: Mapping[str, Any],
    score_paths: Sequence[Path],
    missing: Sequence[Mapping[str, Any]],
    root: Path,
    general: Collection[str] = (),
) -> Results:
    """Read the score files.

    general: the names of the evaluations on general text, by which forgetting is measured.
    root: the folder that the files' paths are written against, so that the tables read the same in every checkout.
    Raises DataError for a file that is no score file, and for two scores of the same run.
    """
    # by run and evaluation: some may lie elsewhere, made again
    scores = tuple(read_score(path, root) for path in sorted(score_paths, key=lambda path: path.parts[-2:]))
    asked_general = tuple(score for score in scores if score.evaluation in general)
    compared = tuple(score for score in scores if score.evaluation not in general)
    _refuse_doubles(compared)
    absent = tuple(Missing(**_known(Missing, row)) for row in missing)
    return Results(Experiment(**_known(Experiment, experiment)), compared, absent, asked_general)


def values_frame(results: Results) -> pd.DataFrame:
    """Tidy: one row for each value (columns VALUE_COLUMNS), fractions as they were measured."""
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
    """The fields of a dataclass that are given, lists as tuples."""
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

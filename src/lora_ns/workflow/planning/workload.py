"""Workload of a run: batches, lengths, optimiser steps, evaluation rows.  Never imports torch.

Numbers come from the records of tokens and rows if these exist. Otherwise rows are counted in the source files and lengths
are guessed.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lora_ns.benchmarks import Kind, benchmark
from lora_ns.config import DatasetConfig, RunConfig
from lora_ns.config.builtin import DATASET_DEFAULTS
from lora_ns.data.sources import local
from lora_ns.errors import DataError
from lora_ns.store.evaluation_file import EvaluationRequest
from lora_ns.store.paths import Store
from lora_ns.store.run import Run
from lora_ns.training.batch_size import count_steps, split_batch

GUESSED_FILL = 0.5
"""Guessed mean row length as a share of dataset.max_length."""
GUESSED_SUPERVISED = 0.5
"""Guessed share of a row's tokens that carry loss."""
ROWS_ASKED = 32
"""Assumed evaluation batch size if evaluation.batch_size is not set."""
SAMPLE_BYTES = 1 << 20
"""Bytes read from a file to estimate its number of rows."""


@dataclass(frozen=True)
class Shape:
    """Shape of one batch in a forward pass."""

    rows: int
    length: int
    """Tokens of each row, padding included."""
    supervised: int = 1
    """Positions that carry loss, over all rows; for labels, the number of rows."""


@dataclass(frozen=True)
class Questions:
    """Workload of one evaluation: rows, batch shape and generated tokens."""

    evaluation: str
    kind: Kind
    rows: int | None
    shape: Shape
    """The longest batch of prompts."""
    mean_length: float
    new_tokens: int
    """Maximum generated tokens for each prompt; 0 if nothing is generated."""
    copies: int
    """Sequences generated at once for each prompt: samples or beams."""


@dataclass(frozen=True)
class Workload:
    """Workload of a run's training and evaluations."""

    rows: int | None
    """Training rows; None if they cannot be counted before download."""
    mean_length: float
    steps: int | None
    shape: Shape | None
    """The longest micro-batch; None for method `none`."""
    accumulation: int
    """Micro-batches of one optimiser step on one device (gradient accumulation)."""
    measured: bool
    """Whether lengths come from tokenised rows; otherwise they are guessed."""
    questions: tuple[Questions, ...]

    @property
    def tokens_per_step(self) -> float:
        """Tokens of one optimiser step on one device."""
        return self.accumulation * self.shape.rows * self.mean_length if self.shape else 0.0


def workload_of(run: Run, evaluations: list[EvaluationRequest]) -> Workload:
    """Workload of a run on each device of its launch.

    Raises ConfigError if the batch cannot be split over the devices.
    """
    config, store = run.config, run.store
    data, training = config.dataset, config.training
    ledger = _record(run.tokens).get("ledger", {}).get("train")
    longest = ledger["longest"] if ledger else data.max_length
    mean = ledger["mean_length"] if ledger else GUESSED_FILL * data.max_length
    share = ledger["supervised_rate"] if ledger else GUESSED_SUPERVISED
    rows = ledger["rows_out"] if ledger else count_rows(data, "train", store)
    questions = tuple(_questions(config, e, store, longest, mean, share) for e in evaluations)
    if config.peft.method == "none":
        return Workload(rows, mean, 0, None, 0, ledger is not None, questions)
    at_once, accumulation = split_batch(
        training.global_batch_size, config.topology.processes, training.per_device_train_batch_size
    )
    steps = None if rows is None and training.max_steps <= 0 else count_steps(config, rows or 0)
    supervised = max(1, round(at_once * longest * share)) if config.task_type == "causal_lm" else at_once
    shape = Shape(at_once, longest, supervised)
    return Workload(rows, mean, steps, shape, accumulation, ledger is not None, questions)


def _questions(config: RunConfig, asked: EvaluationRequest, store: Store, longest: int, mean: float, share: float) -> Questions:
    """Estimate an evaluation. Lengths are those of the training rows for the same data set, else guessed."""
    kind = benchmark(asked.benchmark).kind
    own = asked.dataset == config.dataset
    if not own:
        longest, mean = asked.dataset.max_length, GUESSED_FILL * asked.dataset.max_length
    question = mean * (1 - share) if own and kind == "generation" else mean
    examples = round(asked.num_fewshot * mean)
    rows = count_rows(asked.dataset, asked.split, store)
    rows = min(rows, asked.limit) if rows is not None and asked.limit is not None else rows
    generates = kind == "generation"
    copies = max(asked.generation.num_samples, asked.generation.num_beams) if generates else 1
    size = asked.batch_size or ROWS_ASKED
    at_once = min(size, rows or size)
    return Questions(
        asked.name, kind, rows, Shape(at_once, longest + examples), question + examples,
        asked.generation.max_new_tokens if generates else 0, copies,
    )  # fmt: skip


def count_rows(dataset: DatasetConfig, role: str, store: Store) -> int | None:
    """Count the rows of a role (train, validation, test); None if they are not on this disk and have no limit."""
    counted = _record(store.rows(dataset)).get("rows")
    if counted is not None:
        return counted.get(role)
    limits = {"train": "max_samples", "validation": "max_validation_samples", "test": "max_eval_samples"}
    limit = getattr(dataset, limits[role])
    if dataset.is_builtin:
        rows = {**DATASET_DEFAULTS, **dataset.options}[f"num_{role}"]
    elif dataset.is_hub:
        rows = None
    else:
        rows = _rows_in_files(dataset, role, store)
    return limit if rows is None else min(rows, limit) if limit is not None else rows


def _rows_in_files(dataset: DatasetConfig, role: str, store: Store) -> int | None:
    splits = {"train": dataset.train_split, "validation": dataset.validation_split or "validation"}
    try:
        files = local.files_by_split(dataset, store.remembered).get(splits.get(role, dataset.eval_split))
    except DataError:
        return None
    counts = [_rows_in(path, kind) for kind, path in files or []]
    return sum(counts) if counts and None not in counts else None  # type: ignore[arg-type]


def _rows_in(path: Path, kind: str) -> int | None:
    """Count the rows of one file; a long file is estimated from its first MiB."""
    if not path.is_file() or path.suffix == ".gz" or kind == "json":
        return None
    if kind == "parquet":
        from pyarrow.parquet import read_metadata

        return int(read_metadata(path).num_rows)
    with path.open("rb") as file:
        sample = file.read(SAMPLE_BYTES)
    lines = sample.count(b"\n")
    size = path.stat().st_size
    return max(1, round(lines * size / len(sample)) if size > len(sample) else lines) if sample else None


def _record(folder: Path) -> dict[str, Any]:
    """Return the artefact's record, or {} if it does not exist."""
    path = folder / "record.json"
    try:
        return _read(path, path.stat().st_mtime_ns)
    except OSError:
        return {}


@lru_cache(maxsize=1024)
def _read(path: Path, mtime_ns: int) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))

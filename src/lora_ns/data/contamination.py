"""Contamination checks: find test and validation rows among the training rows by their normalised question.

A question is saved as an 8-byte hash, so a score can still be checked after the training rows are deleted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lora_ns.benchmarks import Benchmark, benchmark
from lora_ns.config import DatasetConfig
from lora_ns.data import sources
from lora_ns.data.prompts import Row, check_columns, normalised, question_of
from lora_ns.errors import DataError
from lora_ns.store.evaluation_file import EvaluationRequest
from lora_ns.store.integrity import load_verified
from lora_ns.store.paths import Store
from lora_ns.store.run import Run

QUESTIONS = "questions.npy"
"""File in the tokens folder with the hashes [N] (uint64, sorted, unique) of the training questions."""
HELD_BACK = ("validation", "test")
LISTED_ROWS = 1000
BATCH_ROWS = 1000


def hash_of(question: str) -> int:
    """The 8-byte hash of the normalised question.  0 for an empty one, which never matches."""
    text = normalised(question)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) or 1 if text else 0


def hashes_of(rows: Sequence[Row], dataset: DatasetConfig, task_type: str) -> NDArray[np.uint64]:
    """The question hashes [N] of N rows."""
    return np.array([hash_of(question_of(row, dataset, task_type)) for row in rows], dtype=np.uint64)


def forms_of(row: Row, spec: Benchmark, dataset: DatasetConfig, task_type: str) -> list[str]:
    """The question of a benchmark row in every form that training rows may hold: bare and in the benchmark's prompts."""
    forms = list(spec.asked(row)) if spec.asked else []
    forms += [put(row) for put in (spec.prompt, spec.instruction) if put is not None]
    return forms or [question_of(row, dataset, task_type)]


def places_of(questions: NDArray[np.uint64], known: NDArray[np.uint64]) -> list[int]:
    """The indices of the `questions` that also occur in `known`."""
    return np.flatnonzero(np.isin(questions, known) & (questions != 0)).tolist()


@dataclass
class Contamination:
    """The training rows with the same question as a held-back row (validation or test)."""

    held_back: dict[str, NDArray[np.uint64]]
    """`<split>` or `<benchmark> <split>` -> hashes of its questions."""
    policy: str
    train_rows: dict[str, list[int]] = field(default_factory=dict)
    """Key of `held_back` -> numbers of the training rows that share a question."""

    @classmethod
    def of(cls, run: Run) -> Contamination:
        """Return the check for a run, against the task's own validation and test rows that the config can read.

        Under the policies `drop` and `fail`, the run's benchmarks with data sets of their own are included.
        Raises DataError for benchmark rows that cannot be read.
        """
        held_back = _own_questions(run)
        for evaluation in run.held_out:
            for name, hashed in _questions_of_benchmark(evaluation, run.config.task_type, run.store).items():
                held_back[name] = np.concatenate([held_back.get(name, hashed[:0]), hashed])
        return cls(held_back, run.config.dataset.overlap, {name: [] for name in held_back})

    def left_out(self, questions: NDArray[np.uint64], first: int) -> set[int]:
        """Count a batch's contaminated rows.  Returns the indices of rows to leave out.  first: the first row's number."""
        found: set[int] = set()
        for name, known in self.held_back.items():
            places = places_of(questions, known)
            self.train_rows[name] += [first + place for place in places]
            found |= set(places)
        return found if self.policy == "drop" else set()

    def to_dict(self) -> dict[str, Any]:
        """Return count and first row numbers for the record."""
        return {
            name: {"train_rows": len(numbers), "numbers": numbers[:LISTED_ROWS], "policy": self.policy}
            for name, numbers in self.train_rows.items()
        }

    def warnings(self) -> list[str]:
        """The warnings for the record and the tables."""
        done = "were left out of training" if self.policy == "drop" else "are trained on"
        return [
            f"{len(numbers)} training rows ask what a {name} row asks and {done} (dataset.overlap)"
            for name, numbers in self.train_rows.items()
            if numbers
        ]

    def fail_if_contaminated(self, dataset: str) -> None:
        """Raises DataError if rows are contaminated and the policy is `fail`."""
        for name, numbers in self.train_rows.items():
            if self.policy == "fail" and numbers:
                shown = ", ".join(map(str, numbers[:10]))
                raise DataError(
                    f"{len(numbers)} training rows of {dataset} ask what a {name} row asks (rows {shown}"
                    f"{' …' if len(numbers) > 10 else ''}); dataset.overlap is `fail`: set it to `drop` to leave them out."
                )


def _own_questions(run: Run) -> dict[str, NDArray[np.uint64]]:
    """Return split -> hashes of its questions, for the run's own data set."""
    config, folder, found = run.config, run.rows, dict[str, NDArray[np.uint64]]()
    for split in _splits(folder):
        parts = sources.batches(folder, split, config.dataset.columns, BATCH_ROWS)
        try:
            hashed = [hashes_of(part.to_pylist(), config.dataset, config.task_type) for part in parts]
            found[split] = np.concatenate(hashed)
        except KeyError:  # a test split with other columns, which an evaluation on it reports
            continue
    return found


def _questions_of_benchmark(evaluation: EvaluationRequest, task_type: str, store: Store) -> dict[str, NDArray[np.uint64]]:
    """Return `<benchmark> <split>` -> hashes of its questions in all their forms."""
    spec, dataset, found = benchmark(evaluation.benchmark), evaluation.dataset, {}
    folder = store.rows(dataset)
    load_verified(folder)
    for split in _splits(folder):
        table = sources.read(folder, split, dataset.columns)
        if spec.prompt is None:
            shown = dataset.model_copy(update={"response_template": None})
            check_columns(shown, task_type, table.column_names, f"{dataset.name} ({split})")
        rows = table.to_pylist()
        chosen = spec.select if spec.select and split == "test" else list  # `select` applies to the test split only
        try:
            forms = [form for row in chosen(rows) for form in forms_of(row, spec, dataset, task_type)]
        except KeyError as missing:
            raise DataError(
                f"dataset.overlap is to find rows of {spec.name} among the training rows, and those of {dataset.name} "
                f"({split}) have no column {missing}."
            ) from None
        found[f"{spec.name} {split}"] = np.array([hash_of(form) for form in forms], dtype=np.uint64)
    return found


def _splits(folder: Path) -> list[str]:
    return [split for split in HELD_BACK if (folder / f"{split}.parquet").is_file()]


def seen_in_training(questions: Sequence[Sequence[str]], tokens: Path, ids: Sequence[str]) -> dict[str, Any] | None:
    """Return count and ids of the benchmark rows whose question was in the training rows.  None if the tokens are gone.

    questions: for each row, its question in all forms that training rows may hold.
    """
    path = tokens / QUESTIONS
    if not path.is_file():
        return None
    asked = np.array([hash_of(form) for forms in questions for form in forms], dtype=np.uint64)
    row_of = np.repeat(np.arange(len(questions)), [len(forms) for forms in questions])
    places = np.unique(row_of[places_of(asked, np.load(path))]).tolist()
    return {"rows": len(places), "ids": [ids[place] for place in places[:LISTED_ROWS]]}


def warning_of(found: Mapping[str, Any] | None, benchmark: str) -> list[str]:
    """The warning of a score whose rows were seen in training."""
    if not found or not found["rows"]:
        return []
    return [f"{found['rows']} rows of {benchmark} ask what a training row asked"]

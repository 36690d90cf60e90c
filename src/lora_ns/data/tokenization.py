"""Tokenise rows, with the positions that carry loss.  READS rows, tokenizer   WRITES data/tokens/<task>-<model>-<digest>

The folder holds train.arrow, validation.arrow if there is such a split, and hashes of the training questions
(questions.npy, for contamination checks).  The record counts what happened to the rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lora_ns.config import RunConfig
from lora_ns.data import sources
from lora_ns.data.contamination import QUESTIONS, Contamination, hashes_of
from lora_ns.data.encoding import Dropped, Encoded, Result, encode_labelled, encode_rows
from lora_ns.data.prompts import check_columns
from lora_ns.data.tokenizer import check_end, load_tokenizer
from lora_ns.errors import DataError
from lora_ns.store import record
from lora_ns.store.artifact import atomic_artifact, is_finished
from lora_ns.store.integrity import load_verified
from lora_ns.store.run import Run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH_ROWS = 1000
NAMED_ROWS = 10
"""Dropped rows listed in the record.  An error lists the first SHOWN_ROWS."""
SHOWN_ROWS = 3


@dataclass
class Ledger:
    """Counts of what happened to the rows of one split."""

    rows_in: int = 0
    rows_out: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    left_out: int = 0
    """Rows left out as contamination: a test row has the same question (dataset.overlap: drop).  Not counted as dropped."""
    truncated: int = 0
    joined_apart: int = 0
    """Rows whose response was tokenised separately, because a token would have spanned prompt and response."""
    tokens: int = 0
    supervised_tokens: int = 0
    longest: int = 0
    examples: list[str] = field(default_factory=list)

    def drop(self, number: int, reason: str) -> None:
        self.dropped[reason] += 1
        if len(self.examples) < NAMED_ROWS:
            self.examples.append(f"row {number}: {reason}")

    def keep(self, example: Encoded) -> None:
        length = len(example.columns["input_ids"])
        self.rows_out += 1
        self.truncated += example.truncated
        self.joined_apart += example.apart
        self.tokens += length
        self.supervised_tokens += example.supervised
        self.longest = max(self.longest, length)

    def to_dict(self) -> dict[str, Any]:
        """Return the counts for the record."""
        return {
            "rows_in": self.rows_in,
            "rows_out": self.rows_out,
            "dropped": dict(sorted(self.dropped.items())),
            "dropped_rows": self.examples,
            "left_out_as_overlap": self.left_out,
            "truncated": self.truncated,
            "joined_apart": self.joined_apart,
            "tokens": self.tokens,
            "supervised_tokens": self.supervised_tokens,
            "supervised_rate": self.supervised_tokens / self.tokens if self.tokens else None,
            "longest": self.longest,
            "mean_length": self.tokens / self.rows_out if self.rows_out else None,
        }


def tokenize(run: Run) -> Path:
    """Make the tokens artefact if it is missing.  Returns its folder.

    Raises DataError if columns do not fit, if more than dataset.max_dropped of the rows are dropped, or if training rows
    contain questions of test rows and dataset.overlap is `fail`.
    """
    config, target, rows = run.config, run.tokens, run.rows
    if is_finished(target):
        return target
    load_verified(rows)
    meter = record.Meter()
    with atomic_artifact(target) as (folder, notes):
        with meter.part("loading"):
            tokenizer = load_tokenizer(config.model, run.store)
            if config.task_type == "causal_lm":
                check_end(tokenizer, config.model)
            overlap = Contamination.of(run)
        ledgers = {}
        with meter.part("tokenizing"):
            for split in [s for s in ("train", "validation") if (rows / f"{s}.parquet").is_file()]:
                ledgers[split] = _tokenize_split(rows, split, config, tokenizer, folder, overlap)
        if "train" not in ledgers:
            raise DataError(
                f"dataset {config.dataset.name} has no rows to train on: dataset.train_split is "
                f"{config.dataset.train_split!r}, and it has no such split."
            )
        notes |= record.describe(
            "tokenize",
            run.tokens_digest,
            {"task_type": config.task_type, "dataset": config.dataset.model_dump(), "model": config.model.model_dump()},
            inputs={"rows": rows.name, **_held_out(run)},
            ledger={split: ledger.to_dict() for split, ledger in ledgers.items()},
            overlap=overlap.to_dict(),
            warnings=overlap.warnings(),
            meter=meter,
        )
    return target


def _held_out(run: Run) -> dict[str, str]:
    """Return `held out <number>` -> name of a benchmark's rows artefact that the training rows were checked against."""
    names = dict.fromkeys(run.store.rows(evaluation.dataset).name for evaluation in run.held_out)
    return {f"held out {number}": name for number, name in enumerate(names, 1)}


def _tokenize_split(
    rows: Path, split: str, config: RunConfig, tokenizer: PreTrainedTokenizerBase, folder: Path, overlap: Contamination
) -> Ledger:
    data = config.dataset
    ledger, questions, writer = Ledger(), list[NDArray[np.uint64]](), None
    with pa.OSFile(str(folder / f"{split}.arrow"), "wb") as sink:
        for batch in sources.batches(rows, split, data.columns, BATCH_ROWS):
            if not questions:
                check_columns(data, config.task_type, batch.column_names, f"{data.name} ({split})")
            batch_rows = batch.to_pylist()
            hashed = hashes_of(batch_rows, data, config.task_type)
            left_out = overlap.left_out(hashed, ledger.rows_in) if split == "train" else set()
            if config.task_type == "causal_lm":
                results = encode_rows(batch_rows, data, tokenizer)
            else:
                results = encode_labelled(batch_rows, ledger.rows_in, data, config.task_type, tokenizer)
            examples = list(_kept(results, left_out, ledger))
            questions.append(np.delete(hashed, sorted(left_out)))
            ledger.rows_in += batch.num_rows
            if not examples:
                continue
            piece = _record_batch(examples)
            writer = writer or pa.ipc.new_stream(sink, piece.schema)
            writer.write_batch(piece)
        if writer is not None:
            writer.close()
    _fail_if_lossy(ledger, split, config)
    if split == "train":
        overlap.fail_if_contaminated(str(data.name))
        np.save(folder / QUESTIONS, np.unique(np.concatenate(questions)))
    return ledger


def _kept(results: Iterator[Result], left_out: set[int], ledger: Ledger) -> Iterator[dict[str, Any]]:
    """Yield the examples of a batch and count its rows in the ledger.  left_out: row indices in the batch."""
    for place, result in enumerate(results):
        if place in left_out:
            ledger.left_out += 1
        elif isinstance(result, Dropped):
            ledger.drop(ledger.rows_in + place, result.reason)
        else:
            for example in result:
                ledger.keep(example)
                yield example.columns


def _record_batch(examples: list[dict[str, Any]]) -> pa.RecordBatch:
    """Return the examples as a record batch: ids int32, token_type_ids int8, class labels int64, numbers float32."""
    columns = {name: [example[name] for example in examples] for name in examples[0]}
    return pa.record_batch({name: _column(name, values) for name, values in columns.items()})


def _column(name: str, values: list[Any]) -> pa.Array:
    if not isinstance(values[0], list):
        return pa.array(values, pa.float32() if isinstance(values[0], float) else pa.int64())
    ends = np.cumsum([0, *map(len, values)], dtype=np.int32)
    kind = np.int8 if name == "token_type_ids" else np.int32
    return pa.ListArray.from_arrays(ends, np.fromiter(chain.from_iterable(values), kind, int(ends[-1])))


def _fail_if_lossy(ledger: Ledger, split: str, config: RunConfig) -> None:
    data, lost = config.dataset, sum(ledger.dropped.values())
    if ledger.rows_out == 0 or lost > data.max_dropped * ledger.rows_in:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in ledger.dropped.most_common())
        raise DataError(
            f"{lost} of {ledger.rows_in} {split} rows of {data.name} carry nothing to learn from ({reasons}); "
            f"dataset.max_dropped allows {data.max_dropped:.1%}. First of them: {'; '.join(ledger.examples[:SHOWN_ROWS])}."
        )

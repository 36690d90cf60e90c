"""Rows from the Hugging Face hub, by name and pinned revision: whole splits, or a shuffled stream of their first rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.config import DatasetConfig, nearest
from lora_ns.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

SHUFFLE_BUFFER = 10_000
"""Shuffle buffer of a stream, in rows.  A stream is not read to its end, so it cannot be sampled as a whole."""


def load(dataset: DatasetConfig) -> dict[str, pa.Table]:
    """Return the config's splits as tables, as far as they exist.  Raises DataError with the hub's reason."""
    import datasets

    validation = dataset.validation_split or "validation"
    wanted = dict.fromkeys((dataset.train_split, validation, dataset.eval_split))
    try:
        available = datasets.get_dataset_split_names(dataset.name, dataset.subset, revision=dataset.revision)
        return {split: _split(dataset, split, available) for split in wanted if split in available}
    except DataError:
        raise
    except Exception as error:  # the hub's client raises many types
        reason = str(error).splitlines()[0] if str(error) else "no reason given"
        raise DataError(
            f"dataset.name: {dataset.name!r} is neither a local file or folder here nor could it be loaded from the hub: "
            f"{type(error).__name__}: {reason}.{_beside(str(dataset.name))}"
        ) from error


def _beside(name: str) -> str:
    """A hint with the most similar file name, if `name` is a path in an existing folder."""
    folder = Path(name).parent
    return nearest(Path(name).name, [path.name for path in folder.iterdir()]) if folder.is_dir() and "/" in name else ""


def _split(dataset: DatasetConfig, split: str, available: Sequence[str]) -> pa.Table:
    import datasets
    import pyarrow as pa

    where: dict[str, Any] = {"split": split, "revision": dataset.revision}
    if not dataset.streaming:
        return datasets.load_dataset(dataset.name, dataset.subset, **where).with_format("arrow")[:]
    stream = datasets.load_dataset(dataset.name, dataset.subset, streaming=True, **where)
    limit = _stream_limit(dataset, split, available)
    if limit is not None:
        stream = stream.shuffle(seed=dataset.split_seed, buffer_size=SHUFFLE_BUFFER).take(limit)
    rows = list(stream)
    if not rows:
        raise DataError(f"dataset {dataset.name}: the split {split} has no rows.")
    return pa.Table.from_pylist(rows)


def _stream_limit(dataset: DatasetConfig, split: str, available: Sequence[str]) -> int | None:
    """The number of rows to read from a streamed split, including rows to hold out of train.  None for all."""
    if split == dataset.eval_split:
        return dataset.max_eval_samples
    if split != dataset.train_split:
        return dataset.max_validation_samples
    rows = dataset.max_samples or 0
    held_out = [dataset.validation_size] if dataset.validation_size and dataset.validation_split is None else []
    held_out += [dataset.eval_size] if dataset.eval_split not in available else []
    for size in held_out:
        rows = math.ceil(rows / (1 - size)) if size < 1 else rows + int(size)
    return rows

"""Sources of rows: the hub, local files, builtin generators.

load(dataset)       the rows of train, validation and test as tables, and warnings
read(folder, split) one split of a rows artefact; batches(…) the same in parts
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.config import DatasetConfig
from lora_ns.data.sources import builtin, hub, local
from lora_ns.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa  # its import takes 0.25 s

SPLITS = ("train", "validation", "test")


@dataclass
class Rows:
    """Rows by split (`test` is the data set's eval_split), and warnings for the record."""

    tables: dict[str, pa.Table]
    warnings: list[str] = field(default_factory=list)


def load(dataset: DatasetConfig) -> Rows:
    """Return the rows of each split, with the config's limits and hold-outs.  Raises DataError."""
    import pyarrow as pa

    warnings: list[str] = []
    if dataset.is_builtin:
        generated = builtin.generate(str(dataset.name).removeprefix("builtin:"), dataset.options)
        found = {name: pa.Table.from_pylist(rows) for name, rows in generated.items()}
    elif dataset.is_hub:
        found = hub.load(dataset)
        if dataset.revision is None:
            warnings.append(f"the revision of data set {dataset.name} is not pinned (dataset.revision)")
    else:
        parts = local.parts(dataset)
        found = local.joined(parts)
        warnings += [
            f"{path} has no column {', '.join(map(repr, names))}: it is empty in its rows"
            for path, names in local.lacking_columns(parts).items()
        ]
    tables = _by_role(found, dataset, warnings)
    limits = {"train": dataset.max_samples, "validation": dataset.max_validation_samples, "test": dataset.max_eval_samples}
    tables = {role: _sample(table, limits[role], dataset.split_seed, role) for role, table in tables.items()}
    for role, table in tables.items():
        if table.num_rows == 0:
            raise DataError(f"dataset {dataset.name}: the {role} split has no rows.")
    return Rows(tables, warnings)


def _by_role(found: Mapping[str, pa.Table], dataset: DatasetConfig, warnings: list[str]) -> dict[str, pa.Table]:
    """Return the splits as train, validation and test.  Missing ones are held out of train."""
    train = found.get(dataset.train_split)
    test = found.get(dataset.eval_split)
    validation_name = dataset.validation_split or ("validation" if dataset.eval_split != "validation" else None)
    validation = found.get(validation_name) if validation_name else None
    if dataset.validation_split and validation is None:
        raise DataError(_no_split(dataset, dataset.validation_split, found))
    if train is None:
        if test is None:
            raise DataError(_no_split(dataset, dataset.train_split, found))
        return {"test": test}  # a set for evaluation only
    if test is None:
        if dataset.is_builtin or dataset.eval_split != "test":
            raise DataError(_no_split(dataset, dataset.eval_split, found))  # asked for by name
        train, test = _hold_out(train, dataset.eval_size, dataset, "test")
        warnings.append(f"{test.num_rows} rows held out of train for evaluation, as the data has no {dataset.eval_split} split")
    if validation is None and dataset.validation_size is not None:
        train, validation = _hold_out(train, dataset.validation_size, dataset, "validation")
    tables = {"train": train, "validation": validation, "test": test}
    return {role: table for role, table in tables.items() if table is not None}


def _no_split(dataset: DatasetConfig, wanted: str, found: Mapping[str, Any]) -> str:
    return f"dataset {dataset.name} has no split {wanted!r}; it has: {', '.join(found) or 'none'}."


def _hold_out(table: pa.Table, size: float, dataset: DatasetConfig, role: str) -> tuple[pa.Table, pa.Table]:
    """Return (remaining rows, held-out rows), chosen by seed, in order.  size: rows, or a fraction below 1."""
    count = round(size * table.num_rows) if size < 1 else int(size)
    if not 0 < count < table.num_rows:
        raise DataError(f"dataset {dataset.name}: cannot hold {count} of {table.num_rows} train rows out for {role}.")
    chosen = set(_choose(table.num_rows, count, dataset.split_seed, role))
    kept = [i for i in range(table.num_rows) if i not in chosen]
    return table.take(kept), table.take(sorted(chosen))


def _sample(table: pa.Table, limit: int | None, seed: int, role: str) -> pa.Table:
    """Return at most `limit` rows: a seeded random sample in the order of the data."""
    if limit is None or limit >= table.num_rows:
        return table
    return table.take(sorted(_choose(table.num_rows, limit, seed, f"{role} limit")))


def _choose(total: int, count: int, seed: int, purpose: str) -> list[int]:
    return random.Random(f"{seed} {purpose}").sample(range(total), count)


def read(folder: Path, split: str, columns: Mapping[str, str | None]) -> pa.Table:
    """Return one split of a rows artefact, with the config's column names added (`renamed`).

    Raises DataError for a missing split or column.
    """
    import pyarrow.parquet as parquet

    return renamed(parquet.read_table(_file_of(folder, split), memory_map=True), columns)


def batches(folder: Path, split: str, columns: Mapping[str, str | None], size: int) -> Iterator[pa.Table]:
    """Yield the rows of `read` in batches of `size`, without loading the whole split."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    with parquet.ParquetFile(_file_of(folder, split), memory_map=True) as file:
        for batch in file.iter_batches(size):
            yield renamed(pa.Table.from_batches([batch]), columns)


def _file_of(folder: Path, split: str) -> Path:
    path = folder / f"{split}.parquet"
    if not path.is_file():
        have = ", ".join(sorted(p.stem for p in folder.glob("*.parquet")))
        hint = " Set dataset.validation_size to hold rows out of train." if split == "validation" else ""
        raise DataError(f"the rows {folder.name} have no {split} split; they have: {have}.{hint}")
    return path


def renamed(table: pa.Table, columns: Mapping[str, str | None]) -> pa.Table:
    """Return the table with the config's column names added to the data's.

    columns: new name -> name in the data; None drops the column.  Data that has only the new name stays unchanged, so one
    config can read GLUE's TSV files (`#1 String`) and the hub's copy (`sentence1`).
    Raises DataError for a missing column.
    """
    found = {}
    for new, old in columns.items():
        if old in table.column_names:
            found[new] = table.column(old)  # read before any renaming, so that names can be swapped
        elif old is not None and new not in table.column_names:
            raise DataError(f"dataset.columns.{new}: there is no column {old!r}; there are: {', '.join(table.column_names)}.")
    for new, old in columns.items():
        if new == old or (old is not None and new not in found):
            continue
        table = table.drop_columns([new]) if new in table.column_names else table
        table = table.append_column(new, found[new]) if new in found else table
    return table

"""Rows from local files, as tables by split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lora_ns.config import DatasetConfig
from lora_ns.errors import DataError
from lora_ns.store.local_files import files_by_split

if TYPE_CHECKING:
    import pyarrow as pa


Parts = dict[str, dict[Path, "pa.Table"]]
"""Split -> file -> its rows."""


def parts(dataset: DatasetConfig, *, first: int | None = None) -> Parts:
    """Return the rows of every file.  first: maximum rows per file.  Raises DataError with file and line."""
    from lora_ns.data.sources.reading import read

    return {
        split: {path: read(path, kind, dataset.column_names, first=first) for kind, path in files}
        for split, files in files_by_split(dataset, {}).items()
    }


def joined(parts: Parts) -> dict[str, pa.Table]:
    """Return split -> the rows of all its files.  Raises DataError if a column has incompatible types in two files."""
    import pyarrow as pa

    tables = {}
    for split, files in parts.items():
        try:
            tables[split] = pa.concat_tables(_numbers_alike(list(files.values())), promote_options="permissive")
        except pa.ArrowException as error:
            raise DataError(_unlike(files) or f"the columns of {', '.join(map(str, files))} differ: {error}") from None
    return tables


def _numbers_alike(tables: list[pa.Table]) -> list[pa.Table]:
    """Return the tables with columns that mix integers and floats across files as text.  Otherwise 18 becomes 18.0."""
    import pyarrow as pa

    def holding(is_kind: Callable[[pa.DataType], bool]) -> set[str]:
        return {field.name for table in tables for field in table.schema if is_kind(field.type)}

    for name in holding(pa.types.is_integer) & holding(pa.types.is_floating):
        tables = [_with_text(table, name) if name in table.column_names else table for table in tables]
    return tables


def _with_text(table: pa.Table, name: str) -> pa.Table:
    import pyarrow as pa

    text = [None if value is None else str(value) for value in table.column(name).to_pylist()]
    return table.set_column(table.column_names.index(name), name, pa.array(text, pa.string()))


def load(dataset: DatasetConfig) -> dict[str, pa.Table]:
    """Return split -> its rows.  Raises DataError with file and line."""
    return joined(parts(dataset))


def _unlike(files: Mapping[Path, pa.Table]) -> str | None:
    """The fault of the first column with incompatible types in two files.  None if there is none."""
    import pyarrow as pa

    seen: dict[str, tuple[Path, pa.Field]] = {}
    for path, table in files.items():
        for field in table.schema:
            before, other = seen.setdefault(field.name, (path, field))
            try:
                pa.unify_schemas([pa.schema([other]), pa.schema([field])], promote_options="permissive")
            except pa.ArrowException:
                return f"the column {field.name!r} is {other.type} in {before} and {field.type} in {path}; make it one kind."
    return None


def lacking_columns(parts: Parts) -> dict[Path, list[str]]:
    """Return file -> columns that only other files of its split have.  They are null in its rows."""
    lacking = {}
    for files in parts.values():
        everything = list(dict.fromkeys(name for table in files.values() for name in table.column_names))
        for path, table in files.items():
            if missing := [name for name in everything if name not in table.column_names]:
                lacking[path] = missing
    return lacking

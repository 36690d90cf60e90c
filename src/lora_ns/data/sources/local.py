"""Rows from local files: which files hold which split, their checksums, and their rows as tables."""

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
"""Split -> each of its files -> the rows there."""


def parts(dataset: DatasetConfig, *, first: int | None = None) -> Parts:
    """Every file's rows.  first: at most so many of each file.  Raises DataError that names file and line."""
    from lora_ns.data.sources.reading import read

    return {
        split: {path: read(path, kind, dataset.column_names, first=first) for kind, path in files}
        for split, files in files_by_split(dataset, {}).items()
    }


def joined(parts: Parts) -> dict[str, pa.Table]:
    """Split -> the rows of all its files.  Raises DataError where two files hold a column in different kinds."""
    import pyarrow as pa

    tables = {}
    for split, files in parts.items():
        try:
            tables[split] = pa.concat_tables(_numbers_alike(list(files.values())), promote_options="permissive")
        except pa.ArrowException as error:
            raise DataError(_unlike(files) or f"the columns of {', '.join(map(str, files))} differ: {error}") from None
    return tables


def _numbers_alike(tables: list[pa.Table]) -> list[pa.Table]:
    """The tables with a column as text that holds whole numbers in one and others in another: else 18 became 18.0."""
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
    """Split -> its rows.  Raises DataError that names file and line."""
    return joined(parts(dataset))


def _unlike(files: Mapping[Path, pa.Table]) -> str | None:
    """The first column that two files hold in kinds that cannot be one."""
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
    """File -> the columns that it lacks and another file of its split has; they are empty in its rows."""
    lacking = {}
    for files in parts.values():
        everything = list(dict.fromkeys(name for table in files.values() for name in table.column_names))
        for path, table in files.items():
            if missing := [name for name in everything if name not in table.column_names]:
                lacking[path] = missing
    return lacking

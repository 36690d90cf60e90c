"""Rows from local files: which files hold which split, their checksums, and their rows as tables."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from lora_ns.config import FILE_KINDS, DatasetConfig, file_kind, nearest
from lora_ns.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

READING = 2
"""Of what a file reads as, in the digest of its rows: raised when other values come out of the same bytes."""
STEMS = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev", "eval"), "test": ("test",)}
"""Names under which a folder's files hold a split."""
ALSO_CALLED = {"validation_matched": ("dev_matched",), "validation_mismatched": ("dev_mismatched",)}
"""GLUE's own names of MNLI's two validation sets."""


def files_by_split(dataset: DatasetConfig, remembered: Mapping[str, str]) -> dict[str, list[tuple[str, Path]]]:
    """Split -> (kind, path) of its files.  Raises DataError for what is not there or of no known kind."""
    name = dataset.name
    if isinstance(name, dict):
        unknown = [key for key in name if key not in STEMS]
        if unknown:
            raise DataError(f"dataset.name: {unknown[0]!r} is no split.{nearest(unknown[0], STEMS)} Known: {', '.join(STEMS)}.")
        roles = {"train": dataset.train_split, "validation": "validation", "test": dataset.eval_split}
        return {roles[split]: [_known(file, dataset, remembered) for file in files] for split, files in name.items()}
    if isinstance(name, str) and (listed := files_in(Path(name).expanduser(), remembered)) is not None:
        return _folder(Path(name).expanduser(), listed, dataset)
    names = [name] if isinstance(name, str) else name
    files = [_known(file, dataset, remembered) for file in names]
    under = dataset.train_split
    if all(path.name.split(".")[0].lower() in STEMS["test"] for _, path in files):
        under = dataset.eval_split  # a set for evaluation only
    return {under: files}


def _known(file: str, dataset: DatasetConfig, remembered: Mapping[str, str]) -> tuple[str, Path]:
    path = Path(file).expanduser()
    if path.is_dir():
        raise DataError(f"dataset.name: {file} is a folder; among several files, name files.")
    if not path.is_file() and str(path) not in remembered:
        hint = nearest(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else ""
        raise DataError(f"dataset.name: there is no file {file}.{hint}")
    kind = dataset.file_kind or file_kind(path)
    if kind is None:
        raise DataError(
            f"dataset.name: {file}: unknown ending; known: {', '.join(FILE_KINDS)} (each also with .gz). Or say by "
            "dataset.file_kind how it is read."
        )
    return kind, path


def files_in(folder: Path, remembered: Mapping[str, str]) -> list[Path] | None:
    """The paths in a folder, or its files as remembered where it is not on this machine; None where neither is known."""
    if folder.is_dir():
        return sorted(folder.iterdir())
    return None if folder.exists() else [path for path in map(Path, remembered) if path.parent == folder] or None


def _folder(folder: Path, listed: list[Path], dataset: DatasetConfig) -> dict[str, list[tuple[str, Path]]]:
    """A folder's files by split, found by their names: train.jsonl, dev.tsv, test-00000.parquet …

    What a split that the config names has taken is no other's: with eval_split dev, dev.jsonl is not validation too.
    """
    found: dict[str, list[tuple[str, Path]]] = {}
    named = list(filter(None, (dataset.train_split, dataset.validation_split, dataset.eval_split)))
    for split in dict.fromkeys([*named, *STEMS]):
        stems = {split.lower(), *STEMS.get(split, ()), *ALSO_CALLED.get(split, ())}
        taken = {path for files in found.values() for _, path in files} if split not in named else set()
        for path in listed:
            kind = None if path.is_dir() else dataset.file_kind or file_kind(path)
            if kind and path not in taken and path.name.split(".")[0].split("-")[0].lower() in stems:
                found.setdefault(split, []).append((kind, path))
    if not found:
        names = ", ".join(path.name for path in listed[:10]) or "nothing"
        raise DataError(
            f"dataset.name: folder {folder} holds no file named after a split (train, dev, test …); it holds {names}."
        )
    return found


@cache
def _sha256_at(path: str, size: int, mtime_ns: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256(path: Path, remembered: Mapping[str, str]) -> str:
    """Checksum of a file's bytes; as remembered, where the file is not on this machine."""
    if not path.is_file():
        return remembered[str(path)]
    status = path.stat()
    return _sha256_at(str(path), status.st_size, status.st_mtime_ns)


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

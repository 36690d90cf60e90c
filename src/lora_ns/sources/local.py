"""Rows from local files: jsonl, json, csv, tsv, parquet, plain text by lines, each also gzipped.

GLUE's own TSV files hold unbalanced quotes and a byte-order mark: a tsv is read without quoting.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lora_ns.config import FILE_KINDS, DatasetConfig, file_kind, nearest
from lora_ns.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

STEMS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test",),
}
"""Names under which a folder's files hold a split."""
ALSO_CALLED = {"validation_matched": ("dev_matched",), "validation_mismatched": ("dev_mismatched",)}
"""GLUE's own names of MNLI's two validation sets."""


def files_by_split(dataset: DatasetConfig, remembered: Mapping[str, str]) -> dict[str, list[tuple[str, Path]]]:
    """Split -> (kind, path) of its files.  Raises DataError for what is not there or of no known kind."""
    name = dataset.name
    if isinstance(name, dict):
        unknown = [key for key in name if key not in STEMS]
        if unknown:
            raise DataError(
                f"dataset.name: {unknown[0]!r} is no split.{nearest(unknown[0], STEMS)} Known: {', '.join(STEMS)}."
            )
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
    """A folder's files by split, found by their names: train.jsonl, dev.tsv, test-00000.parquet …"""
    found: dict[str, list[tuple[str, Path]]] = {}
    wanted = dict.fromkeys(filter(None, (dataset.train_split, dataset.validation_split, dataset.eval_split, *STEMS)))
    for split in wanted:
        stems = {split.lower(), *STEMS.get(split, ()), *ALSO_CALLED.get(split, ())}
        for path in listed:
            kind = None if path.is_dir() else dataset.file_kind or file_kind(path)
            if kind and path.name.split(".")[0].split("-")[0].lower() in stems:
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


def load(dataset: DatasetConfig) -> dict[str, pa.Table]:
    """Split -> its rows.  Raises DataError that names file and line."""
    import pyarrow as pa

    tables = {}
    for split, files in files_by_split(dataset, {}).items():
        parts = [read(path, kind, dataset.column_names) for kind, path in files]
        try:
            tables[split] = pa.concat_tables(parts, promote_options="permissive")
        except pa.ArrowInvalid as error:
            names = ", ".join(str(path) for _, path in files)
            raise DataError(f"the columns of {names} do not fit together: {error}") from None
    return tables


def read(path: Path, kind: str, column_names: list[str] | None = None) -> pa.Table:
    """The rows of one file.  Raises DataError that names the place."""
    import pyarrow as pa

    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty.")
        if kind == "parquet":
            import pyarrow.parquet as parquet

            return parquet.read_table(path)
        if kind in ("csv", "tsv"):
            return _read_separated(path, kind, column_names)
        if kind == "lines":
            return _read_lines(path)
        with _open(path) as file:
            rows = list(_json_lines(file, path)) if kind == "jsonl" else _json_rows(file, path)
        if not rows:
            raise DataError(f"{path}: the file holds no rows.")
        return pa.Table.from_pylist(_same_keys(rows))
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as {kind}: {error}") from None


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig")
    return path.open(encoding="utf-8-sig")


def _json_lines(file: IO[str], path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}: not valid JSON: {error.msg} at column {error.colno}.") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: expected an object with columns, found {type(row).__name__}.")
        yield row


def _json_rows(file: IO[str], path: Path) -> list[dict[str, Any]]:
    try:
        content = json.load(file)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not valid JSON: {error.msg} at column {error.colno}.") from None
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        content = content["data"]
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise DataError(f"{path}: expected a list of objects, one a row.")
    return content


def _read_lines(path: Path) -> pa.Table:
    """One row a line with text on it, column `text`."""
    import pyarrow as pa

    with _open(path) as file:
        lines = [line.rstrip("\n") for line in file if line.strip()]
    if not lines:
        raise DataError(f"{path}: the file holds no rows.")
    return pa.table({"text": lines})


def _same_keys(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every row with every key, so that a key of later rows only is not lost; text where text and numbers are mixed."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    mixed = {key for key in keys if _is_mixed(row.get(key) for row in rows)}
    return [{key: _as_text(row.get(key)) if key in mixed else row.get(key) for key in keys} for row in rows]


def _is_mixed(values: Iterable[Any]) -> bool:
    kinds = {type(value) for value in values} & {str, int, float, bool}
    return str in kinds and len(kinds) > 1


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, (int, float)) else value


def _read_separated(path: Path, kind: str, column_names: list[str] | None) -> pa.Table:
    import pandas as pd
    import pyarrow as pa

    options: dict[str, Any] = {"sep": "\t", "quoting": csv.QUOTE_NONE} if kind == "tsv" else {"sep": ","}
    if column_names is not None:
        options |= {"header": None, "names": column_names}
    try:
        frame = pd.read_csv(
            path, encoding="utf-8-sig", keep_default_na=False, index_col=False, on_bad_lines="error", **options
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as {kind}: {error}") from None
    return pa.Table.from_pandas(frame, preserve_index=False)

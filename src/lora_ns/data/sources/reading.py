"""Read a data file as a table: jsonl, json, csv, tsv, parquet, plain text by lines, each also gzipped.

A tsv is read without quoting, because GLUE's TSV files have unbalanced quotes.  A byte-order mark is skipped.  Values of
a csv or tsv stay text: `007`, `1e5` and an id of twenty digits are not changed.
"""

import csv
import gzip
import json
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from lora_ns.config.yaml_io import why_unreadable
from lora_ns.errors import DataError

LARGEST_INTEGER = 2**63 - 1
"""Larger integers are stored as text, because they do not fit into int64."""


def read(path: Path, kind: str, column_names: list[str] | None = None, *, first: int | None = None) -> pa.Table:
    """Return the rows of one file.  first: maximum number of rows.  Raises DataError with file and line."""
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty.")
        if kind == "parquet":
            return _read_parquet(path, first)
        if kind in ("csv", "tsv"):
            return _read_separated(path, kind, column_names, first)
        if kind == "lines":
            return _read_lines(path, first)
        with _open(path) as file:
            rows = list(islice(_json_lines(file, path), first) if kind == "jsonl" else _json_rows(file, path)[:first])
        if not rows:
            raise DataError(f"{path}: the file holds no rows.")
        return _as_table(rows, path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: {why_unreadable(error)}.") from None
    except RecursionError:
        raise DataError(f"{path}: cannot be read as {kind}: its brackets are nested too deep.") from None
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as {kind}: {error}") from None


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig")
    return path.open(encoding="utf-8-sig")


def _read_parquet(path: Path, first: int | None) -> pa.Table:
    import pyarrow.parquet as parquet

    if first is None:
        return parquet.read_table(path)
    file = parquet.ParquetFile(path)
    batch = next(file.iter_batches(batch_size=first), None)
    return pa.Table.from_batches([batch] if batch is not None else [], schema=file.schema_arrow)


def _json_lines(file: IO[str], path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=_constant)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}: not valid JSON: {error.msg} at column {error.colno}.") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: expected an object with columns, found {_kind(row)}.")
        yield row


def _json_rows(file: IO[str], path: Path) -> list[dict[str, Any]]:
    try:
        content = json.load(file, parse_constant=_constant)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not valid JSON: {error.msg} at column {error.colno}.") from None
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        content = content["data"]
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise DataError(f"{path}: expected a list of objects, one a row.")
    return content


def _constant(name: str) -> float | None:
    """Return a JSON constant's value.  NaN counts as null, because some writers use it so."""
    return None if name == "NaN" else float(name)


def _as_table(rows: Sequence[dict[str, Any]], path: Path) -> pa.Table:
    """Return the rows as a table with the keys of all rows.  Raises DataError with the column and row that do not fit."""
    same = _same_keys(rows)
    if not same[0]:
        raise DataError(f"{path}: its rows have no columns.")
    try:
        return pa.Table.from_pylist(same)
    except (pa.ArrowException, OverflowError, UnicodeError) as error:
        reason = _misfit(same) or str(error)
        raise DataError(f"{path}: {reason}.") from None


def _same_keys(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with the keys of all rows, because Arrow reads the first row's keys only.

    Columns that mix text and numbers, or integers and floats, become text.  As numbers, 18 in a column with 2.5 would
    become 18.0.
    """
    keys = list(dict.fromkeys(key for row in rows for key in row))
    mixed = {key for key in keys if _is_mixed(row.get(key) for row in rows)}
    return [{key: _as_text(row.get(key)) if key in mixed else row.get(key) for key in keys} for row in rows]


def _is_mixed(values: Iterable[Any]) -> bool:
    kinds = set()
    for value in values:
        kinds.add(type(value))
        if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
            kinds |= {str, int}
    kinds &= {str, int, float, bool}
    return (str in kinds and len(kinds) > 1) or {int, float} <= kinds


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, (int, float)) else value


def _misfit(rows: Sequence[dict[str, Any]]) -> str | None:
    """The fault of the first column with two kinds of values or with invalid text.  None if there is none."""
    for key in rows[0]:
        kinds: dict[str, int] = {}
        for number, row in enumerate(rows, start=1):
            value = row[key]
            if isinstance(value, str) and not _is_text(value):
                return f"row {number}: the column {key!r} holds half of a character (a lone surrogate), which is no text"
            if value is not None:
                kinds.setdefault(_kind(value), number)
        if len(kinds) > 1:
            found = " and ".join(f"{kind} in row {number}" for kind, number in list(kinds.items())[:2])
            return f"the column {key!r} holds {found}; a column holds one kind"
    return None


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, list):
        inside = {str: "a list of texts", int: "a list of numbers", float: "a list of numbers"}
        return inside.get(type(value[0]) if value else dict, "a list")
    names = {dict: "an object", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return names[type(value)]


def _read_lines(path: Path, first: int | None) -> pa.Table:
    """Return one row per non-empty line, in the column `text`."""
    with _open(path) as file:
        lines = list(islice((line.rstrip("\n") for line in file if line.strip()), first))
    if not lines:
        raise DataError(f"{path}: the file holds no rows.")
    return pa.table({"text": lines})


def _read_separated(path: Path, kind: str, column_names: list[str] | None, first: int | None) -> pa.Table:
    import pandas as pd

    options: dict[str, Any] = {"sep": "\t", "quoting": csv.QUOTE_NONE} if kind == "tsv" else {"sep": ","}
    if column_names is not None:
        options |= {"header": None, "names": column_names}
    else:
        _refuse_repeated(path, kind)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                path,
                encoding="utf-8-sig",
                dtype=str,
                keep_default_na=False,
                index_col=False,
                on_bad_lines="error",
                nrows=first,
                **options,
            )
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: {why_unreadable(error)}.") from None
    except pd.errors.ParserWarning:
        raise DataError(
            f"{path}: its lines have more fields than its header names columns; a field that holds a "
            f"{'tab' if kind == 'tsv' else 'comma'} is put in quotes, a file without a header names its columns by "
            "dataset.column_names."
        ) from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as {kind}: {str(error).strip()}.") from None
    return pa.Table.from_pandas(frame, preserve_index=False)


def _refuse_repeated(path: Path, kind: str) -> None:
    """Raises DataError if the header names a column twice, because only one of them would be read."""
    with _open(path) as file:
        tabs = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        header = next(tabs if kind == "tsv" else csv.reader(file), [])
    repeated = [name for name in header if header.count(name) > 1]
    if repeated:
        raise DataError(f"{path}: its header names the column {repeated[0]!r} twice.")

"""Cell addresses PATH[:row,column]: find a cell of a table file and the subject of its row (task, method, …).

    main.md:lora,gsm8k flexible                   the row of the method, the column of the metric
    main.csv:word_problems,lora,gsm8k_strict,sd   any words that together name one row; the last one is the column
    main.csv:word_problems,lora                   its main metric's mean
    values.csv:7,value                            the row's number, from 1

CSV files are read directly. Markdown and LaTeX cells are read from the `tables.json` beside them.
"""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_ns.benchmarks import metric_names
from lora_ns.config import nearest
from lora_ns.errors import ConfigError
from lora_ns.reporting.tables.table import Section, from_json

SUBJECTS = ("task", "benchmark", "model", "method", "baseline", "metric", "seed", "run", "score_file")
"""Columns that identify the subject of a row."""

USUAL = ("mean", "value", "difference", "average_rank", "chosen", "trainable_parameters")
"""Default columns if the address names none, in order; else the first column after the row's name."""

LISTED = 8


@dataclass(frozen=True)
class Row:
    """One table row: its number in the file (from 1), its cells by column, and its subject.

    section: the heading above it; empty for CSV files.
    """

    number: int
    cells: dict[str, str]
    speaks_of: dict[str, str]
    section: str = ""

    @property
    def words(self) -> set[str]:
        """The case-folded words that can select the row."""
        parts = {self.section, *self.section.split(", ")}
        return {word.casefold() for word in {*self.cells.values(), *parts} if word}

    @property
    def said(self) -> str:
        """The row's section and subject, for messages."""
        named = [value for key, value in self.speaks_of.items() if key != "section"]
        return ", ".join(filter(None, [self.section, *named]))


@dataclass(frozen=True)
class TableCell:
    """One cell of a table file."""

    path: Path
    row: Row
    column: str
    text: str

    @property
    def address(self) -> str:
        """The cell's address by row number and column name, for `trace` and `verify`."""
        return f"{self.path}:{self.row.number},{self.column}"


def split_address(target: str) -> tuple[Path, list[str]]:
    """Split a target into its file (or folder) and the words after it."""
    pieces = target.split(":")
    ends = [end for end in range(len(pieces), 0, -1) if Path(":".join(pieces[:end])).exists()]
    end = ends[0] if ends else 1
    words = [word.strip() for word in ":".join(pieces[end:]).split(",")]
    return Path(":".join(pieces[:end])), [word for word in words if word]


def find_cell(path: Path, words: Sequence[str]) -> TableCell:
    """Return the cell that the words name.  Raises ConfigError with the possible rows or columns if none or several match."""
    rows = read_rows(path)
    if not rows:
        raise ConfigError(f"{path}: the table has no rows.")
    columns = list(dict.fromkeys(name for row in rows for name in row.cells))
    selectors, last = [word.casefold() for word in words], words[-1].casefold()
    column = _find_column(last, columns)
    if column is None and len(_parts(last, columns)) > 1:  # sections differ in columns: search only those of the row
        column = _find_column(last, [*_find_row(path, rows, selectors[:-1], columns).cells])
    row = _find_row(path, rows, selectors if column is None else selectors[:-1], columns)
    column = column or next(name for name in (*USUAL, *[*row.cells][1:]) if name in row.cells)
    if column not in row.cells:
        raise ConfigError(f"{path}: row {row.number} has no column {column!r}. Columns: {', '.join(row.cells)}.")
    return TableCell(path, row, column, row.cells[column])


def _find_column(word: str, columns: Sequence[str]) -> str | None:
    """Return the column with that name (with or without its unit), or the only one that begins or ends with it."""
    named = [name for name in columns if word in (name.casefold(), name.split(" (")[0].casefold())]
    parted = _parts(word, columns)
    return named[0] if named else parted[0] if len(parted) == 1 else None


def _parts(word: str, columns: Sequence[str]) -> list[str]:
    return [name for name in columns if name.casefold().startswith(f"{word} ") or name.casefold().endswith(f" {word}")]


def _find_row(path: Path, rows: Sequence[Row], words: Sequence[str], columns: Sequence[str]) -> Row:
    found = [row for row in rows if set(words) <= row.words]
    if len(words) == 1 and words[0].isdigit():
        found = [row for row in rows if row.number == int(words[0])] or found
    said = ", ".join(words) or "nothing"
    if not found:
        known = sorted({*columns, *(word for row in rows for word in row.speaks_of.values())})
        unknown = [word for word in words if not any(word in row.words for row in rows)]
        hints = "".join(nearest(word, known) for word in unknown)
        raise ConfigError(f"{path}: no row is named by {said}.{hints} Rows: {_list(rows)}; columns: {', '.join(columns)}.")
    if len({tuple({**row.speaks_of, "metric": row.section}.items()) for row in found}) > 1:
        raise ConfigError(f"{path}: {len(found)} rows are named by {said}: {_list(found)}.")
    return found[0]  # the main metric comes first


def _list(rows: Sequence[Row]) -> str:
    shown = "; ".join(f"{row.number} ({row.said})" for row in rows[:LISTED])
    return shown + (f"; and {len(rows) - LISTED} more" if len(rows) > LISTED else "")


def read_rows(path: Path) -> list[Row]:
    """Return every row of a table file.  Raises ConfigError if the file is no table."""
    if not path.is_file():
        raise ConfigError(f"there is no file {path}.")
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return [
                Row(number, dict(cells), {key: cells[key] for key in SUBJECTS if cells.get(key)})
                for number, cells in enumerate(csv.DictReader(file), start=1)
            ]
    structured = path.parent / "tables.json"
    if path.suffix not in (".md", ".tex") or not structured.is_file():
        raise ConfigError(f"{path}: not a table with cells; those are CSV, Markdown and LaTeX files of results/tables.")
    try:
        table = next(t for t in from_json(structured.read_text(encoding="utf-8")) if t.name == path.stem)
    except (StopIteration, json.JSONDecodeError):
        raise ConfigError(f"{structured} has no table {path.stem!r}.") from None
    rows = [row for section in table.sections for row in _rows_of(section)]
    return [Row(number, row.cells, row.speaks_of, row.section) for number, row in enumerate(rows, start=1)]


def _rows_of(section: Section) -> list[Row]:
    names = column_names(section)
    return [
        Row(0, {n: cell.text for n, cell in zip(names, row, strict=True) if n}, {"method": row[0].text}, section.title)
        for row in section.rows
    ]


def column_names(section: Section) -> list[str]:
    """Return a unique name per column: its heading, or its group and title if the heading is not unique."""
    headings = [column.heading for column in section.columns]
    return [
        f"{column.group} {column.title}".strip() if headings.count(column.heading) > 1 else column.heading
        for column in section.columns
    ]


def metric_of(cell: TableCell, metrics: Sequence[str]) -> str | None:
    """Return the metric of a cell, from its row or the nearest heading to the left; None if neither names one."""
    if "metric" in cell.row.speaks_of:
        return cell.row.speaks_of["metric"]
    headings = {metric_names.heading(metric): metric for metric in metrics}
    before = [*cell.row.cells][: [*cell.row.cells].index(cell.column) + 1]
    said = (m for column in reversed(before) for heading, m in headings.items() if f"{column} ".startswith(f"{heading} "))
    return next(said, None)

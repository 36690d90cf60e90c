"""A table independent of its format: sections of rows, and notes below."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

DASH = "–"
"""The cell text for a missing value."""


@dataclass(frozen=True)
class Cell:
    """One cell. text: plain characters, numbers with an ASCII minus; marks: the marks of its notes."""

    text: str = ""
    bold: bool = False
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """One column. kind: its alignment; group: heading over several neighbouring columns (a metric); alone: the title in
    formats without group headings."""

    title: str
    kind: Literal["text", "number"] = "text"
    group: str = ""
    alone: str = ""

    @property
    def heading(self) -> str:
        """The title for formats without group headings."""
        return self.alone or self.title


@dataclass(frozen=True)
class Section:
    """One part of a table; all sections of a table have the same number and kinds of columns."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Note:
    """A line below the table; with an empty mark it is about the whole table."""

    mark: str
    text: str


@dataclass(frozen=True)
class Table:
    """One table of the paper, for Markdown, LaTeX and the terminal."""

    name: str
    title: str
    caption: str
    label: str
    sections: tuple[Section, ...]
    notes: tuple[Note, ...] = ()


def number(value: float | None, decimals: int) -> str:
    """Format a value, a dash for None or NaN; never a negative zero."""
    if value is None or value != value:
        return DASH
    text = f"{value:.{decimals}f}"
    return text.lstrip("-") if float(text) == 0 else text


def limits(low: float | None, high: float | None, decimals: int) -> str:
    """Format an interval, a dash if a limit is None or NaN."""
    if low is None or high is None or low != low or high != high:
        return DASH
    return f"[{number(low, decimals)}, {number(high, decimals)}]"


def p_value(p: float) -> str:
    """Format a p value with three decimal places, `<0.001` below that."""
    return "<0.001" if p < 0.001 else number(p, 3)


def grouped(text: str) -> str:
    """Add thousands separators to a number of five digits or more: 1234 → 1234, 12345.6 → 12,345.6."""
    whole, point, rest = text.partition(".")
    digits = whole.lstrip("-")
    if not digits.isascii() or not digits.isdigit() or len(digits) < 5:
        return text
    return f"{'-' if whole.startswith('-') else ''}{int(digits):,}{point}{rest}"


def to_json(tables: Sequence[Table]) -> str:
    """Return the complete tables as JSON, for other programs and for `from_json`."""
    return json.dumps([asdict(table) for table in tables], indent=1, ensure_ascii=False) + "\n"


def from_json(text: str) -> tuple[Table, ...]:
    """Return the tables that `to_json` wrote."""
    return tuple(_table(table) for table in json.loads(text))


def _table(given: dict[str, Any]) -> Table:
    sections = tuple(
        Section(
            section["title"],
            tuple(Column(**column) for column in section["columns"]),
            tuple(tuple(Cell(**{**c, "marks": tuple(c["marks"])}) for c in row) for row in section["rows"]),
        )
        for section in given["sections"]
    )
    return Table(**{**given, "sections": sections, "notes": tuple(Note(**note) for note in given["notes"])})

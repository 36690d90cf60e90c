"""Tables for the terminal, with rich."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from lora_ns.reporting.tables.table import Cell, Column, Section, Table, grouped


def print_tables(tables: Sequence[Table], console: Console) -> None:
    """Print the tables one below the other."""
    for table in tables:
        print_table(table, console)


def print_table(table: Table, console: Console) -> None:
    """Print the table; names are folded to fit the console's width.  A table without sections is not printed."""
    if not table.sections:
        return
    console.print(Text(table.title, style="bold"))
    for section in table.sections:
        console.print(_rich(section))
    for note in table.notes:
        console.print(Text(f"{note.mark}: {note.text}" if note.mark else note.text, style="dim"))
    console.print()


def _rich(section: Section) -> RichTable:
    shown = [i for i, column in enumerate(section.columns) if column.title and column.title != "SE"]
    drawn = RichTable(title=Text(section.title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for i in shown:
        column = section.columns[i]
        right = column.kind == "number"
        drawn.add_column(Text(column.heading), justify="right" if right else "left", no_wrap=False, overflow="fold")
    for row in section.rows:
        drawn.add_row(*(_text(row[i], section.columns[i]) for i in shown))
    return drawn


def _text(cell: Cell, column: Column) -> Text:
    text = Text(grouped(cell.text) if column.kind == "number" else cell.text, style="bold" if cell.bold else "")
    return text.append(f" {','.join(cell.marks)}", style="dim") if cell.marks else text

"""A table as Markdown: one pipe table for each section."""

import re

from lora_ns.reporting.tables.table import Cell, Column, Section, Table, grouped


def to_markdown(table: Table, made_by: str = "") -> str:
    """Return the table with its title, caption and notes; made_by: a provenance line for a comment at the end."""
    parts = [f"# {_escape(table.title)}"]
    if table.caption and table.caption != table.title:
        parts.append(_escape(table.caption))
    for section in table.sections:
        parts += [f"## {_escape(section.title)}"] if section.title else []
        parts.append(_pipes(section))
    if table.notes:
        parts.append("\n".join(f"- {f'{note.mark}: ' if note.mark else ''}{_escape(note.text)}" for note in table.notes))
    if made_by:
        parts.append(f"<!-- {' '.join(made_by.split()).replace('-->', '--&gt;')} -->")
    return "\n\n".join(parts) + "\n"


def _pipes(section: Section) -> str:
    shown = [i for i, column in enumerate(section.columns) if column.title]
    columns = [section.columns[i] for i in shown]
    lines = [[_escape(c.heading) for c in columns]]
    lines += [[_cell(row[i], section.columns[i]) for i in shown] for row in section.rows]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(columns))]
    right = [c.kind == "number" for c in columns]
    rule = [("-" * (w - 1) + ":") if r else "-" * w for w, r in zip(widths, right, strict=True)]
    lines.insert(1, rule)
    return "\n".join(
        "| " + " | ".join(t.rjust(w) if r else t.ljust(w) for t, w, r in zip(line, widths, right, strict=True)) + " |"
        for line in lines
    )


def _cell(cell: Cell, column: Column) -> str:
    text = grouped(cell.text) if column.kind == "number" else cell.text
    text = f"**{_escape(text)}**" if cell.bold else _escape(text)
    return f"{text} {','.join(cell.marks)}" if cell.marks else text


def _escape(text: str) -> str:
    return re.sub(r"([\\|*`]|<(?=[a-zA-Z/!?]))", r"\\\1", " ".join(text.split()))

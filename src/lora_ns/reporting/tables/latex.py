"""Tables as LaTeX: booktabs rules, numbers in siunitx columns, notes below.

pandas' Styler writes one header per table. These tables have one header per section, so they are written here.
"""

import re
from collections.abc import Sequence
from itertools import groupby

from lora_ns.reporting.tables.table import Cell, Column, Note, Section, Table

FLOAT_ROWS = 38
"""Rows that fit on one page. A longer table becomes a longtable, which breaks over pages."""

WRAP_AT = 26
"""Width in characters at which a text column wraps."""

TEXT_POINTS = 470
_LETTER_POINTS = {r"\small": 4.6, r"\footnotesize": 4.1, r"\scriptsize": 3.7}
"""Mean character width in points; TEXT_POINTS: text width in paper.tex in points."""

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "–": "--",
    "—": "---",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "√": r"$\surd$",
    "→": r"$\rightarrow$",
    "“": "``",
    "”": "''",
    "‘": "`",
    "’": "'",
    "…": r"\dots{}",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    "§": r"\S{}",
    "¶": r"\P{}",
}


def escape(text: str) -> str:
    """Escape plain text for pdflatex; a character outside its fonts becomes its code point, such as [U+4E2D]."""
    return "".join(_SPECIAL.get(c) or (c if c.isprintable() and ord(c) < 0x180 else f"[U+{ord(c):04X}]") for c in text)


def to_latex(table: Table) -> str:
    """Return the table as a float, or as a longtable if it is longer than a page.

    The document needs booktabs, siunitx, longtable, array and graphicx.
    """
    if not table.sections:
        return "".join(f"% {note.text}\n" for note in table.notes)
    rows = sum(len(section.rows) + 2 for section in table.sections)
    size = _size(table.sections)
    body = _body(table.sections)
    columns = _column_formats(table.sections)
    caption = f"\\caption{{{escape(table.caption)}}}\\label{{{label(table.label)}}}"
    spacing = r"\setlength{\tabcolsep}{4pt}\setlength{\belowcaptionskip}{4pt}"
    if rows <= FLOAT_ROWS:
        lines = [r"\begin{table}[htbp]", r"\centering", size, spacing, caption]
        # shrink the table only if it is wider than the text
        lines += [r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"]
        lines += [f"\\begin{{tabular}}{{@{{}}{columns}@{{}}}}", r"\toprule", *body, r"\bottomrule", r"\end{tabular}}"]
        lines += [*_notes(table.notes), r"\end{table}"]
    else:
        width = len(table.sections[0].columns)
        follows = rf"\multicolumn{{{width}}}{{@{{}}l}}{{\emph{{continued}}}} \\"
        lines = [r"\begingroup", size, spacing, f"\\begin{{longtable}}{{@{{}}{columns}@{{}}}}"]
        lines += [caption + r" \\", r"\toprule", r"\endfirsthead", follows, r"\toprule", r"\endhead"]
        lines += [r"\bottomrule", r"\endfoot", *body, r"\end{longtable}", *_notes(table.notes), r"\endgroup"]
    return "\n".join(lines) + "\n"


def _size(sections: Sequence[Section]) -> str:
    """Return the largest font size that should fit the text width: a longtable cannot be shrunk."""
    columns = range(len(sections[0].columns))
    letters = sum(min(_longest(sections, i), WRAP_AT) for i in columns)
    return next((size for size, letter in _LETTER_POINTS.items() if letters * letter + 8 * len(columns) <= TEXT_POINTS), r"\tiny")


def _longest(sections: Sequence[Section], index: int) -> int:
    """Return the characters of a column's longest cell or title; note marks count half."""
    cells = [row[index] for section in sections for row in section.rows]
    heads = [len(section.columns[index].title) for section in sections]
    return max([*heads, *(len(c.text) + len(",".join(c.marks)) // 2 for c in cells)])


def _body(sections: Sequence[Section]) -> list[str]:
    lines: list[str] = []
    for index, section in enumerate(sections):
        lines += [r"\midrule"] if index else []
        if section.title:
            # \\* forbids a page break between a header and its rows
            # \rlap has no width, so a long title does not widen the columns
            title = rf"\rlap{{\parbox[t]{{.95\linewidth}}{{\raggedright\textbf{{{_breakable(section.title)}}}\strut}}}}"
            lines.append(rf"\multicolumn{{{len(section.columns)}}}{{@{{}}l}}{{{title}}} \\*")
        lines += _header(section.columns)
        lines += [" & ".join(_cell(c, k) for c, k in zip(row, section.columns, strict=True)) + r" \\" for row in section.rows]
    return lines


def _header(columns: Sequence[Column]) -> list[str]:
    over, rules, start = [], [], 1
    for group, members in groupby(columns, key=lambda c: c.group):
        span = len(list(members))
        over.append(rf"\multicolumn{{{span}}}{{c}}{{{escape(group)}}}" if group else " & ".join(["{}"] * span))
        rules += [rf"\cmidrule(lr){{{start}-{start + span - 1}}}"] if group else []
        start += span
    titles = " & ".join(f"{{{escape(c.title)}}}" for c in columns) + r" \\*"
    head = [" & ".join(over) + r" \\*", "".join(rules)] if rules else []
    return [*head, titles, r"\midrule"]


def _cell(cell: Cell, column: Column) -> str:
    marks = "".join(rf"\textsuperscript{{{escape(','.join(cell.marks))}}}") if cell.marks else ""
    if column.kind == "number" and re.fullmatch(r"-?\d+(\.\d+)?", cell.text):
        return (r"\bfseries " if cell.bold else "") + cell.text + (f" {{{marks}}}" if marks else "")
    text = _breakable(cell.text) if len(cell.text) > WRAP_AT else escape(cell.text)
    # LaTeX reads a [ after \\ as the length of a vertical gap
    text = f"{{{text.replace('-', '$-$')}}}" if text.startswith("[") else text
    text = rf"\textbf{{{text}}}" if cell.bold and text else text
    return f"{{{text}{marks}}}" if column.kind == "number" else text + marks


def _breakable(text: str) -> str:
    """Escape text and allow a line break within names, after _ - / . :"""
    return "".join(escape(c) + (r"\allowbreak{}" if c in "_-/.:" else "") for c in text)


def _column_formats(sections: Sequence[Section]) -> str:
    return " ".join(_column_format(sections, i) for i in range(len(sections[0].columns)))


def _column_format(sections: Sequence[Section], index: int) -> str:
    if sections[0].columns[index].kind == "text":
        wide = _longest(sections, index) > WRAP_AT
        return rf">{{\raggedright\arraybackslash}}p{{{WRAP_AT / 2:g}em}}" if wide else "l"
    numbers = [m for s in sections for row in s.rows if (m := re.fullmatch(r"(-?)(\d+)(?:\.(\d+))?", row[index].text))]
    if not numbers:
        return "c"
    sign = "-" if any(m[1] for m in numbers) else ""
    whole, places = max(len(m[2]) for m in numbers), max(len(m[3] or "") for m in numbers)
    # sections with fewer decimal places (per cent, loss) print as written: siunitx does not pad here
    return rf"S[table-format={sign}{whole}.{places}, detect-weight, table-align-text-post=false]"


def _notes(notes: Sequence[Note]) -> list[str]:
    if not notes:
        return []
    lines = []
    for note in notes:
        mark = rf"\textsuperscript{{{escape(note.mark)}}}\," if note.mark else ""
        lines.append(mark + _breakable(note.text))
    return [r"\par\smallskip", r"{\footnotesize\raggedright", " \\\\\n".join(lines) + r"\par}"]


def label(name: str) -> str:
    """Return a valid LaTeX label: special characters become hyphens."""
    return re.sub(r"[^A-Za-z0-9:.\-]+", "-", name).strip("-")

"""A picture of the house, drawn from the imports: docs/reference/house.svg.  `docs/conf.py` calls `write` at every build.

A row is a room, a column is a room that it uses, and a number counts the imports.  Rooms stand in the order of imports, so that
every number lies below the diagonal.
"""

from __future__ import annotations

import ast
from collections import Counter
from html import escape
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "src/lora_ns"
ROOMS = """
    errors config benchmarks store data experiment models training evaluation merging reporting workflow provenance cli
""".split()
"""In the order of imports: a room uses what stands before it, never what stands after."""

CELL, LEFT, TOP, MEANING = 34, 170, 96, 640
"""Pixels: side of a cell, width of the rooms' names, height of the column heads, width of the rooms' purposes."""


def write(folder: Path) -> None:
    """The picture, only where it changed."""
    folder.mkdir(exist_ok=True)
    path, text = folder / "house.svg", draw(imports())
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def imports() -> Counter[tuple[str, str]]:
    """(room, room that it uses) -> number of import statements, inside functions too."""
    found: Counter[tuple[str, str]] = Counter()
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lora_ns."):
                used = str(node.module).split(".")[1]
                if own in ROOMS and used != own:
                    found[own, used] += 1
    return found


def purpose(room: str) -> str:
    """The first sentence of the room's docstring."""
    path = PACKAGE / room / "__init__.py"
    path = path if path.is_file() else PACKAGE / f"{room}.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.replace("\n", " ").partition(". ")[0].rstrip(".") + "."


def draw(counts: Counter[tuple[str, str]]) -> str:
    """The matrix as SVG, with each room's purpose beside its row."""
    side = CELL * len(ROOMS)
    width, height = LEFT + side + MEANING, TOP + side + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        'aria-label="Which room imports which" font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for at, room in enumerate(ROOMS):
        x, y = LEFT + CELL * at, TOP + CELL * at
        parts.append(f'<text x="{LEFT - 8}" y="{y + 22}" text-anchor="end" font-weight="bold">{room}</text>')
        parts.append(f'<text transform="translate({x + 21},{TOP - 6}) rotate(-60)">{room}</text>')
        parts.append(f'<text x="{LEFT + side + 12}" y="{y + 22}" fill="#444">{escape(purpose(room))}</text>')
        parts.append(f'<rect x="{x}" y="{y}" width="{CELL}" height="{CELL}" fill="#bbb"/>')
        for before, used in enumerate(ROOMS[:at]):
            count = counts[room, used]
            left, shade = LEFT + CELL * before, "#f4f6fa" if not count else "#cfe0f5" if count < 10 else "#8fb5e6"
            parts.append(f'<rect x="{left}" y="{y}" width="{CELL}" height="{CELL}" fill="{shade}" stroke="#fff"/>')
            if count:
                parts.append(f'<text x="{left + CELL / 2}" y="{y + 22}" text-anchor="middle">{count}</text>')
    return "\n".join([*parts, "</svg>", ""])

"""The report as one self-contained file: it loads nothing external, and its content security policy forbids it."""

import base64
import gzip
import json
from collections.abc import Iterator
from html import escape
from importlib.resources import files
from typing import Any

from lora_ns.reporting.html.details import Details

SCRIPTS = ("dom.js", "data.js", "table.js", "figures.js", "overview.js", "run.js", "compare.js", "main.js")
"""The page's own scripts, in loading order."""


def page(overview: dict[str, Any], details: Details) -> str:
    """Return index.html.  The first view's data is plain JSON; plotly and the runs' details are packed (gzip, base64)."""
    own = files("lora_ns.reporting.html") / "page"
    numbers = {evaluation: number for number, evaluation in enumerate(details.eval_sets)}
    parts = [_packed(f"exam-{numbers[name]}", _json(exam)) for name, exam in details.eval_sets.items()]
    parts += [_packed(f"run-{number}", _json(run)) for number, run in enumerate(details.runs)]
    parts.append(_packed("plotly", _plotly()))
    values = {
        "TITLE": escape(overview["title"]),
        "STYLE": (own / "style.css").read_text(encoding="utf-8"),
        "OVERVIEW": _for_script(_json({**overview, "exams": numbers})),
        "PARTS": "\n".join(parts),
        "SCRIPT": "\n".join(f"// {name}\n{(own / name).read_text(encoding='utf-8')}" for name in SCRIPTS),
    }
    return "".join(_filled((own / "page.html").read_text(encoding="utf-8"), values))


def _filled(template: str, values: dict[str, str]) -> Iterator[str]:
    """Yield the template with each {{NAME}} replaced; inserted values are not scanned for further names."""
    first, *rest = template.split("{{")
    yield first
    for piece in rest:
        name, _, after = piece.partition("}}")
        yield values[name]
        yield after


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _for_script(text: str) -> str:
    """Escape `<` in JSON, so that no model output can end the script element."""
    return text.replace("<", "\\u003c")


def _packed(name: str, text: str) -> str:
    data = base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()
    return f'<script type="text/plain" id="packed-{name}">{data}</script>'


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())

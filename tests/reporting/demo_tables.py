"""The tables of synthetic scores, for the tests."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from synthetic_scores import write_scores

from lora_ns.reporting.tables.build import TablesResult, make_tables

METHODS = ["none", "prompt_tuning", "prefix_tuning", "lora", "full"]
EXPERIMENT = {
    "name": "demo",
    "title": "Demo",
    "baseline": "lora",
    "methods": METHODS,
    "tasks": ["word_problems", "paraphrase", "functions"],
    "caption": "Five methods.",
    "label": "tab:demo",
}


def tables_of(root: Path, scores, missing=(), tuning=(), general=(), **changes) -> TablesResult:
    out = root / "results" / "tables" / "demo"
    present = {s["task"] for s in scores} | {m["task"] for m in missing}
    changes = {"tasks": [task for task in EXPERIMENT["tasks"] if task in present], **changes}
    return make_tables({**EXPERIMENT, **changes}, write_scores(root, scores), missing, out, tuning, general)


def read(result: TablesResult, name: str) -> str:
    return next(path for path in result.files if path.name == name).read_text(encoding="utf-8")


def main_row(result: TablesResult, method: str, metric: str, task: str = "word_problems") -> pd.Series:
    frame = result.frames["main"]
    (row,) = [r for _, r in frame.iterrows() if (r.task, r.method, r.metric) == (task, method, metric)]
    return row

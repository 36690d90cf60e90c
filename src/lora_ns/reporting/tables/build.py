"""Scores to the files of `results/tables/<experiment>/`, byte for byte the same for the same scores."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lora_ns.reporting.results import Results, collect, values_frame
from lora_ns.reporting.tables.comparison import compare_with_baseline, comparison_table
from lora_ns.reporting.tables.cost import cost_table, costs
from lora_ns.reporting.tables.forgetting import forgetting, forgetting_table
from lora_ns.reporting.tables.latex import to_latex
from lora_ns.reporting.tables.markdown import to_markdown
from lora_ns.reporting.tables.over_tasks import over_tasks, over_tasks_table
from lora_ns.reporting.tables.paper import paper
from lora_ns.reporting.tables.summary import main_table, summarise
from lora_ns.reporting.tables.table import Table, to_json
from lora_ns.reporting.tables.tuning import tuning_frame, tuning_table

TABLES = ("main", "comparison", "over_tasks", "cost", "forgetting", "tuning")

TABLE_FILES = (
    "values.csv",
    *(f"{name}.{ending}" for name in TABLES for ending in ("csv", "md", "tex")),
    "paper.tex",
    "tables.json",
)
"""The files that make_tables always writes into the experiment's folder."""


@dataclass(frozen=True)
class TablesResult:
    """The tables as data (`frames`), in printed form (`tables`), and the files written."""

    experiment: str
    frames: Mapping[str, pd.DataFrame]
    tables: tuple[Table, ...]
    files: tuple[Path, ...]


def make_tables(
    experiment: Mapping[str, Any],
    score_paths: Sequence[Path],
    missing: Sequence[Mapping[str, Any]],
    out: Path,
    tuning: Sequence[Mapping[str, Any]] = (),
    general: Collection[str] = (),
) -> TablesResult:
    """Write the experiment's tables and return them.

    experiment: name, title, baseline, methods and tasks in the order of the tables, caption, label.
    score_paths: the score files of its runs.
    missing: for each run without all its scores: run, task, method, seed, state ("missing" or "failed"), reason, and the
    missing benchmarks.
    out: `results/tables/<experiment>`; printed paths are relative to the folder three levels above it.
    tuning: the runs of the search on the validation split (see `tuning_frame`).
    general: names of the evaluations on general text.
    Raises DataError if a score file cannot be used.
    """
    results = collect(experiment, score_paths, missing, out.resolve().parents[2], general)
    return write_tables(results, out, tuning)


def write_tables(results: Results, out: Path, tuning: Sequence[Mapping[str, Any]] = (), made_by: str = "") -> TablesResult:
    """Write the tables of collected results and return them; made_by: a provenance line for every table."""
    frames = {
        "values": values_frame(results),
        "main": summarise(results),
        "comparison": compare_with_baseline(results),
        "over_tasks": over_tasks(results),
        "cost": costs(results),
        "forgetting": forgetting(results),
        "tuning": tuning_frame(results, tuning),
    }
    tables = (
        main_table(results, frames["main"]),
        comparison_table(results, frames["comparison"]),
        over_tasks_table(results, frames["over_tasks"]),
        cost_table(results, frames["cost"]),
        forgetting_table(results, frames["forgetting"]),
        tuning_table(results, frames["tuning"]),
    )
    contents = {f"{name}.csv": _csv(frame) for name, frame in frames.items()}
    for table in tables:
        contents[f"{table.name}.md"] = to_markdown(table, made_by)
        contents[f"{table.name}.tex"] = f"% {' '.join(made_by.split())}\n{to_latex(table)}" if made_by else to_latex(table)
    contents["paper.tex"] = paper(results.experiment, tables, out.name)
    contents["tables.json"] = to_json(tables)
    out.mkdir(parents=True, exist_ok=True)
    for name in TABLE_FILES:
        (out / name).write_text(contents[name], encoding="utf-8", newline="\n")
    return TablesResult(results.experiment.name, frames, tables, tuple(out / name for name in TABLE_FILES))


def _csv(frame: pd.DataFrame) -> str:
    # ten digits hide rounding differences between numpy builds
    return frame.to_csv(index=False, lineterminator="\n", float_format="%.10g")

"""The tuning table: settings tried and chosen on the validation split, and whether the best is on the grid's edge."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lora_ns.benchmarks import metric_names
from lora_ns.reporting.results import Results
from lora_ns.reporting.tables.notes import Notes
from lora_ns.reporting.tables.table import DASH, Cell, Column, Section, Table, number

COLUMNS = ("task", "method", "parameter", "chosen", "tried", "on_edge", "metric", "value", "num_settings", "num_failed")


def tuning_frame(results: Results, trials: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return one row per task, method and searched parameter.

    trials: for each run of the search task, method, setting {parameter: value}, metric, value (null if it failed) and
    chosen (bool).
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for trial in trials:
        groups.setdefault((trial["task"], trial["method"]), []).append(trial)
    rows = []
    for (task, method), tried in sorted(groups.items(), key=lambda group: _place(results, *group[0])):
        chosen = next((t for t in tried if t.get("chosen")), None)
        failed = sum(t.get("value") is None for t in tried)
        settings = {tuple(sorted((k, str(v)) for k, v in t["setting"].items())) for t in tried}
        for parameter in sorted({name for t in tried for name in t["setting"]}):
            values = sorted({t["setting"][parameter] for t in tried if parameter in t["setting"]}, key=_sortable)
            scored = {t["setting"].get(parameter) for t in tried if t.get("value") is not None}
            best = chosen["setting"].get(parameter) if chosen else None
            rows.append(
                (
                    task,
                    method,
                    parameter,
                    _plain(best) if best is not None else "",
                    " ".join(_plain(v) for v in values),
                    len(values) > 1 and _on_edge(best, [v for v in values if v in scored]),
                    tried[0].get("metric", ""),
                    chosen.get("value") if chosen else None,
                    len(settings),
                    failed,
                )
            )
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"value": float})


def tuning_table(results: Results, frame: pd.DataFrame) -> Table:
    """Return the printed tuning table, one section per task."""
    experiment, notes = results.experiment, Notes(results)
    columns = (
        Column("Method"),
        Column("parameter"),
        Column("chosen"),
        Column("tried"),
        Column("validation", "number"),
        Column("settings", "number"),
        Column("failed", "number"),
    )
    sections = []
    for task, rows in frame.groupby("task", sort=False):
        metrics = ", ".join(dict.fromkeys(rows.metric))
        title = f"{task}, chosen by {metrics} on the validation split"
        sections.append(Section(title, columns, tuple(_row(row, notes) for _, row in rows.iterrows())))
    if not sections:
        notes.explain("Nothing was tuned: every method ran with the settings of its own file.")
    return Table(
        name="tuning",
        title=f"{experiment.heading}: tuning",
        caption=experiment.caption_of("Settings searched and chosen on the validation split, never on the test split."),
        label=experiment.label_of("tuning"),
        sections=tuple(sections),
        notes=notes.all(),
    )


def _row(row: pd.Series, notes: Notes) -> tuple[Cell, ...]:
    edge = notes.symbol("†", "On the edge of what was tried: a wider search might find better.") if row.on_edge else ()
    scale, places = metric_names.print_factor(row.metric), metric_names.decimals(row.metric)
    return (
        Cell(row.method),
        Cell(row.parameter),
        Cell(row.chosen or DASH, marks=edge),
        Cell(row.tried),
        Cell(number(row.value * scale, places)),
        Cell(number(row.num_settings, 0)),
        Cell(number(row.num_failed, 0)),
    )


def _on_edge(best: Any, values: Sequence[Any]) -> bool:
    """Whether the best value is the smallest or greatest; False unless all are numbers.  values: those with a score, sorted."""
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    return best is not None and numeric and best in (values[0], values[-1])


def _place(results: Results, task: str, method: str) -> tuple[int, int, str, str]:
    """Return the sort key for the order of the other tables; unknown tasks and methods come last."""
    tasks, methods = [*results.tasks, task], [*results.methods, method]
    return tasks.index(task), methods.index(method), task, method


def _sortable(value: Any) -> tuple[bool, float, str]:
    numeric = isinstance(value, int | float)
    return (not numeric, value if numeric else 0.0, str(value))


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)

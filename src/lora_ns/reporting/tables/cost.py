"""The cost table: training, storage and evaluation cost of each method."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from lora_ns.reporting.results import Results
from lora_ns.reporting.score_file import Score
from lora_ns.reporting.tables.notes import Notes
from lora_ns.reporting.tables.table import Cell, Column, Section, Table, number

MEBIBYTE = 2**20


@dataclass(frozen=True)
class Cost:
    """Cost of one method on one task and model: means over its runs, memory as the greatest peak. NaN: not measured."""

    task: str
    model: str
    method: str
    trainable_parameters: float
    trainable_percent: float
    adapter_bytes: float
    train_seconds: float
    train_peak_memory_bytes: float
    train_tokens_per_second: float
    train_energy_joules: float
    evaluate_seconds: float
    evaluate_peak_memory_bytes: float
    num_runs: int
    """Runs with all their scores."""
    num_failed: int
    num_missing: int
    num_fused: int
    """Runs that were trained together with others in one process."""


def costs(results: Results) -> pd.DataFrame:
    """Return one row per task, model and method, even if the method has no run."""
    pairs = dict.fromkeys((block.task, block.model) for block in results.blocks)
    rows = [_cost(results, task, model, method) for task, model in pairs for method in results.methods]
    return pd.DataFrame(rows, columns=list(Cost.__dataclass_fields__))


def _cost(results: Results, task: str, model: str, method: str) -> Cost:
    scores = [s for s in results.scores if (s.task, s.model, s.method) == (task, model, method)]
    runs: dict[str, list[Score]] = {}
    for score in scores:
        runs.setdefault(score.run, []).append(score)
    # training cost counts once per run, not once per benchmark
    first = [of_run[0] for of_run in runs.values()]
    lacking = results.lacking(task, method)
    # a run with only some of its scores counts as missing, but its training cost is included
    done = runs.keys() - {m.run for m in lacking}
    states = [m.state for m in lacking]
    trainable, total = _mean(_known(first, "trainable_parameters")), _mean(_known(first, "total_parameters"))
    evaluating = [sum(seconds) for of_run in runs.values() if (seconds := _known(of_run, "evaluate_seconds"))]
    return Cost(
        task=task,
        model=model,
        method=method,
        trainable_parameters=trainable,
        trainable_percent=100 * trainable / total if total > 0 else float("nan"),
        adapter_bytes=_mean(_known(first, "adapter_bytes")),
        train_seconds=_mean(_known(first, "train_seconds")),
        train_peak_memory_bytes=_greatest(_known(first, "train_peak_memory_bytes")),
        train_tokens_per_second=_mean(_tokens_per_second(first)),
        train_energy_joules=_mean(_known(first, "train_energy_joules")),
        evaluate_seconds=_mean(evaluating),
        evaluate_peak_memory_bytes=_greatest(_known(scores, "evaluate_peak_memory_bytes")),
        num_runs=len(done),
        num_failed=states.count("failed"),
        num_missing=states.count("missing"),
        num_fused=sum(bool((score.trained.get("circumstances") or {}).get("fused_with")) for score in first),
    )


def cost_table(results: Results, frame: pd.DataFrame) -> Table:
    """Return the printed cost table; it has an energy column only if energy was measured."""
    experiment, notes = results.experiment, Notes(results)
    energy = bool(frame.train_energy_joules.notna().any())
    columns = (
        Column("Method"),
        Column("trainable", "number", "parameters", alone="trainable parameters"),
        Column("%", "number", "parameters", alone="% of all"),
        Column("adapter (MiB)", "number"),
        Column("time (s)", "number", "training", alone="training (s)"),
        Column("memory (MiB)", "number", "training", alone="training memory (MiB)"),
        Column("tokens/s", "number", "training", alone="training tokens/s"),
        *([Column("energy (kJ)", "number", "training", alone="training energy (kJ)")] if energy else []),
        Column("time (s)", "number", "evaluation", alone="evaluation (s)"),
        Column("memory (MiB)", "number", "evaluation", alone="evaluation memory (MiB)"),
        Column("runs"),
    )
    sections = []
    for (task, model), rows in frame.groupby(["task", "model"], sort=False):
        cells = tuple(_row(row, notes, energy) for _, row in rows.iterrows())
        sections.append(Section(", ".join(str(part) for part in (task, model) if part), columns, cells))
    notes.explain(
        "Means over runs; memory: the greatest peak. Runs: done of planned. A dash: not measured. Training and "
        "evaluation are timed without loading the model and the data."
    )
    return Table(
        name="cost",
        title=f"{experiment.heading}: cost",
        caption=experiment.caption_of("Cost."),
        label=experiment.label_of("cost"),
        sections=tuple(sections),
        notes=notes.all(),
    )


def _row(row: pd.Series, notes: Notes, energy: bool) -> tuple[Cell, ...]:
    planned = row.num_runs + row.num_failed + row.num_missing
    numbers = (
        number(row.trainable_parameters, 0),
        number(row.trainable_percent, 2),
        number(row.adapter_bytes / MEBIBYTE, 2),
        number(row.train_seconds, 1),
        number(row.train_peak_memory_bytes / MEBIBYTE, 0),
        number(row.train_tokens_per_second, 0),
        *([number(row.train_energy_joules / 1000, 1)] if energy else []),
        number(row.evaluate_seconds, 1),
        number(row.evaluate_peak_memory_bytes / MEBIBYTE, 0),
        f"{row.num_runs}/{planned}" if planned else number(None, 0),
    )
    marks = notes.of_missing(row.task, row.method)
    if row.num_fused:
        marks += notes.symbol(
            "§", "Trained at once with other runs: time is a run's share of the whole, memory that of the whole."
        )
    return (Cell(row.method, marks=marks), *(Cell(text) for text in numbers))


def _tokens_per_second(scores: list[Score]) -> list[float]:
    pairs = [(s.cost.get("train_tokens"), s.cost.get("train_seconds")) for s in scores]
    return [tokens / seconds for tokens, seconds in pairs if tokens is not None and seconds]


def _known(scores: list[Score], name: str) -> list[float]:
    return [value for s in scores if (value := s.cost.get(name)) is not None]


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _greatest(values: list[float]) -> float:
    return max(values) if values else float("nan")

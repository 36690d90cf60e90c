"""The verb that looks ahead: plan."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from lora_ns.cli.options import ExperimentArgument
from lora_ns.experiment import load_experiment
from lora_ns.store import Store, exists

app = typer.Typer()


@app.command()
def plan(
    experiment: ExperimentArgument,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Every run of an experiment and what is there of it.  Example: lora-ns plan configs/experiments/demo.yaml"""
    store = Store()
    runs = load_experiment(experiment, store).runs
    lines: list[dict[str, Any]] = []
    for run in runs:
        scores = [store.score(run.name, evaluation.name).is_file() for evaluation in run.evaluations]
        trained = exists(store.adapter(run.name))
        state = "done" if scores and all(scores) else "trained" if trained else "missing"
        config = run.config
        lines.append(
            {"run": run.name, "task": config.task_name, "method": config.method, "seed": config.seed, "state": state}
        )
    if as_json:
        typer.echo(json.dumps(lines, indent=1))
        return
    table = Table("run", "state", box=None)
    for line in lines:
        table.add_row(line["run"], line["state"])
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    done = sum(line["state"] == "done" for line in lines)
    typer.echo(f"{len(lines)} runs: {done} done, {len(lines) - done} to do.")

"""The commands that read scores: choose, tables, report.  None of them trains."""

import sys
from typing import Annotated

import typer
from rich.console import Console

from lora_ns.cli.options import ExperimentArgument
from lora_ns.errors import ConfigError
from lora_ns.experiment.study import load_experiment
from lora_ns.store.paths import Store

app = typer.Typer()


@app.command()
def choose(experiment: ExperimentArgument) -> None:
    """Settings from a search's trials, where the experiment has a `tune:`.  Example: lora-ns choose experiment.yaml"""
    from lora_ns.experiment.selection import choose as run_stage

    store = Store()
    loaded = load_experiment(experiment, store)
    if loaded.choice is None:
        raise ConfigError(f"{experiment}: it searches for nothing; `tune:` would say what.")
    typer.echo(run_stage(loaded, store))


@app.command()
def tables(
    experiment: ExperimentArgument, quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no tables.")] = False
) -> None:
    """Scores to tables and figures; never trains.  Example: lora-ns tables configs/experiments/demo.yaml"""
    from lora_ns.reporting.make_tables import tables as run_stage
    from lora_ns.reporting.tables.terminal import print_tables

    store = Store()
    loaded = load_experiment(experiment, store)
    made = run_stage(loaded, store)
    if not quiet:
        print_tables(made, Console(width=None if sys.stdout.isatty() else 160))
        typer.echo(f"Files: {store.tables(loaded.name)}/, {store.figures(loaded.name)}/", err=True)


@app.command()
def report(experiment: ExperimentArgument) -> None:
    """Tables, figures and every run as one HTML file.  Example: lora-ns report configs/experiments/demo.yaml"""
    from lora_ns.reporting.html.make_report import report as run_stage
    from lora_ns.reporting.make_tables import tables as make_tables

    store = Store()
    loaded = load_experiment(experiment, store)
    make_tables(loaded, store)
    typer.echo(run_stage(loaded, store))

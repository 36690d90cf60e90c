"""The commands for work in progress: status, logs."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lora_ns.cli.options import ExperimentArgument, console
from lora_ns.cli.units import seconds_as_text
from lora_ns.errors import LoraNsError
from lora_ns.experiment.study import load_experiment
from lora_ns.store.paths import Store
from lora_ns.store.progress import Progress, logs_of
from lora_ns.workflow.status import RunStatus, Status, run_named, status_of

app = typer.Typer()

EVERY_SECONDS = 1.0
"""Seconds between two refreshes of the live view or of the plain lines."""
SHOWN = 10
"""The most runs of one state that are listed."""


@app.command()
def status(
    experiment: ExperimentArgument,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Until nothing is left to do.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """How far an experiment is, here and in jobs elsewhere.  Example: lora-ns status configs/experiments/demo.yaml --watch"""
    store = Store()
    loaded = load_experiment(experiment, store)
    if as_json:
        typer.echo(json.dumps(_as_json(status_of(loaded, store)), indent=1))
    elif not watch:
        console().print(_view(status_of(loaded, store)))
    elif sys.stdout.isatty():
        _watch_live(lambda: status_of(loaded, store))
    else:
        _watch_plainly(lambda: status_of(loaded, store))


def _watch_live(look: Any) -> None:
    """Refresh one view in place until the experiment is complete."""
    with Live(console=console(), auto_refresh=False) as live:
        while True:
            now = look()
            live.update(_view(now), refresh=True)
            if now.is_complete:
                return
            time.sleep(EVERY_SECONDS)


def _watch_plainly(look: Any) -> None:
    """Print one line per change of a run's state, for output that is no terminal."""
    before: dict[str, str] = {}
    while True:
        now: Status = look()
        for run in now.runs:
            if before.get(run.run.name, "missing") != run.state:
                typer.echo(f"{_clock(now.time)} {_tally(now)}  {run.run.name} {run.state} {_first_line(run.reason)}".rstrip())
        before = {run.run.name: run.state for run in now.runs}
        if now.is_complete:
            return
        time.sleep(EVERY_SECONDS)


def _view(now: Status) -> RenderableType:
    """Return the view: running and failed runs by name, done and waiting runs as counts."""
    waiting = now.count("missing", "trained")
    head = Table.grid(padding=(0, 2))
    head.add_row(Text(now.name, style="bold"), ProgressBar(len(now.runs), now.count("done"), width=24), _tally(now))
    parts: list[RenderableType] = [head]
    if at_work := now.of("running", "silent"):
        parts.append(_working(at_work, now.time))
    parts += _listed("failed", [(run.run.name, _first_line(run.reason)) for run in now.of("failed")], "red")
    if waiting:
        trained = now.count("trained")
        parts.append(Text(f"waiting {waiting}" + (f", {trained} of them to be evaluated" if trained else ""), style="dim"))
    if now.needs_selection:
        parts.append(Text("the runs that are compared follow once the search's settings are chosen", style="dim"))
    return Group(*parts)


def _tally(now: Status) -> str:
    return f"{now.count('done')}/{len(now.runs)} done" + "".join(
        f", {count} {state}" for state in ("running", "silent", "failed") if (count := now.count(state))
    )


def _working(runs: list[RunStatus], now: float) -> Table:
    """Return one row per process at work."""
    table = Table.grid(padding=(0, 2))
    for run in runs[:SHOWN]:
        asked = {evaluation.name: evaluation.benchmark for evaluation in run.run.evaluations}
        for said in run.at_work:
            table.add_row(run.run.name, asked.get(said.stage, said.stage), *_said(said, now))
    if len(runs) > SHOWN:
        table.add_row(f"and {len(runs) - SHOWN} more")
    return table


def _said(said: Progress, now: float) -> list[Text]:
    """Return step, loss, time left, and host with job or process id."""
    where = f"job {said.job} on {said.host}" if said.job else f"{said.host}, process {said.pid}"
    loss = Text("" if said.loss is None else f"loss {said.loss:.3g}")
    steps = Text(f"{said.step:,}/{said.steps:,}")
    if said.is_silent(now):
        return [steps, loss, Text(f"silent for {seconds_as_text(now - said.time)}", style="yellow"), Text(where, "dim")]
    left = said.seconds_left(now)
    return [steps, loss, Text("" if left is None else f"{seconds_as_text(left)} left"), Text(where, style="dim")]


def _listed(word: str, rows: list[tuple[str, str]], style: str) -> list[RenderableType]:
    if not rows:
        return []
    table = Table.grid(padding=(0, 2))
    for name, reason in rows[:SHOWN]:
        table.add_row(Text(word, style=style), name, reason)
    if len(rows) > SHOWN:
        table.add_row("", f"and {len(rows) - SHOWN} more")
    return [table]


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""


def _clock(now: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(now))


def _as_json(now: Status) -> dict[str, Any]:
    return {
        "experiment": now.name,
        "searching": now.needs_selection,
        "runs": [
            {
                "run": run.run.name,
                "state": run.state,
                "reason": run.reason or None,
                "at_work": [
                    {
                        "stage": said.stage, "step": said.step, "steps": said.steps, "loss": said.loss,
                        "seconds_left": said.seconds_left(now.time), "silent": said.is_silent(now.time),
                        "host": said.host, "pid": said.pid, "job": said.job,
                    }
                    for said in run.at_work
                ],
            }
            for run in now.runs
        ],
    }  # fmt: skip


@app.command()
def logs(
    run: Annotated[
        str, typer.Argument(help="A run's name, a beginning of it, or EXPERIMENT:task/method/seed.", show_default=False)
    ],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="And what comes, until interrupted.")] = False,
    paths: Annotated[bool, typer.Option("--paths", help="Only where they lie.")] = False,
) -> None:
    """What a run's jobs have said, newest last.  Example: lora-ns logs configs/experiments/demo.yaml:paraphrase/lora/0"""
    store = Store()
    name = run_named(run, store)
    found = sorted(logs_of(name, store), key=lambda path: path.stat().st_mtime)
    if not found and not follow:
        raise LoraNsError(f"run {name} has no logs: the workflow writes them, and it has not begun with this run here.")
    for path in found:
        typer.echo(path if paths else f"==> {path} <==\n{path.read_text(encoding='utf-8', errors='replace').rstrip()}\n")
    if follow and not paths:
        for other, text in _new_text(store, name, {path: path.stat().st_size for path in found}):
            typer.echo(f"==> {other} <==\n{text}" if other else text, nl=False)


def _new_text(store: Store, name: str, read: dict[Path, int]) -> Iterator[tuple[Path | None, str]]:
    """Yield (the log file, None if it is the same as before; its new text), endlessly."""
    last: Path | None = None
    while True:
        for path in sorted(logs_of(name, store), key=lambda path: path.stat().st_mtime):
            size = path.stat().st_size
            if size == read.get(path, 0):
                continue
            with path.open("rb") as file:
                file.seek(read.get(path, 0) if size > read.get(path, 0) else 0)  # a retry truncates the file
                text = file.read().decode("utf-8", errors="replace")
            read[path] = size
            yield None if path == last else path, text
            last = path
        time.sleep(EVERY_SECONDS)

"""State of an experiment, read from files only, so it includes jobs on other hosts."""

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lora_ns.config import nearest
from lora_ns.errors import ConfigError
from lora_ns.experiment.study import Study, load_experiment
from lora_ns.store.artifact import is_finished
from lora_ns.store.failures import failure_of
from lora_ns.store.paths import Store
from lora_ns.store.progress import Progress
from lora_ns.store.run import Run, find_run

EXPERIMENTS = Path("configs/experiments")
"""Folder in which an experiment is looked up by name."""

State = Literal["done", "running", "silent", "failed", "trained", "missing"]
STATES: tuple[State, ...] = ("done", "running", "silent", "failed", "trained", "missing")
"""done      every score exists
running   a process says where it stands
silent    one did, and is dead or has said nothing for too long; the workflow, started again, goes on with it
failed    the last try failed
trained   the adapter is there, a score is not
missing   nothing has begun"""


@dataclass(frozen=True)
class RunStatus:
    """One run and its state."""

    run: Run
    state: State
    at_work: tuple[Progress, ...] = ()
    """Progress of its training and evaluations."""
    reason: str = ""
    """Why the last try failed."""


@dataclass(frozen=True)
class Status:
    """State of all runs of an experiment at one time."""

    name: str
    runs: tuple[RunStatus, ...]
    needs_selection: bool
    """Whether settings are not selected yet, so that more runs will follow."""
    time: float

    def count(self, *states: State) -> int:
        """Count the runs in any of these states."""
        counts = Counter(status.state for status in self.runs)
        return sum(counts[state] for state in states)

    def of(self, *states: State) -> list[RunStatus]:
        """Return the runs in any of these states."""
        return [status for status in self.runs if status.state in states]

    @property
    def is_complete(self) -> bool:
        """Whether every run is done and settings are chosen."""
        return not self.needs_selection and self.count("done") == len(self.runs)


def status_of(experiment: Study, store: Store) -> Status:
    """Return the state of every run, trials first."""
    now = time.time()
    experiment = experiment.with_selection()
    runs = tuple(status_of_run(run, store, now) for run in all_runs(experiment))
    return Status(experiment.name, runs, experiment.needs_selection, now)


def all_runs(experiment: Study, *, provisional: bool = False) -> list[Run]:
    """Return every run: trials, compared runs, and base models for forgetting. A run with two roles has the evaluations of both.

    provisional: before settings are chosen, include the compared runs with the first setting of their grid.
    """
    compared = experiment.planned_runs if provisional and experiment.needs_selection else experiment.with_selection().runs
    merged: dict[str, Run] = {}
    for run in (*(trial.run for trial in experiment.trials), *compared, *experiment.bases):
        known = merged.get(run.name)
        merged[run.name] = run if known is None else _asked_both(known, run)
    return [*merged.values()]


def _asked_both(first: Run, second: Run) -> Run:
    both = Run(second.config, second.store)
    both.__dict__["evaluations"] = [*{e.name: e for e in (*first.evaluations, *second.evaluations)}.values()]
    return both


def status_of_run(run: Run, store: Store, now: float) -> RunStatus:
    """The state of one run."""
    scores = [path.is_file() for path in run.scores]
    if scores and all(scores):
        return RunStatus(run, "done")
    said = [Progress.read(store.progress(run.name, stage)) for stage in ("train", *(e.name for e in run.evaluations))]
    at_work = tuple(progress for progress in said if progress is not None)
    alive = tuple(progress for progress in at_work if not progress.is_silent(now))
    if alive:
        return RunStatus(run, "running", alive)
    failed = failure_of(store, run.name)
    if failed is not None:
        return RunStatus(run, "failed", reason=f"{failed['stage']}: {failed['reason']}")
    if at_work:
        return RunStatus(run, "silent", at_work)
    trained = is_finished(store.adapter(run.name))
    if trained and not scores:
        return RunStatus(run, "done")
    return RunStatus(run, "trained" if trained else "missing")


def run_named(words: str, store: Store) -> str:
    """Return a run's full name from its name, a unique prefix, or EXPERIMENT:task/method/seed.

    EXPERIMENT: a file, or a name in configs/experiments.  Raises ConfigError naming the closest match.
    """
    file, colon, cell = words.rpartition(":")
    if not colon:
        return find_run(words, store)
    path = Path(file) if Path(file).is_file() else EXPERIMENTS / f"{file}.yaml"
    runs = {
        f"{run.config.task_name}/{run.config.method}/{run.config.seed}": run.name for run in load_experiment(path, store).runs
    }
    if cell not in runs:
        raise ConfigError(f"{path}: there is no run {cell!r} (task/method/seed).{nearest(cell, runs)}")
    return runs[cell]

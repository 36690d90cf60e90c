"""An experiment file states what differs; this makes the list of runs of it, each complete.

Where it searches for settings (`tune:`), there are two lists: the trials, which are scored on the validation split, and
the runs that are compared, which are known once `lora_ns.experiment.selection` has written the choice.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lora_ns.config import expand_dotted, merge, nearest, read_method, read_task, with_method
from lora_ns.config.experiment_file import Entry, ExperimentFile, MethodEntry, SweepConfig, read_experiment_file
from lora_ns.errors import ConfigError, DataError, InputError
from lora_ns.experiment.search_space import Setting, settings_of, unequal_budgets
from lora_ns.experiment.task_method import TaskMethod, Trial
from lora_ns.store.paths import Store
from lora_ns.store.run import Run


@dataclass(frozen=True)
class Study:
    """A resolved experiment: every run is complete and checked."""

    name: str
    title: str
    caption: str | None
    label: str | None
    baseline: str | None
    tasks: list[str]
    methods: list[str]
    seeds: list[int]
    merge: bool
    sweep: SweepConfig
    store: Store
    cells: list[TaskMethod]
    trials: list[Trial]
    planned_runs: list[Run]
    """Every compared run.  A tuned method has its first setting in place of the chosen one."""
    runs: list[Run]
    """Every compared run.  Before the choice is made, only those of methods that are not tuned."""
    bases: list[Run]
    """Each task's base model, evaluated on the general text only, to measure forgetting."""
    file: str
    """The experiment file's path relative to the root, so it is the same on every machine."""

    def to_dict(self) -> dict[str, Any]:
        """Return the facts that the tables need."""
        keys = ("name", "title", "caption", "label", "baseline", "tasks", "methods", "seeds")
        return {key: getattr(self, key) for key in keys}

    @cached_property
    def choice(self) -> Path | None:
        """The path of the choice file.  None without a search."""
        tried = [[t.task, t.method, t.setting, *t.run.score_names] for t in self.trials]
        return self.store.choice(self.name, tried) if tried else None

    @property
    def needs_selection(self) -> bool:
        """Whether the choice has yet to be made."""
        return self.choice is not None and not self.choice.is_file()

    @cached_property
    def tables_record(self) -> Path:
        """The path of the finished tables' record.  Its digest covers all their inputs."""
        asked = [*self.planned_runs, *(trial.run for trial in self.trials), *self.bases]
        return self.store.tables_record(self.to_dict(), [name for run in asked for name in run.score_names])

    @cached_property
    def general(self) -> set[str]:
        """The names of the evaluations on general text."""
        return {run.evaluations[0].name for run in self.bases}

    @property
    def fixed(self) -> list[Run]:
        """The compared runs that do not depend on the choice."""
        searched = {(trial.task, trial.method) for trial in self.trials}
        return [run for run in self.planned_runs if (run.config.task_name, run.config.method) not in searched]

    def with_selection(self) -> Study:
        """Return the experiment with the runs of the chosen settings.  Unchanged if no choice is made."""
        if self.choice is None or self.needs_selection:
            return self
        return replace(self, runs=self.runs_with(chosen_of(read_trials(self.choice))))

    def runs_with(self, chosen: Mapping[tuple[str, str], Setting]) -> list[Run]:
        """Every compared run.  chosen: (task, method) -> chosen setting."""
        runs = []
        for cell in self.cells:
            task, method = str(cell.raw["task_name"]), str(cell.raw["method_name"])
            setting = chosen[task, method] if cell.settings else {}
            runs += cell.runs(self.seeds, setting)
        return runs


def read_trials(choice: Path) -> list[dict[str, Any]]:
    """The trials of a choice file: task, method, setting, metric, value, chosen.  Raises DataError."""
    try:
        return json.loads(choice.read_text(encoding="utf-8"))["trials"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{choice} is no choice of settings: {error!r}. Delete it, and it is made again.") from None


def chosen_of(trials: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], Setting]:
    """Return (task, method) -> chosen setting, from a choice file's trials."""
    return {(t["task"], t["method"]): t["setting"] for t in trials if t["chosen"]}


def load_experiment(path: Path, store: Store | None = None) -> Study:
    """Return the experiment at `path` with all its runs.  Raises ConfigError that lists every fault in every file."""
    store = store or Store()
    given = read_experiment_file(path)
    problems: list[str] = []
    tasks = _read_all(given.tasks, path, read_task, problems)
    methods = _read_all(given.methods, path, read_method, problems)
    names = [_method_name(entry, raw) for entry, raw in methods]
    problems += [f"{path}: methods: two are called {name!r}; give one a `name`." for name in _repeated(names)]
    unread = [entry for entry in given.methods if all(entry is not read for read, _ in methods)]
    named = [*names, *(entry.name or Path(entry.config).stem for entry in unread)]
    if given.baseline is not None and given.baseline not in named:
        hint = nearest(given.baseline, named)
        problems.append(f"{path}: baseline: no method is called {given.baseline!r}.{hint} Methods: {', '.join(named)}.")
    known = [str(raw.get("task_name")) for _, raw in tasks]
    for entry, _ in methods:
        problems += [
            f"{path}: methods: per_task: no task is called {task!r}.{nearest(task, known)} Tasks: {', '.join(known)}."
            for task in entry.per_task
            if task not in known
        ]
    cells = [_cell(given, task, method, store) for task in tasks for method in methods]
    budgets = {str(cell.raw["method_name"]): len(cell.settings) for cell in cells if not _is_base(cell.raw)}
    problems += [f"{path}: {fault}" for fault in unequal_budgets(budgets)]
    planned_runs: list[Run] = []
    trials: list[Trial] = []
    for cell in cells:
        with _gathering(problems, cell.where):
            planned_runs += cell.runs(given.seeds, next(iter(cell.settings), None))
            seeds = given.tune_seeds or given.seeds[:1]
            trials += [cell.trial(seed, setting) for setting in cell.settings for seed in seeds]
    bases = [base for task in tasks for base in _bases(given, task, store)] if given.forgetting and not problems else []
    task_names = list(dict.fromkeys(run.config.task_name for run in planned_runs))
    if not problems and len(task_names) < len(tasks):
        problems.append(f"{path}: tasks: two tasks have the same task_name; give one a `name`.")
    if problems:
        raise ConfigError(_said_once(problems, cells))
    experiment = Study(
        name=given.name,
        title=given.title or given.name,
        caption=given.caption,
        label=given.label,
        baseline=given.baseline,
        tasks=task_names,
        methods=names,
        seeds=given.seeds,
        merge=given.merge,
        sweep=given.sweep,
        store=store,
        cells=cells,
        trials=trials,
        planned_runs=planned_runs,
        runs=[],
        bases=bases,
        file=Path(os.path.relpath(path, store.root)).as_posix(),
    )
    return replace(experiment, runs=experiment.fixed).with_selection()


def _said_once(problems: Sequence[str], cells: Sequence[TaskMethod]) -> list[str]:
    """Return the problems without repeats.  A problem that a task has with every method is reported once, for the task."""
    tasks = [cell.where.partition(" with ")[0] for cell in cells]
    found = list(dict.fromkeys(problems))
    faults = Counter((where.partition(" with ")[0], fault) for where, _, fault in (one.partition(": ") for one in found))
    said = []
    for problem in found:
        where, _, fault = problem.partition(": ")
        task = where.partition(" with ")[0]
        always = task in tasks and 1 < faults[task, fault] == tasks.count(task)
        said.append(f"{task}: {fault}" if always else problem)
    return list(dict.fromkeys(said))


def _read_all(entries: Sequence[Entry], path: Path, read: Any, problems: list[str]) -> list[tuple[Any, dict[str, Any]]]:
    """Return each entry with its file's content.  Paths are relative to the working directory, then to the experiment."""
    found = []
    for entry in entries:
        file = Path(entry.config)
        beside = path.parent / entry.config
        try:
            raw = read(file if file.is_file() or not beside.is_file() else beside)
        except ConfigError as error:
            problems += [f"{path}: {problem}" for problem in error.problems]
            continue
        if entry.name is not None and read is read_task:
            raw = {**raw, "task_name": entry.name}
        found.append((entry, raw))
    return found


def _cell(
    given: ExperimentFile, task: tuple[Entry, Mapping[str, Any]], method: tuple[MethodEntry, Mapping[str, Any]], store: Store
) -> TaskMethod:
    """Return the merged config of a task and a method.  Experiment, task, method and per-task overrides follow, last wins."""
    (task_entry, raw_task), (method_entry, raw_method) = task, method
    raw = with_method(raw_task, {**raw_method, "method_name": _method_name(*method)})
    per_task = method_entry.per_task.get(str(raw_task.get("task_name")), {})
    for layer in (given.overrides, task_entry.overrides, method_entry.overrides, per_task):
        raw = merge(raw, expand_dotted(layer))
    grid = {} if _is_base(raw) else method_entry.tune or given.tune or {}
    where = f"{task_entry.config} with {method_entry.config}"
    return TaskMethod(raw, where, store, tuple(settings_of(grid)) if grid else (), given.general_text)


def _bases(given: ExperimentFile, task: tuple[Entry, Mapping[str, Any]], store: Store) -> list[Run]:
    """Return the run that evaluates the task's base model on the general text.  Empty unless the task is causal_lm."""
    base = (MethodEntry(config="none"), {"method_name": "none", "peft": {"method": "none"}})
    run = _cell(given, task, base, store).run(given.seeds[0])
    text = given.general_text
    return [run.with_benchmarks([text])] if text and run.config.task_type == "causal_lm" else []


@contextmanager
def _gathering(problems: list[str], where: str) -> Iterator[None]:
    """Add input errors to `problems`, so that all are reported at once."""
    try:
        yield
    except ConfigError as error:
        problems += error.problems
    except InputError as error:
        problems.append(f"{where}: {error}")


def _is_base(raw: Mapping[str, Any]) -> bool:
    """Whether the config is the untrained base model, which has no settings to tune."""
    peft = raw["peft"]
    return isinstance(peft, Mapping) and peft.get("method") == "none"


def _method_name(entry: Entry, raw: Mapping[str, Any]) -> str:
    return entry.name or str(raw["method_name"])


def _repeated(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})

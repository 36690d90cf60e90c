"""What the workflow's rules ask: which artefacts an experiment needs, and what each of them is made from.

An input is asked for only while the output that needs it is missing.  So a finished adapter does not bring back its
tokens, and neither a fresh clone's clocks nor lost intermediate files start any work.

Where the experiment searches for settings, the runs that are compared are known once the checkpoint `choose` has
written the choice; until then whoever asks for them is sent to wait for it.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from lora_ns.config.method_constraints import why_not_merged
from lora_ns.errors import LoraNsError
from lora_ns.experiment.study import Experiment, load_experiment
from lora_ns.store.artifact import exists
from lora_ns.store.evaluation_file import Evaluation
from lora_ns.store.paths import Store
from lora_ns.store.run import Run
from lora_ns.workflow.jobs import Job, training_jobs
from lora_ns.workflow.launch_command import (
    PROGRAM,
    Resources,
    each_of,
    evaluation_resources,
    is_plain,
    training_command,
    training_resources,
)
from lora_ns.workflow.planning.costs import KnownCosts

LOCKS = Path(".snakemake/locks")
"""Holds files while a workflow runs here."""

GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""One of these files is there where a GPU is: NVIDIA's, AMD's, Windows' own."""

Wildcards = Any
Lookup = Callable[[Wildcards], list[str]]


class Dag:
    """An experiment's artefacts by name, and the requests (run and evaluation files) that they are made from."""

    program = shlex.join(PROGRAM)
    """The command that every rule calls, in the Python that runs Snakemake."""

    def __init__(self, experiment_file: str, checkpoints: Any = None, plans: bool = True, cores: int = 1):
        self.store = Store()
        self.experiment_file = experiment_file
        self.experiment: Experiment = load_experiment(Path(experiment_file), self.store)
        self._checkpoints = checkpoints
        self._cores = cores
        self._costs = KnownCosts(self.store)
        self.runs: dict[str, Run] = {}
        self.tokens: dict[str, Run] = {}
        self.rows: dict[str, str] = {}
        self.base_models: dict[str, str] = {}
        self.downloads: dict[str, Run] = {}
        self.evaluations: dict[str, Evaluation] = {}
        self.merged: dict[str, Run] = {}
        self.jobs: dict[str, Job] = {}
        """Runs that share a process, by the job's name."""
        self._job_of: dict[str, Job] = {}
        self._add([trial.run for trial in self.experiment.trials])
        self._trials = set(self.runs)
        # apart from those of chosen settings, so that jobs are the same before and after the choice
        self._add(self.experiment.fixed)
        self._add_compared()
        if plans:
            self._prepare()

    def _prepare(self) -> None:
        """Writes the requests of all known runs, and removes markers from before something was lost.

        Beside a workflow that runs here, whose next job may wait for a marker, they are left.
        """
        for run in self.runs.values():
            run.write_file()
        for evaluation in self.evaluations.values():
            self.store.write_evaluation_file(evaluation)
        if not any(LOCKS.glob("*")):
            shutil.rmtree(self.store.together(""), ignore_errors=True)

    def _add_compared(self) -> None:
        self._add(self.experiment.runs)
        self._trials -= {run.name for run in self.experiment.runs}
        if self.experiment.merge:
            able = [run for run in self.experiment.runs if why_not_merged(run.config.peft.method) is None]
            self.merged = {run.merged.name: run for run in able}
        # one that is compared as well is asked the general text anyway
        self._add([run for run in self.experiment.bases if run.name not in self.runs])

    def _add(self, runs: list[Run]) -> None:
        new = [run for run in runs if run.name not in self.runs and is_plain(run.config)]
        for job in training_jobs(new, self.experiment.sweep, self._cores):
            if len(job.runs) > 1:
                self.jobs[job.name] = job
                self._job_of |= {run.name: job for run in job.runs}
        for run in runs:
            self.runs[run.name] = run
            if run.config.peft.method != "none":
                self.tokens.setdefault(run.tokens.name, run)
                self.rows.setdefault(run.rows.name, f"--config {shlex.quote(str(run.file))}")
            if run.download is not None:
                self.downloads.setdefault(run.download.stem, run)
            if run.base_folder is not None:
                self.base_models.setdefault(run.base_folder.name, run.config.model.name_or_path)
            for evaluation in run.evaluations:
                self._add_evaluation(evaluation)
            for evaluation in run.held_out:
                if self.store.rows(evaluation.dataset).name not in self.rows:
                    self._add_evaluation(evaluation)

    def _add_evaluation(self, evaluation: Evaluation) -> None:
        if evaluation.name not in self.evaluations:
            self.evaluations[evaluation.name] = evaluation
            asked = shlex.quote(str(self.store.evaluation_file(evaluation.name)))
            self.rows.setdefault(self.store.rows(evaluation.dataset).name, f"--evaluation {asked}")

    def _compared(self) -> list[Run]:
        """The runs that are compared.  While the choice is open, Snakemake is told to make it and to ask again."""
        choice = self.experiment.choice
        if choice is not None and not choice.is_file():
            self._checkpoints.choose.get(choice=choice.stem)
        if len(self.experiment.runs) < len(self.experiment.blueprint):
            self.experiment = self.experiment.settled()
            self._add_compared()
        return self.experiment.runs

    # -- targets -------------------------------------------------------------------------------------------------

    @property
    def data(self) -> list[str]:
        """The records of all rows, base models and tokens that the known runs and their benchmarks stand on."""
        rooms: dict[str, Iterable[str]] = {"raw": self.rows, "models": self.base_models, "tokens": self.tokens}
        made = [_record(self.store.root / "data" / room / name) for room, names in rooms.items() for name in names]
        return [*made, *(path for run in self.downloads.values() for path in map(str, run.base_records))]

    def scores(self, wildcards: Wildcards) -> list[str]:
        """Every score file that the tables are made from."""
        runs = [*self._compared(), *self.experiment.bases]
        return _each_once(path for run in runs for evaluation in run.evaluations for path in self._score(run, evaluation))

    def adapters(self, wildcards: Wildcards) -> list[str]:
        """The record of every adapter that is compared."""
        return [path for run in self._compared() for path in self._adapter(run)]

    def every_adapter(self, wildcards: Wildcards) -> list[str]:
        """The same, and that none is lacking afterwards."""
        paths = self.adapters(wildcards)
        shared = any(name in self._job_of for name in self.untrained)
        return [self._marker("adapters.complete")] if shared else paths

    @property
    def untrained(self) -> list[str]:
        """The runs that are compared and have no adapter; a job of several is done also where one of them failed."""
        return [run.name for run in self.experiment.runs if not exists(self.store.adapter(run.name))]

    def merged_records(self, wildcards: Wildcards) -> list[str]:
        """The records of the merged models that the experiment asks for."""
        self._compared()
        return [_record(run.merged) for run in self.merged.values()]

    @property
    def tables(self) -> str:
        """The record of the tables; its digest covers whatever the tables are made from."""
        return str(self.experiment.tables_record)

    def table(self, name: str) -> str:
        """One of the tables as CSV."""
        return str(self.store.tables(self.experiment.name) / f"{name}.csv")

    @property
    def figures(self) -> str:
        """The folder of the figures."""
        return str(self.store.figures(self.experiment.name))

    # -- inputs, while the output is missing -----------------------------------------------------------------------

    def for_tokens(self, wildcards: Wildcards) -> list[str]:
        """Rows, those of benchmarks that have a say in which are trained on, and the base model whose tokenizer it is."""
        run = self.tokens[wildcards.tokens]
        return [] if exists(run.tokens) else [*map(str, run.tokens_inputs)]

    def for_adapter(self, wildcards: Wildcards) -> list[str]:
        """Tokens and base model."""
        return self._for_adapter(self.runs[wildcards.run])

    def for_adapters(self, wildcards: Wildcards) -> list[str]:
        """The same for all runs of a job."""
        return _each_once(path for run in self.jobs[wildcards.job].runs for path in self._for_adapter(run))

    def _for_adapter(self, run: Run) -> list[str]:
        return [] if run.is_trained else [*map(str, run.adapter_inputs)]

    def for_score(self, wildcards: Wildcards) -> list[str]:
        """Adapter, the benchmark's rows, and base model."""
        return self._for_score(self.runs[wildcards.run], self.evaluations[wildcards.evaluation])

    def for_scores(self, wildcards: Wildcards) -> list[str]:
        """The same for all runs of a job."""
        evaluation = self.evaluations[wildcards.evaluation]
        return _each_once(path for run in self.jobs[wildcards.job].runs for path in self._for_score(run, evaluation))

    def _for_score(self, run: Run, evaluation: Evaluation) -> list[str]:
        if self.store.score(run.name, evaluation.name).is_file():
            return []
        return [*self._adapter(run), _record(self.store.rows(evaluation.dataset)), *map(str, run.base_records)]

    def _adapter(self, run: Run) -> list[str]:
        """What to ask for to have a run's adapter: its record, or that the runs of its job are done."""
        folder = self.store.adapter(run.name)
        if exists(folder) or run.name not in self._job_of:
            return [_record(folder)]
        return [self._marker(f"{self._job_of[run.name].name}.trained")]

    def _score(self, run: Run, evaluation: Evaluation) -> list[str]:
        """What to ask for to have a score: its file, or that all runs of its job have been asked."""
        path = self.store.score(run.name, evaluation.name)
        if path.is_file() or run.name not in self._job_of:
            return [str(path)]
        return [self._marker(f"{self._job_of[run.name].name}.{evaluation.name}.asked")]

    def _marker(self, name: str) -> str:
        """The marker that a job leaves once all its runs were tried."""
        return str(self.store.together(name))

    def for_choice(self, wildcards: Wildcards) -> list[str]:
        """The score of every trial."""
        if not self.experiment.is_open:
            return []
        runs = [trial.run for trial in self.experiment.trials]
        return _each_once(path for run in runs for path in self._score(run, run.evaluations[0]))

    def for_merged(self, wildcards: Wildcards) -> list[str]:
        """Adapter and base model."""
        run = self.merged[wildcards.merged]
        return [] if exists(run.merged) else [*self._adapter(run), *map(str, run.base_records)]

    # -- what the commands are given -------------------------------------------------------------------------------

    def run_file_of(self, wildcards: Wildcards) -> str:
        """The run file that makes an adapter, tokens or a merged model, or names a model of the hub."""
        return str(self.store.run_file(self._owner(wildcards).name))

    def _owner(self, wildcards: Wildcards) -> Run:
        """The run (one of those) that an artefact is made for."""
        rooms = {"run": self.runs, "tokens": self.tokens, "merged": self.merged, "model": self.downloads}
        if hasattr(wildcards, "job"):
            return self.jobs[wildcards.job].runs[0]
        return next(runs[getattr(wildcards, name)] for name, runs in rooms.items() if hasattr(wildcards, name))

    def launch_of(self, wildcards: Wildcards) -> str:
        """The command that starts the processes of a training."""
        run = self._owner(wildcards)
        return self._offline(run) + training_command(run.config)

    def program_of(self, wildcards: Wildcards) -> str:
        """The command of a stage that reads a run's base model."""
        return self._offline(self._owner(wildcards)) + self.program

    def _offline(self, run: Run) -> str:
        """A hub's model has been fetched by now, and a compute node need not find that the network is not there."""
        return "" if run.download is None else "env HF_HUB_OFFLINE=1 "

    @property
    def training_resources(self) -> dict[str, Any]:
        """What a cluster is asked for, each resource by a function of wildcards and attempt."""

        @cache
        def of(name: str, attempt: int) -> Resources:
            runs = self._runs_of(name)
            costs = [self._costs.of_training(run) for run in runs]
            at_once = name in self.jobs and self.jobs[name].at_once
            return training_resources([run.config for run in runs], costs, attempt, at_once=at_once)

        return each_of(lambda wildcards, attempt: of(getattr(wildcards, "job", None) or wildcards.run, attempt))

    def _runs_of(self, name: str) -> Sequence[Run]:
        """Of a job, or of a run by itself."""
        return self.jobs[name].runs if name in self.jobs else [self.runs[name]]

    @property
    def evaluation_resources(self) -> dict[str, Any]:
        """What a cluster is asked for, each resource by a function of wildcards and attempt."""

        @cache
        def of(name: str, evaluation: str, attempt: int) -> Resources:
            runs, asked = self._runs_of(name), self.evaluations[evaluation]
            costs = [self._costs.of_evaluation(run, asked) for run in runs]
            return evaluation_resources([run.config for run in runs], costs, attempt)

        return each_of(
            lambda wildcards, attempt: of(getattr(wildcards, "job", None) or wildcards.run, wildcards.evaluation, attempt)
        )

    def run_files_of(self, wildcards: Wildcards) -> str:
        """`--config FILE` of every run of a job."""
        files = [str(self.store.run_file(run.name)) for run in self.jobs[wildcards.job].runs]
        return " ".join(f"--config {shlex.quote(file)}" for file in files)

    def members_of(self, wildcards: Wildcards) -> list[str]:
        """The names of a job's runs."""
        return [run.name for run in self.jobs[wildcards.job].runs]

    def limits_of(self, wildcards: Wildcards) -> str:
        """The options by which a job's runs are trained as they were grouped."""
        job, limit = self.jobs[wildcards.job], self.experiment.sweep.max_memory
        memory = "" if limit is None else f" --max-memory {int(limit)}"
        return f"--max-members {len(job.runs)}{memory}" if job.at_once else "--max-members 1"

    def trial_flag_of(self, wildcards: Wildcards) -> str:
        """`--trial` for runs of the search only, whose divergence is a result."""
        first = wildcards.run if hasattr(wildcards, "run") else self.jobs[wildcards.job].runs[0].name
        return "--trial" if first in self._trials else ""

    def evaluation_file_of(self, wildcards: Wildcards) -> str:
        """The evaluation file that a score answers."""
        return str(self.store.evaluation_file(wildcards.evaluation))

    def request_of_rows(self, wildcards: Wildcards) -> str:
        """The option that names the request which wants these rows."""
        return self.rows[wildcards.rows]

    def base_model_of(self, wildcards: Wildcards) -> str:
        """`builtin:<name>` of a base model's folder."""
        return self.base_models[wildcards.base]


def missing(inputs: Lookup) -> Lookup:
    """The inputs without those that are there: a job has to wait for the others alone.

    After a job Snakemake dates its outputs to now, and removes them where an input is newer (its dag.py, check_output_mtime),
    whatever `ancient` says: a clock that ran ahead when an input was made would cost what was just finished.
    """
    return lambda wildcards: [path for path in inputs(wildcards) if not Path(path).exists()]


def _each_once(paths: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(paths))


def _record(folder: Path) -> str:
    return str(folder / "record.json")


def open_experiment(experiment_file: str, checkpoints: Any = None, plans: bool = True, cores: int = 1) -> Dag:
    """The experiment for the Snakefile; a fault in its files ends Snakemake with the paragraph, not a traceback.

    checkpoints: Snakemake's own object of that name.  plans: whether this process decides what is run, which the Snakemake
    of a single job does not.  cores: of `local_cores`.
    """
    try:
        return Dag(experiment_file, checkpoints, plans, cores)
    except LoraNsError as error:
        raise SystemExit(f"Wrong input: {error}") from None


def local_cores(workflow: Any) -> int:
    """How many cores there are to divide runs among: 1 where jobs are sent elsewhere, or computed on a GPU.

    The Snakemake of a single job finds the same jobs: on this machine it is given the same number, elsewhere it is remote.
    """
    settings = workflow.resource_settings
    is_elsewhere = settings.nodes is not None or workflow.remote_exec
    return 1 if is_elsewhere or any(map(os.path.exists, GPU_DEVICES)) else settings.cores or 1

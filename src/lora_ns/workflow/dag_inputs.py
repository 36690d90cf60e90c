"""Input functions of the workflow's rules: which artefacts an experiment needs, and what each is made from.

A rule has inputs only while its output is missing.  A finished adapter therefore needs no tokens, and neither file times in
a fresh clone nor lost intermediate files start any work.

If the experiment searches for settings, the compared runs are known only after the checkpoint `choose` has written the
selection.  Until then Snakemake waits for that checkpoint.
"""

import os
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from lora_ns.errors import LoraNsError
from lora_ns.store.artifact import is_finished
from lora_ns.store.evaluation_file import EvaluationRequest
from lora_ns.store.run import Run
from lora_ns.workflow.dag_index import DagIndex
from lora_ns.workflow.rule_params import RuleParams

Wildcards = Any
Lookup = Callable[[Wildcards], list[str]]

GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""One of these files exists if there is a GPU: NVIDIA, AMD, Windows."""


class Dag(DagIndex):
    """The targets of an experiment, and the inputs of each rule while its output is missing."""

    @cached_property
    def commands(self) -> RuleParams:
        """Parameters and resources of the rules' commands."""
        return RuleParams(self)

    @property
    def data(self) -> list[str]:
        """The records of all rows, base models and tokens that the known runs and their benchmarks need."""
        rooms: dict[str, Iterable[str]] = {"raw": self.rows, "models": self.base_models, "tokens": self.tokens}
        made = [_record(self.store.root / "data" / room / name) for room, names in rooms.items() for name in names]
        return [*made, *(path for run in self.downloads.values() for path in map(str, run.base_records))]

    def scores(self, wildcards: Wildcards) -> list[str]:
        """Return every score file that the tables use."""
        runs = [*self.compared(), *self.experiment.bases]
        return _each_once(path for run in runs for evaluation in run.evaluations for path in self._score(run, evaluation))

    def adapters(self, wildcards: Wildcards) -> list[str]:
        """The record of every compared adapter."""
        return [path for run in self.compared() for path in self._adapter(run)]

    def every_adapter(self, wildcards: Wildcards) -> list[str]:
        """`adapters`, with a check afterwards that none is missing."""
        paths = self.adapters(wildcards)
        shared = any(name in self.job_of for name in self.untrained)
        return [self._marker("adapters.complete")] if shared else paths

    @property
    def untrained(self) -> list[str]:
        """Compared runs without an adapter.  A job of several runs ends even if one of them failed."""
        return [run.name for run in self.experiment.runs if not is_finished(self.store.adapter(run.name))]

    def merged_records(self, wildcards: Wildcards) -> list[str]:
        """The records of the experiment's merged models."""
        self.compared()
        return [_record(run.merged) for run in self.merged.values()]

    @property
    def tables(self) -> str:
        """The record of the tables.  Its digest covers everything the tables are made from."""
        return str(self.experiment.tables_record)

    def table(self, name: str) -> str:
        """Return the path of one table as CSV."""
        return str(self.store.tables(self.experiment.name) / f"{name}.csv")

    @property
    def figures(self) -> str:
        """Folder of the figures."""
        return str(self.store.figures(self.experiment.name))

    def for_tokens(self, wildcards: Wildcards) -> list[str]:
        """Rows, the rows of held-out benchmarks, and the base model with its tokenizer."""
        run = self.tokens[wildcards.tokens]
        return [] if is_finished(run.tokens) else [*map(str, run.tokens_inputs)]

    def for_adapter(self, wildcards: Wildcards) -> list[str]:
        """Tokens and base model of a run."""
        return self._for_adapter(self.runs[wildcards.run])

    def for_adapters(self, wildcards: Wildcards) -> list[str]:
        """`for_adapter` for all runs of a job."""
        return _each_once(path for run in self.jobs[wildcards.job].runs for path in self._for_adapter(run))

    def _for_adapter(self, run: Run) -> list[str]:
        return [] if run.is_trained else [*map(str, run.adapter_inputs)]

    def for_score(self, wildcards: Wildcards) -> list[str]:
        """Adapter, benchmark rows and base model of a run."""
        return self._for_score(self.runs[wildcards.run], self.evaluations[wildcards.evaluation])

    def for_scores(self, wildcards: Wildcards) -> list[str]:
        """`for_score` for all runs of a job."""
        evaluation = self.evaluations[wildcards.evaluation]
        return _each_once(path for run in self.jobs[wildcards.job].runs for path in self._for_score(run, evaluation))

    def _for_score(self, run: Run, evaluation: EvaluationRequest) -> list[str]:
        if self.store.score(run.name, evaluation.name).is_file():
            return []
        return [*self._adapter(run), _record(self.store.rows(evaluation.dataset)), *map(str, run.base_records)]

    def _adapter(self, run: Run) -> list[str]:
        """The file that stands for a run's adapter: its record, or the marker of its job."""
        folder = self.store.adapter(run.name)
        if is_finished(folder) or run.name not in self.job_of:
            return [_record(folder)]
        return [self._marker(f"{self.job_of[run.name].name}.trained")]

    def _score(self, run: Run, evaluation: EvaluationRequest) -> list[str]:
        """The file that stands for a score: the score file, or the marker of its job."""
        path = self.store.score(run.name, evaluation.name)
        if path.is_file() or run.name not in self.job_of:
            return [str(path)]
        return [self._marker(f"{self.job_of[run.name].name}.{evaluation.name}.asked")]

    def _marker(self, name: str) -> str:
        """The marker that a job writes once all its runs were tried."""
        return str(self.store.job_marker(name))

    def for_choice(self, wildcards: Wildcards) -> list[str]:
        """Return the score of every trial."""
        if not self.experiment.needs_selection:
            return []
        runs = [trial.run for trial in self.experiment.trials]
        return _each_once(path for run in runs for path in self._score(run, run.evaluations[0]))

    def for_merged(self, wildcards: Wildcards) -> list[str]:
        """Adapter and base model of a merged model."""
        run = self.merged[wildcards.merged]
        return [] if is_finished(run.merged) else [*self._adapter(run), *map(str, run.base_records)]


def missing_inputs(inputs: Lookup) -> Lookup:
    """Return the inputs that do not exist yet, which are all that a job has to wait for.

    After a job Snakemake sets its outputs' times to now, and removes outputs that are older than an input (its dag.py,
    check_output_mtime), also with `ancient`.  An input with a time in the future would cost a finished output.
    """
    return lambda wildcards: [path for path in inputs(wildcards) if not Path(path).exists()]


def _each_once(paths: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(paths))


def _record(folder: Path) -> str:
    return str(folder / "record.json")


def open_experiment(experiment_file: str, checkpoints: Any = None, plans: bool = True, cores: int = 1) -> Dag:
    """Open the experiment for the Snakefile. An error in its files exits with a message, not a traceback.

    checkpoints: Snakemake's object of that name.  plans: True in Snakemake's main process, which decides what runs, and
    False in the process of a single job.  cores: from `local_cores`.
    """
    try:
        return Dag(experiment_file, checkpoints, plans, cores)
    except LoraNsError as error:
        raise SystemExit(f"Wrong input: {error}") from None


def local_cores(workflow: Any) -> int:
    """Number of local cores to divide runs among: 1 if jobs run on other machines or on a GPU.

    Snakemake's process for a single job gets the same result: locally it has the same `--cores`, elsewhere it is remote.
    """
    settings = workflow.resource_settings
    is_elsewhere = settings.nodes is not None or workflow.remote_exec
    return 1 if is_elsewhere or any(map(os.path.exists, GPU_DEVICES)) else settings.cores or 1

"""Parameters of the rules' commands: run files, launchers, options, and cluster resources."""

import shlex
from collections.abc import Sequence
from functools import cache
from typing import Any

from lora_ns.store.run import Run
from lora_ns.workflow.dag_index import DagIndex
from lora_ns.workflow.launch_command import PROGRAM, training_command
from lora_ns.workflow.planning.costs import KnownCosts
from lora_ns.workflow.resources import Resources, each_of, evaluation_resources, training_resources

Wildcards = Any


class RuleParams:
    """Each method or property is a `params` or `resources` entry of a rule."""

    program = shlex.join(PROGRAM)
    """lora-ns command of every rule, with the Python that runs Snakemake."""

    def __init__(self, dag: DagIndex):
        self._dag = dag
        self._costs = KnownCosts(dag.store)

    def run_file_of(self, wildcards: Wildcards) -> str:
        """Return the run file for an adapter, tokens, a merged model or a hub model."""
        return str(self._dag.store.run_file(self._owner(wildcards).name))

    def _owner(self, wildcards: Wildcards) -> Run:
        """A run that the artefact is made for."""
        rooms = {"run": self._dag.runs, "tokens": self._dag.tokens, "merged": self._dag.merged, "model": self._dag.downloads}
        if hasattr(wildcards, "job"):
            return self._dag.jobs[wildcards.job].runs[0]
        return next(runs[getattr(wildcards, name)] for name, runs in rooms.items() if hasattr(wildcards, name))

    def launch_of(self, wildcards: Wildcards) -> str:
        """Return the command that launches a training's processes."""
        run = self._owner(wildcards)
        return self._offline(run) + training_command(run.config)

    def program_of(self, wildcards: Wildcards) -> str:
        """Return the command of a stage that loads a run's base model."""
        return self._offline(self._owner(wildcards)) + self.program

    def _offline(self, run: Run) -> str:
        """Offline mode for a hub model: it is fetched by now, and a compute node may have no network."""
        return "" if run.download is None else "env HF_HUB_OFFLINE=1 "

    @property
    def training_resources(self) -> dict[str, Any]:
        """Resources of a training: resource name -> function of wildcards and attempt."""

        @cache
        def of(name: str, attempt: int) -> Resources:
            runs = self._runs_of(name)
            costs = [self._costs.training_cost(run) for run in runs]
            at_once = name in self._dag.jobs and self._dag.jobs[name].at_once
            return training_resources([run.config for run in runs], costs, attempt, at_once=at_once)

        return each_of(lambda wildcards, attempt: of(getattr(wildcards, "job", None) or wildcards.run, attempt))

    def _runs_of(self, name: str) -> Sequence[Run]:
        """The runs of a job, or one run by its name."""
        return self._dag.jobs[name].runs if name in self._dag.jobs else [self._dag.runs[name]]

    @property
    def evaluation_resources(self) -> dict[str, Any]:
        """Resources of an evaluation: resource name -> function of wildcards and attempt."""

        @cache
        def of(name: str, evaluation: str, attempt: int) -> Resources:
            runs, asked = self._runs_of(name), self._dag.evaluations[evaluation]
            costs = [self._costs.evaluation_cost(run, asked) for run in runs]
            return evaluation_resources([run.config for run in runs], costs, attempt)

        return each_of(
            lambda wildcards, attempt: of(getattr(wildcards, "job", None) or wildcards.run, wildcards.evaluation, attempt)
        )

    def run_files_of(self, wildcards: Wildcards) -> str:
        """Return `--config FILE` for every run of a job."""
        files = [str(self._dag.store.run_file(run.name)) for run in self._dag.jobs[wildcards.job].runs]
        return " ".join(f"--config {shlex.quote(file)}" for file in files)

    def members_of(self, wildcards: Wildcards) -> list[str]:
        """Return the names of a job's runs."""
        return [run.name for run in self._dag.jobs[wildcards.job].runs]

    def limits_of(self, wildcards: Wildcards) -> str:
        """Options of `lora-ns train` that keep the job's grouping."""
        job, limit = self._dag.jobs[wildcards.job], self._dag.experiment.sweep.max_memory
        memory = "" if limit is None else f" --max-memory {int(limit)}"
        return f"--max-members {len(job.runs)}{memory}" if job.at_once else "--max-members 1"

    def trial_flag_of(self, wildcards: Wildcards) -> str:
        """Return `--trial` for runs that are only search trials. Their divergence is a result."""
        first = wildcards.run if hasattr(wildcards, "run") else self._dag.jobs[wildcards.job].runs[0].name
        return "--trial" if first in self._dag.searched else ""

    def evaluation_file_of(self, wildcards: Wildcards) -> str:
        """The evaluation file of a score."""
        return str(self._dag.store.evaluation_file(wildcards.evaluation))

    def request_of_rows(self, wildcards: Wildcards) -> str:
        """The option that names the run or evaluation file which needs these rows."""
        return self._dag.rows[wildcards.rows]

    def base_model_of(self, wildcards: Wildcards) -> str:
        """Return `builtin:<name>` for a base model's folder."""
        return self._dag.base_models[wildcards.base]

"""An experiment's artefacts by name, and the run and evaluation files that they are made from."""

import shlex
import shutil
from pathlib import Path
from typing import Any

from lora_ns.config.method_constraints import why_not_merged
from lora_ns.experiment.study import Study, load_experiment
from lora_ns.store.evaluation_file import EvaluationRequest, write_evaluation_file
from lora_ns.store.paths import Store
from lora_ns.store.run import Run
from lora_ns.workflow.jobs import Job, training_jobs
from lora_ns.workflow.launch_command import is_plain

LOCKS = Path(".snakemake/locks")
"""Snakemake's locks.  It contains files while a workflow runs here."""


class DagIndex:
    """An experiment's runs, tokens, rows, base models, evaluations and jobs, by artefact name."""

    def __init__(self, experiment_file: str, checkpoints: Any = None, plans: bool = True, cores: int = 1):
        self.store = Store()
        self.experiment_file = experiment_file
        self.experiment: Study = load_experiment(Path(experiment_file), self.store)
        self._checkpoints = checkpoints
        self._cores = cores
        self.runs: dict[str, Run] = {}
        self.tokens: dict[str, Run] = {}
        self.rows: dict[str, str] = {}
        self.base_models: dict[str, str] = {}
        self.downloads: dict[str, Run] = {}
        self.evaluations: dict[str, EvaluationRequest] = {}
        self.merged: dict[str, Run] = {}
        self.jobs: dict[str, Job] = {}
        """Runs that share a process, by the job's name."""
        self.job_of: dict[str, Job] = {}
        self._add([trial.run for trial in self.experiment.trials])
        self.searched = set(self.runs)
        # added before the runs with selected settings, so that jobs are the same before and after the selection
        self._add(self.experiment.fixed)
        self._add_compared()
        if plans:
            self._prepare()

    def _prepare(self) -> None:
        """Write the run and evaluation files of all known runs, and delete outdated markers.

        Beside a workflow that runs here, whose next job may wait for a marker, they are left.
        """
        for run in self.runs.values():
            run.write_file()
        for evaluation in self.evaluations.values():
            write_evaluation_file(evaluation, self.store)
        if not any(LOCKS.glob("*")):
            shutil.rmtree(self.store.job_marker(""), ignore_errors=True)

    def _add_compared(self) -> None:
        self._add(self.experiment.runs)
        self.searched -= {run.name for run in self.experiment.runs}
        if self.experiment.merge:
            able = [run for run in self.experiment.runs if why_not_merged(run.config.peft.method) is None]
            self.merged = {run.merged.name: run for run in able}
        # a compared run is evaluated on the general text anyway
        self._add([run for run in self.experiment.bases if run.name not in self.runs])

    def _add(self, runs: list[Run]) -> None:
        new = [run for run in runs if run.name not in self.runs and is_plain(run.config)]
        for job in training_jobs(new, self.experiment.sweep, self._cores):
            if len(job.runs) > 1:
                self.jobs[job.name] = job
                self.job_of |= {run.name: job for run in job.runs}
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

    def _add_evaluation(self, evaluation: EvaluationRequest) -> None:
        if evaluation.name not in self.evaluations:
            self.evaluations[evaluation.name] = evaluation
            asked = shlex.quote(str(self.store.evaluation_file(evaluation.name)))
            self.rows.setdefault(self.store.rows(evaluation.dataset).name, f"--evaluation {asked}")

    def compared(self) -> list[Run]:
        """The compared runs.  Before the selection Snakemake is sent to the checkpoint `choose`, and asks again later."""
        choice = self.experiment.choice
        if choice is not None and not choice.is_file():
            self._checkpoints.choose.get(choice=choice.stem)
        if len(self.experiment.runs) < len(self.experiment.planned_runs):
            self.experiment = self.experiment.with_selection()
            self._add_compared()
        return self.experiment.runs

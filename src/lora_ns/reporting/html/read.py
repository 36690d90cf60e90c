"""Read an experiment's artefacts for the report.  Files that are not on this machine are left out."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lora_ns.experiment.study import Run, Study
from lora_ns.store.failures import failure_of
from lora_ns.store.integrity import load_verified_score
from lora_ns.store.paths import Store


@dataclass(frozen=True)
class ReadRun:
    """One run with the content of its existing score files."""

    run: Run
    scores: list[dict[str, Any]]
    store: Store

    @property
    def name(self) -> str:
        return self.run.name

    @property
    def is_done(self) -> bool:
        return len(self.scores) == len(self.run.evaluations)

    @property
    def state(self) -> str:
        """done, failed or missing."""
        return "done" if self.is_done else "failed" if self._failure else "missing"

    @property
    def reason(self) -> str:
        """Why the run is not done; empty if it is."""
        if self.is_done:
            return ""
        return f"{self._failure['stage']}: {self._failure['reason']}" if self._failure else "not evaluated yet"

    @cached_property
    def _failure(self) -> dict[str, Any] | None:
        return failure_of(self.store, self.name)

    def predictions(self, evaluation: str) -> Path | None:
        """Return the predictions file of an evaluation, None if it is not on this machine."""
        path = self.store.predictions(self.name, evaluation)
        return path if path.is_file() else None


def read_runs(experiment: Study, store: Store) -> list[ReadRun]:
    """Return every run of the experiment, in order.  Raises DamagedError if a score file was changed."""
    return [ReadRun(run, [load_verified_score(path) for path in run.scores if path.is_file()], store) for run in experiment.runs]

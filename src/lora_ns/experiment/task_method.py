"""One method on one task, and one trial of a search."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_ns.config import check, expand_dotted, merge
from lora_ns.config.evaluation import BenchmarkEntry
from lora_ns.errors import ConfigError
from lora_ns.experiment.search_space import Setting, without_validation_rows
from lora_ns.store.paths import Store
from lora_ns.store.run import Run


@dataclass(frozen=True)
class Trial:
    """One setting with one seed, evaluated on its task's benchmark on the validation split."""

    task: str
    method: str
    setting: Setting
    run: Run

    @property
    def score(self) -> Path:
        """Its score file, which may not exist yet."""
        return self.run.scores[0]


@dataclass(frozen=True)
class TaskMethod:
    """One method on one task, without the seed and without the searched setting."""

    raw: Mapping[str, Any]
    where: str
    store: Store
    settings: tuple[Setting, ...] = ()
    """Settings to try.  Empty if the method is not tuned."""
    text: BenchmarkEntry | None = None
    """The general text that forgetting is measured on."""

    def run(self, seed: int, setting: Mapping[str, Any] | None = None) -> Run:
        """Return the run of one seed.  Raises ConfigError, InputError."""
        [run] = self.runs([seed], setting)
        return run

    def runs(self, seeds: Sequence[int], setting: Mapping[str, Any] | None = None) -> list[Run]:
        """Return one run per seed.  The experiment file has validated the seeds.  Raises ConfigError, InputError."""
        config = check(merge(self.raw, expand_dotted(setting or {})), self.where)
        asked = [entry.name for entry in config.evaluation.benchmarks]
        for name in dict.fromkeys(name for name in asked if asked.count(name) > 1):
            raise ConfigError(
                f"{self.where}: evaluation.benchmarks: {name} is asked twice, and the tables have one place for it in a task: "
                "leave one out, or put it into a task of its own."
            )
        runs = [Run(config.model_copy(update={"seed": seed}), self.store) for seed in seeds]
        if self.text is not None and config.task_type == "causal_lm":
            runs = [run.with_benchmarks([*config.evaluation.benchmarks, self.text]) for run in runs]
        _ = [(run.name, run.evaluations) for run in runs]  # digests now, so that what cannot be found is said with the rest
        return runs

    def trial(self, seed: int, setting: Setting) -> Trial:
        """Return the trial of a setting: a run evaluated on the validation split.  Raises ConfigError, InputError."""
        run = self.run(seed, setting)
        config = run.config
        entry = next((e for e in config.evaluation.benchmarks if "name" not in (e.dataset or {})), None)
        if entry is None:
            raise ConfigError(f"{self.where}: tune: none of evaluation.benchmarks asks the task's own rows.")
        if config.evaluation.split == "validation":
            raise ConfigError(
                f"{self.where}: tune: evaluation.split is validation, so the tables would compare on the very rows that "
                "settings were chosen on; leave it out, and the test rows are asked."
            )
        run = run.with_benchmarks([entry], split="validation")
        if (problem := without_validation_rows(run.evaluations[0].dataset, self.store.remembered)) is not None:
            raise ConfigError(f"{self.where}: tune: there are no rows to choose settings on: {problem}")
        return Trial(config.task_name, config.method, setting, run)

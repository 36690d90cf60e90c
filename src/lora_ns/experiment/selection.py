"""Choose settings by the trials' scores.  READS results/scores of the trials   WRITES results/tuning/<experiment>

Trials are evaluated on the validation split.  No test score is read here.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from lora_ns.benchmarks import metric_names
from lora_ns.config.text_files import replace_text
from lora_ns.errors import LoraNsError, TrainingError
from lora_ns.experiment.study import Study, chosen_of
from lora_ns.experiment.task_method import Trial
from lora_ns.store import record
from lora_ns.store.evaluation_file import write_evaluation_file
from lora_ns.store.integrity import load_verified_score
from lora_ns.store.local_files import sha256_file
from lora_ns.store.paths import Store


def choose(experiment: Study, store: Store) -> Path:
    """Write the chosen setting of each method on each task: best mean over the seeds, the first in a tie.  Returns the path.

    Raises LoraNsError if a trial has no score, TrainingError if no setting of a method could be trained.
    """
    assert experiment.choice is not None
    lacking = [trial.run.name for trial in experiment.trials if not trial.score.is_file()]
    if lacking:
        raise LoraNsError(f"{len(lacking)} of {len(experiment.trials)} trials have no score yet, as {lacking[0]}.")
    trials = [line for group in _by_method(experiment.trials) for line in _chosen(group)]
    content = {
        "schema": record.SCHEMA,
        "stage": "choose",
        "experiment": experiment.name,
        "trials": trials,
        "inputs": {f"{t.run.score_names[0]}.json": sha256_file(t.score) for t in experiment.trials},
    }
    for run in experiment.runs_with(chosen_of(trials)):  # the workflow continues with these runs
        run.write_file()
        for evaluation in [*run.evaluations, *run.held_out]:
            write_evaluation_file(evaluation, store)
    for old in store.tables(experiment.name).glob("record-*.json"):
        old.unlink()  # they may belong to another choice
    replace_text(experiment.choice, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return experiment.choice


def _by_method(trials: Sequence[Trial]) -> list[list[Trial]]:
    """The trials grouped by task and method, in order."""
    groups: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        groups.setdefault((trial.task, trial.method), []).append(trial)
    return list(groups.values())


def _chosen(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Return one entry per setting of one method on one task, the best marked as chosen.  Raises TrainingError."""
    lines = [_line([t for t in trials if t.setting == setting]) for setting in _settings(trials)]
    usable = [line for line in lines if line["value"] is not None]
    if not usable:
        raise TrainingError(f"{trials[0].task}: none of the settings of {trials[0].method} could be trained.")
    sign = -1 if metric_names.lower_is_better(usable[0]["metric"]) else 1
    best = max(usable, key=lambda line: sign * line["value"])  # the first in a tie
    best["chosen"] = True
    return lines


def _settings(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for trial in trials:
        if trial.setting not in found:
            found.append(trial.setting)
    return found


def _line(trials: Sequence[Trial]) -> dict[str, Any]:
    """Return the result of one setting over its seeds.  One diverged seed leaves the setting without a value."""
    contents = [load_verified_score(trial.score) for trial in trials]
    metric = contents[0]["main_metric"]
    values = {str(c["seed"]): c["metrics"].get(metric) for c in contents}
    known = [value for value in values.values() if value is not None]
    return {
        "task": trials[0].task,
        "method": trials[0].method,
        "setting": trials[0].setting,
        "metric": metric,
        "value": fmean(known) if len(known) == len(values) else None,
        "by_seed": values,
        "num_examples": max(c["num_examples"] for c in contents),
        "failed": next((c["diverged"] for c in contents if "diverged" in c), None),
        "chosen": False,
        "runs": [trial.run.name for trial in trials],
    }

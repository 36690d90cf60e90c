"""Each stage after whatever it needs: the way from a config to its tokens, adapter or score, made where it is missing.

Where several processes share a run, the first makes what goes before, and the others wait for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lora_ns.config.builtin import base_model_spec
from lora_ns.config.experiment_file import MAX_MEMBERS
from lora_ns.errors import Interrupted, LoraNsError, TrainingError
from lora_ns.store import record
from lora_ns.store.artifact import atomic_artifact, is_finished, read_record
from lora_ns.store.evaluation_file import EvaluationRequest, write_evaluation_file
from lora_ns.store.failures import failure_of, record_failure
from lora_ns.store.paths import Store
from lora_ns.store.processes import Processes
from lora_ns.store.run import Run

if TYPE_CHECKING:
    from lora_ns.evaluation.model_pool import BaseModelPool

WAIT_SECONDS = 0.2


def make_base_model(name: str, store: Store) -> Path:
    """Pretrain `builtin:<name>` if it is missing.  Returns its folder.  Raises ConfigError for an unknown name."""
    target = store.base_model(name)
    if is_finished(target):
        return target
    spec = base_model_spec(name)
    from lora_ns.models.tiny.pretrain import pretrain

    meter = record.Meter()
    with atomic_artifact(target) as (folder, notes):
        with meter.part("training"):
            facts = pretrain(name.removeprefix("builtin:"), folder)
        seconds, hardware = facts.pop("seconds", None), facts.pop("hardware")
        notes |= record.describe(
            "pretrain", store.base_digest(name), {"name": name, "spec": spec}, inputs={}, facts=facts, meter=meter
        )
        notes["circumstances"] |= {"pretraining_seconds": seconds, "hardware": hardware}
    return target


def make_base(run: Run, *, quiet: bool = False) -> None:
    """Make the base model if it is a built-in one."""
    if run.base_folder is None:
        return
    if Processes.here().is_first:
        make_base_model(run.config.model.name_or_path, run.store)
    else:
        _await(run.base_folder)


def _await(folder: Path) -> None:
    """Wait for an artefact that the first process makes.  If that process fails, the launcher ends all."""
    while not is_finished(folder):
        time.sleep(WAIT_SECONDS)


def make_tokens(run: Run, *, quiet: bool = False) -> Path:
    """Make rows, base model and tokens.  Returns the tokens' folder."""
    folder = run.tokens
    if is_finished(folder):
        return folder
    if not Processes.here().is_first:
        _await(folder)
        return folder
    from lora_ns.data.fetch import fetch
    from lora_ns.data.tokenization import tokenize

    for dataset in run.training_data:
        fetch(dataset, run.store)
    make_base(run, quiet=quiet)
    return tokenize(run)


def make_adapter(run: Run, *, quiet: bool = False) -> Path:
    """Make an adapter and everything it needs.  Returns its folder.  Raises LoraNsError."""
    from lora_ns.models.machine import check_machine

    if not run.is_trained:
        check_machine(run.config)
    outcomes: list[Path | LoraNsError] = []
    make_adapters([run], lambda _, outcome: outcomes.append(outcome), quiet=quiet)
    [outcome] = outcomes
    if isinstance(outcome, LoraNsError):
        raise outcome
    return outcome


def _make_ready(run: Run, quiet: bool) -> None:
    """Make everything that an adapter needs."""
    make_base(run, quiet=quiet)
    if run.config.peft.method != "none":
        make_tokens(run, quiet=quiet)
    if Processes.here().is_first:
        run.write_file()


def make_adapters(
    runs: Sequence[Run],
    done: Callable[[Run, Path | LoraNsError], None],
    *,
    trial: bool = False,
    max_members: int = MAX_MEMBERS,
    max_memory: int | None = None,
    quiet: bool = False,
) -> None:
    """Train the adapters of many runs; compatible runs are trained together in one loop.

    done: called for every run with its adapter's folder or the error.  trial: a non-finite loss is a result.
    """

    def settle(run: Run, outcome: Path | LoraNsError) -> None:
        if trial and isinstance(outcome, TrainingError):
            from lora_ns.experiment.divergence import keep_divergence

            outcome = keep_divergence(run, str(outcome))
        elif not isinstance(outcome, LoraNsError):
            try:
                read_record(outcome, diverged_too=trial)
            except LoraNsError as error:
                outcome = error
        done(run, outcome)

    ready = []
    for run in runs:
        try:
            if not run.is_trained:
                _make_ready(run, quiet)
            ready.append(run)
        except LoraNsError as error:
            settle(run, error)
    if ready:
        from lora_ns.training.multi_adapter.grouping import groups_of
        from lora_ns.training.multi_adapter.runner import train_all
        from lora_ns.workflow.jobs import parts_within

        several = Processes.here().count > 1  # processes of one launch share the rows of one run and cannot train a group
        groups = groups_of(ready, 1 if several else max_members)
        if max_memory is not None:
            groups = [part for group in groups for part in parts_within(group, max_memory)]
        train_all(groups, settle, quiet=quiet)


def make_score(run: Run, evaluation: EvaluationRequest, *, quiet: bool = False) -> Path:
    """Make a run's score on one benchmark, and everything it needs.  Returns its file."""
    found = make_scores([run], evaluation, quiet=quiet)[run.name]
    if isinstance(found, Exception):
        raise found
    return found


def make_scores(
    runs: Sequence[Run],
    evaluation: EvaluationRequest,
    *,
    quiet: bool = False,
    rescore: bool = False,
    bases: BaseModelPool | None = None,
    train: bool = True,
) -> dict[str, Path | Exception]:
    """Evaluate runs on one benchmark, after their missing inputs; returns run name -> score file or exception.

    Each base model is loaded once.  rescore: scores saved predictions again, even if the score exists.  bases: keeps a base
    model for the next call.  train: trains missing adapters; otherwise a missing adapter is an error with its reason.
    """
    from lora_ns.experiment.divergence import score_divergence
    from lora_ns.models.machine import check_machine

    found: dict[str, Path | Exception] = {}
    trained: list[Run] = []
    for run in runs:
        path = run.score(evaluation)
        if path.is_file() and not rescore:
            found[run.name] = path
            continue
        try:
            check_machine(run.config, training=False, backend=evaluation.backend)
            if not train and not run.is_trained:
                raise TrainingError(_why_untrained(run))
            if not run.is_trained:
                make_adapter(run, quiet=quiet)
            with record_failure(run.store, run.name, "evaluate"):
                diverged = score_divergence(run, evaluation)
        except Interrupted:
            raise
        except Exception as error:
            found[run.name] = error
        else:
            found[run.name] = diverged or path
            trained += [] if diverged else [run]
    if trained:
        from lora_ns.data.fetch import fetch
        from lora_ns.evaluation.distributed import first_goes_first
        from lora_ns.evaluation.evaluate import evaluate_runs

        store = trained[0].store
        with first_goes_first():
            fetch(evaluation.dataset, store)
            write_evaluation_file(evaluation, store)
        found |= evaluate_runs(trained, evaluation, quiet=quiet, rescore=rescore, bases=bases)
    return found


def _why_untrained(run: Run) -> str:
    failed = failure_of(run.store, run.name)
    return "there is no adapter" if failed is None else f"its training failed: {failed['reason']}"

"""Each stage after whatever it needs: the way from a config to its tokens, adapter or score, made where it is missing.

Where several processes share a run, the first makes what goes before, and the others wait for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lora_ns.config import RunConfig
from lora_ns.errors import Interrupted, LoraNsError, TrainingError
from lora_ns.experiment_file import MAX_MEMBERS
from lora_ns.failure import failure_of, noting
from lora_ns.processes import Processes
from lora_ns.store import Evaluation, Store, exists, read_record

if TYPE_CHECKING:
    from lora_ns.answering.bases import Bases

WAIT_SECONDS = 0.2


def make_base(config: RunConfig, store: Store, *, quiet: bool = False) -> None:
    """The base model, where it is one of the project's own."""
    if not config.model.name_or_path.startswith("builtin:"):
        return
    folder = store.base_model(config.model.name_or_path)
    if Processes.here().is_first:
        from lora_ns.base_model import make_base_model

        make_base_model(config.model.name_or_path, store, quiet=quiet)
    else:
        _await(folder)


def _await(folder: Path) -> None:
    """Waits for an artefact that the first process makes; the launcher ends all where that one fails."""
    while not exists(folder):
        time.sleep(WAIT_SECONDS)


def make_tokens(config: RunConfig, store: Store, *, quiet: bool = False) -> Path:
    """Rows, base model and tokens; returns the tokens' folder."""
    folder = store.tokens(config)
    if exists(folder):
        return folder
    if not Processes.here().is_first:
        _await(folder)
        return folder
    from lora_ns.fetch import fetch
    from lora_ns.tokenize import tokenize

    for dataset in store.training_data(config):
        fetch(dataset, store)
    make_base(config, store, quiet=quiet)
    return tokenize(config, store)


def make_adapter(config: RunConfig, store: Store, *, quiet: bool = False) -> Path:
    """The adapter and what it is made from; returns its folder.  Raises LoraNsError where it cannot be had."""
    from lora_ns.machine import check_machine

    if not exists(store.adapter(store.run_name(config))):
        check_machine(config)
    outcomes: list[Path | LoraNsError] = []
    make_adapters([config], store, lambda _, outcome: outcomes.append(outcome), quiet=quiet)
    [outcome] = outcomes
    if isinstance(outcome, LoraNsError):
        raise outcome
    return outcome


def _make_ready(config: RunConfig, store: Store, quiet: bool) -> None:
    """What an adapter is made from."""
    make_base(config, store, quiet=quiet)
    if config.peft.method != "none":
        make_tokens(config, store, quiet=quiet)
    if Processes.here().is_first:
        store.write_run_file(config)


def make_adapters(
    configs: Sequence[RunConfig],
    store: Store,
    done: Callable[[RunConfig, Path | LoraNsError], None],
    *,
    trial: bool = False,
    max_members: int = MAX_MEMBERS,
    max_memory: int | None = None,
    quiet: bool = False,
) -> None:
    """The adapters of many configs, those that can be trained at once together.

    done: told of every run, its adapter's folder or why there is none.  trial: a loss that is not finite is a result.
    """

    def settle(config: RunConfig, outcome: Path | LoraNsError) -> None:
        if trial and isinstance(outcome, TrainingError):
            from lora_ns.trial import keep_divergence

            outcome = keep_divergence(config, store, str(outcome))
        elif not isinstance(outcome, LoraNsError):
            try:
                read_record(outcome, diverged_too=trial)
            except LoraNsError as error:
                outcome = error
        done(config, outcome)

    ready = []
    for config in configs:
        try:
            if not exists(store.adapter(store.run_name(config))):
                _make_ready(config, store, quiet)
            ready.append(config)
        except LoraNsError as error:
            settle(config, error)
    if ready:
        from lora_ns.sweep import train_all

        train_all(ready, store, settle, max_members=max_members, max_memory=max_memory, quiet=quiet)


def make_score(config: RunConfig, evaluation: Evaluation, store: Store, *, quiet: bool = False) -> Path:
    """The score of a config's adapter on one benchmark, and what it is made from; returns its file."""
    found = make_scores([config], evaluation, store, quiet=quiet)[store.run_name(config)]
    if isinstance(found, Exception):
        raise found
    return found


def make_scores(
    configs: Sequence[RunConfig],
    evaluation: Evaluation,
    store: Store,
    *,
    quiet: bool = False,
    rescore: bool = False,
    bases: Bases | None = None,
    train: bool = True,
) -> dict[str, Path | Exception]:
    """Run -> its score on one benchmark, made with all that it is made from, or why it has none; base models loaded once.

    rescore: judges kept predictions again, also where the score is there.  bases: keeps a base model for the next call.
    train: whether an adapter that is not there is made; else why its training failed is why there is no score.
    """
    from lora_ns.machine import check_machine
    from lora_ns.trial import score_divergence

    found: dict[str, Path | Exception] = {}
    trained: dict[str, RunConfig] = {}
    for config in configs:
        run = store.run_name(config)
        path = store.score(run, evaluation.name)
        if path.is_file() and not rescore:
            found[run] = path
            continue
        try:
            check_machine(config, training=False, backend=evaluation.backend)
            if not train and not exists(store.adapter(run)):
                raise TrainingError(_why_untrained(run, store))
            if not exists(store.adapter(run)):
                make_adapter(config, store, quiet=quiet)
            with noting(store, run, "evaluate"):
                diverged = score_divergence(config, evaluation, store)
        except Interrupted:
            raise
        except Exception as error:
            found[run] = error
        else:
            found[run] = diverged or path
            trained |= {} if diverged else {run: config}
    if trained:
        from lora_ns.answering.spreading import first_goes_first
        from lora_ns.evaluate import evaluate_together
        from lora_ns.fetch import fetch

        with first_goes_first():
            fetch(evaluation.dataset, store)
            store.write_evaluation_file(evaluation)
        found |= evaluate_together(list(trained.values()), evaluation, store, quiet=quiet, rescore=rescore, bases=bases)
    return found


def _why_untrained(run: str, store: Store) -> str:
    failed = failure_of(store, run)
    return "there is no adapter" if failed is None else f"its training failed: {failed['reason']}"

"""Each stage after whatever it needs: the way from a config to its tokens, adapter or score, made where it is missing."""

from __future__ import annotations

from pathlib import Path

from lora_ns.config import RunConfig
from lora_ns.failure import noting
from lora_ns.store import Evaluation, Store, exists


def make_base(config: RunConfig, store: Store, *, quiet: bool = False) -> None:
    """The base model, where it is one of the project's own."""
    if config.model.name_or_path.startswith("builtin:"):
        from lora_ns.base_model import make_base_model

        make_base_model(config.model.name_or_path, store, quiet=quiet)


def make_tokens(config: RunConfig, store: Store, *, quiet: bool = False) -> Path:
    """Rows, base model and tokens; returns the tokens' folder."""
    folder = store.tokens(config)
    if exists(folder):
        return folder
    from lora_ns.fetch import fetch
    from lora_ns.tokenize import tokenize

    fetch(config.dataset, store)
    make_base(config, store, quiet=quiet)
    return tokenize(config, store)


def make_adapter(config: RunConfig, store: Store, *, quiet: bool = False) -> Path:
    """The adapter and what it is made from; returns its folder."""
    folder = store.adapter(store.run_name(config))
    if exists(folder):
        return folder
    from lora_ns.machine import check_machine
    from lora_ns.train import train

    check_machine(config)
    make_base(config, store, quiet=quiet)
    if config.peft.method != "none":
        make_tokens(config, store, quiet=quiet)
    store.write_run_file(config)
    with noting(store, folder.name, "train"):
        return train(config, store, quiet=quiet)


def make_score(config: RunConfig, evaluation: Evaluation, store: Store, *, quiet: bool = False) -> Path:
    """The score of a config's adapter on one benchmark, and what it is made from; returns its file."""
    path = store.score(store.run_name(config), evaluation.name)
    if path.is_file():
        return path
    from lora_ns.evaluate import evaluate
    from lora_ns.fetch import fetch

    make_adapter(config, store, quiet=quiet)
    fetch(evaluation.dataset, store)
    store.write_evaluation_file(evaluation)
    with noting(store, store.run_name(config), "evaluate"):
        return evaluate(config, evaluation, store, quiet=quiet)

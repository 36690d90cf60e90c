"""Digests: hashes of all that determines an artefact."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from lora_ns.config import OUTSIDE_DIGEST, DatasetConfig, RunConfig, nearest
from lora_ns.config.builtin import DATASET_VERSIONS
from lora_ns.errors import ConfigError
from lora_ns.store.local_files import files_by_split, remembered_sha256

PROTOCOL = {"fetch": 1, "pretrain": 2, "tokenize": 3, "train": 2, "evaluate": 2, "merge": 1, "choose": 1, "tables": 1}
"""Stage -> version, raised by hand when a code change alters a stage's results.  Part of every digest."""

READING = {"hub": 2, "files": 2}
"""Version of the file reader, raised when the same bytes give other values.  Part of the rows' digest."""

_VIEW = """columns format chat_template chat_template_options prompt_template response_template text_columns label_column labels
    max_length""".split()
"""Data set settings that affect how rows are read, not which rows."""


def reading_settings(dataset: DatasetConfig) -> dict[str, Any]:
    """The settings of a data set that affect how its rows are read."""
    return dataset.model_dump(include=set(_VIEW))


def digest_of(value: Mapping[str, Any]) -> str:
    """The first 12 hex digits of the sha256 of the value as canonical JSON, independent of key order and Python version."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def rows_identity(dataset: DatasetConfig, remembered: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The values that determine the rows.

    remembered: path -> sha256 of local files as last seen, used if a file is not on this machine.
    Raises DataError for a local file that is neither here nor remembered.
    """
    if dataset.is_builtin:
        source: dict[str, Any] = builtin_identity(dataset)
    elif dataset.is_hub:
        source = {"hub": dataset.name, "subset": dataset.subset, "revision": dataset.revision}
        source |= {"reading": READING["hub"]}
        source |= {"streaming": True} if dataset.streaming else {}
    else:
        files = files_by_split(dataset, remembered or {})
        source = {
            "files": {
                split: [[kind, remembered_sha256(path, remembered or {})] for kind, path in entries]
                for split, entries in files.items()
            },
            "column_names": dataset.column_names,
            "reading": READING["files"],
        }
    keys = "train_split validation_split eval_split validation_size eval_size split_seed max_samples".split()
    limits = ["max_validation_samples", "max_eval_samples"]
    return {"source": source, **{key: getattr(dataset, key) for key in [*keys, *limits]}}


def builtin_identity(dataset: DatasetConfig) -> dict[str, Any]:
    """The name, version and options of a builtin source.  Raises ConfigError for an unknown name."""
    name = str(dataset.name).removeprefix("builtin:")
    if name not in DATASET_VERSIONS:
        known = ", ".join(DATASET_VERSIONS)
        raise ConfigError(f"dataset.name: there is no builtin {name!r}.{nearest(name, DATASET_VERSIONS)} Known: {known}.")
    return {"builtin": name, "version": DATASET_VERSIONS[name], "options": dataset.options}


def tokens_identity(config: RunConfig, rows: str, model: Mapping[str, Any], held_out: Mapping[str, Any]) -> dict[str, Any]:
    """What determines the tokens: rows, tokenizer, templates and lengths, and the benchmark rows that are held out.

    rows: digest of the rows.  model: what determines the tokenizer.
    """
    return {
        "stage": "tokenize",
        "protocol": PROTOCOL["tokenize"],
        "rows": rows,
        "tokenizer": dict(model),
        "task_type": config.task_type,
        "view": reading_settings(config.dataset) | config.dataset.model_dump(include={"max_dropped", "overlap"}),
        **held_out,
    }


def adapter_identity(config: RunConfig, tokens: str, model: Mapping[str, Any]) -> dict[str, Any]:
    """What determines an adapter: tokens, base model, method, training settings, seed.  tokens: their digest."""
    training = {key: value for key, value in config.training.model_dump().items() if key not in OUTSIDE_DIGEST}
    return {
        "stage": "train",
        "protocol": PROTOCOL["train"],
        "tokens": tokens,
        "model": {**model, **config.model.model_dump(exclude={"name_or_path", "revision"})},
        "peft": config.peft.model_dump(),
        "training": None if config.peft.method == "none" else training,
        "seed": config.seed,
    }

"""Builtin data sets: generated rows, seeded, split into train, validation and test without overlap.

A generator is a module with `draw(rng, index) -> row` (index: the row's number in its split) and `COLUMNS`, the columns
whose texts must be unique.  Its version is in config/builtin.py.
"""

import random
import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from lora_ns.config import nearest
from lora_ns.config.builtin import DATASET_DEFAULTS
from lora_ns.data.sources import paraphrase, python_functions, word_problems
from lora_ns.errors import ConfigError

GENERATORS: dict[str, ModuleType] = {
    "word_problems": word_problems,
    "paraphrase": paraphrase,
    "python_functions": python_functions,
}

SPLITS = ("test", "validation", "train")
"""Order of drawing: train is last, so its size does not change the other splits."""

_PATIENCE = 2000
"""After this many rejected draws in a row, the generator counts as exhausted."""


def generate(name: str, options: Mapping[str, Any] | None = None) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of train, validation and test of the generator `name`.

    options: num_train, num_validation, num_test, seed (`DATASET_DEFAULTS`); the same options give the same rows everywhere.
    No text of one row (its `COLUMNS`, compared by `normalised`) occurs in another row of any split.
    Raises ConfigError for an unknown name or option, a value out of range, or too many rows.
    """
    module = _generator(name)
    settings = _settings(name, options or {})
    seen: set[str] = set()
    rows: dict[str, list[dict[str, Any]]] = {}
    for split in SPLITS:
        rng = random.Random(f"{name}/{settings['seed']}/{split}")
        rows[split] = _draw_rows(module, name, rng, settings[f"num_{split}"], seen)
    return {split: rows[split] for split in ("train", "validation", "test")}


def normalised(text: str) -> str:
    """Return the text for comparison: words and numbers only, lower case."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def _draw_rows(module: ModuleType, name: str, rng: random.Random, count: int, seen: set[str]) -> list[dict[str, Any]]:
    """Return `count` rows with texts that are not in `seen`, and add these to `seen`."""
    rows: list[dict[str, Any]] = []
    rejected = 0
    while len(rows) < count:
        row = module.draw(rng, len(rows))
        texts = {normalised(row[column]) for column in module.COLUMNS}
        if texts & seen:
            rejected += 1
            if rejected > _PATIENCE:
                raise ConfigError(
                    f"builtin:{name} has no more than about {len(seen) // len(module.COLUMNS)} rows without overlap "
                    f"over all splits; ask for fewer (num_train, num_validation, num_test)."
                )
            continue
        rejected = 0
        seen |= texts
        rows.append(row)
    return rows


def _generator(name: str) -> ModuleType:
    if name not in GENERATORS:
        hint = nearest(name, GENERATORS)
        raise ConfigError(f"there is no data set 'builtin:{name}'.{hint} Known: {', '.join(GENERATORS)}.")
    return GENERATORS[name]


def _settings(name: str, options: Mapping[str, Any]) -> dict[str, int]:
    problems = [
        f"builtin:{name} has no option {key!r}.{nearest(key, DATASET_DEFAULTS)} Known: {', '.join(DATASET_DEFAULTS)}."
        for key in options
        if key not in DATASET_DEFAULTS
    ]
    for key, value in options.items():
        if key in DATASET_DEFAULTS and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            problems.append(f"builtin:{name}: {key} must be a whole number from 0 up, not {value!r}.")
    if problems:
        raise ConfigError(problems)
    return {**DATASET_DEFAULTS, **options}

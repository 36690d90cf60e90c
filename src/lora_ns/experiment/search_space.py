"""The grid of a hyperparameter search: each method's settings, and whether the search is fair.

`lora_ns.experiment.selection` makes the choice from scores on the validation split.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from lora_ns.config import DatasetConfig
from lora_ns.config.builtin import DATASET_DEFAULTS
from lora_ns.store.local_files import files_by_split, remembered_sha256

Setting = dict[str, Any]
"""Dotted key -> value, as in `{"training.learning_rate": 1e-4}`."""


def settings_of(grid: Mapping[str, Sequence[Any]]) -> list[Setting]:
    """Every combination of the grid's values; the last key changes fastest."""
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def unequal_budgets(budgets: Mapping[str, int]) -> list[str]:
    """The fault of a search in which methods have different budgets.  budgets: method -> number of settings."""
    if len(set(budgets.values())) < 2:
        return []
    said = ", ".join(f"{method} {count}" for method, count in budgets.items())
    return [f"tune: every method must have the same number of settings to try, for the choice to be fair; here: {said}."]


def without_validation_rows(data: DatasetConfig, remembered: Mapping[str, str]) -> str | None:
    """Why there are no validation rows to choose settings on.  None if there are.  Reads no rows.

    remembered: as for `rows_identity`.
    """
    hint = "Set dataset.validation_size to hold rows out of train."
    if data.validation_split is not None and data.validation_split == data.eval_split:
        return f"dataset.validation_split is {data.eval_split!r}, the split that is tested on. {hint}"
    files = {} if data.is_builtin or data.is_hub else files_by_split(data, remembered)
    validation = files.get(data.validation_split or "validation", [])
    contents = {remembered_sha256(path, remembered) for _, path in files.get(data.eval_split, [])}
    same = [path for _, path in validation if remembered_sha256(path, remembered) in contents]
    if same and data.eval_split != "validation":
        return f"dataset.name: {same[0]}, to choose on, is the same file, to the byte, as one that is tested on. {hint}"
    if data.validation_size is not None or data.validation_split is not None:
        return None
    if data.is_builtin:
        count = data.options.get("num_validation", DATASET_DEFAULTS["num_validation"])
        return None if count else f"dataset.options.num_validation is 0. {hint}"
    if data.is_hub:
        return f"dataset {data.name} names no dataset.validation_split. {hint}"
    if data.eval_split != "validation" and validation:
        return None
    return f"dataset {data.name} has no validation split that is not tested on. {hint}"

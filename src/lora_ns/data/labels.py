"""The label of a row: a class by name or number, or a number for regression."""

import math
import re
from typing import Any

from lora_ns.config import DatasetConfig, nearest
from lora_ns.data.prompts import Row, is_missing
from lora_ns.errors import DataError


def has_label(row: Row, dataset: DatasetConfig) -> bool:
    """Whether the row has a label (lines of GLUE's TSV files may be cut short)."""
    value = row[dataset.label_column]
    return not is_missing(value) and value != ""


def label_of(row: Row, dataset: DatasetConfig, number: int) -> int:
    """The class number of a row's label.  Raises DataError with the row's number for an unknown label.

    A label is matched by name first.  It is matched by number only if no class name is a number or a truth value.
    Otherwise, with labels [1, 0] or [true, false], a row's 1 could mean the class named 0 or false.
    """
    labels = dataset.labels or []
    value = row[dataset.label_column]
    whole = _whole(value)
    spellings = [str(value)] + [str(value).lower()] * isinstance(value, bool) + [str(whole)] * (whole is not None)
    for name in spellings:
        if name in labels:
            return labels.index(name)
    by_name_only = any(_whole(label) is not None for label in labels)
    if whole is not None and 0 <= whole < len(labels) and not by_name_only:
        return whole
    hidden = " (-1 marks the hidden labels of a public test set: choose a labelled split)" if whole == -1 else ""
    hint = nearest(value.strip(), labels) if isinstance(value, str) else ""
    known = ", ".join(name if by_name_only else f"{i} {name}" for i, name in enumerate(labels))
    raise DataError(f"row {number}: {dataset.label_column} is {value!r}{hidden}, which is none of dataset.labels: {known}.{hint}")


def _whole(value: Any) -> int | None:
    """The integer that a label is or spells, with 1 and 0 for true and false.  None if there is none."""
    if isinstance(value, str):
        if value.lower() in ("true", "false"):
            return int(value.lower() == "true")
        return int(float(value)) if re.fullmatch(r"-?\d{1,15}(\.0*)?", value, re.ASCII) else None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return int(value) if isinstance(value, int) else None


def number_of(row: Row, dataset: DatasetConfig, number: int) -> float:
    """The regression target of a row.  Raises DataError with the row's number if it is not a finite number."""
    value = row[dataset.label_column]
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise DataError(f"row {number}: {dataset.label_column} is {value!r}, which is no number to predict.")
    return found

"""The result of a scorer for one completion.

>>> Scored(parsed="18", correct=True)
Scored(parsed='18', correct=True)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Scored:
    """parsed: the answer that was compared (None if there is none).  correct: whether it matches the reference."""

    parsed: str | None
    correct: bool


Scorer = Callable[[str, str], Scored]
"""(completion, reference) -> Scored.  Raises DataError for an unusable reference, never for a bad completion."""


def as_reference(value: Any) -> str | None:
    """Return a reference as text; None if it is neither text nor a finite number.

    A float such as 18.0 becomes "18": in a column with missing values integers are read as floats."""
    if isinstance(value, float):
        return None if not math.isfinite(value) else str(int(value) if value.is_integer() else value)
    return str(value) if isinstance(value, (str, int)) else None

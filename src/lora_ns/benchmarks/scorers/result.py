"""What a scorer says of one completion.

>>> Scored(parsed="18", correct=True)
Scored(parsed='18', correct=True)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Scored:
    """parsed: the answer as it was compared (None: there is none).  correct: whether it is the reference."""

    parsed: str | None
    correct: bool


Scorer = Callable[[str, str], Scored]
"""(completion, reference) -> Scored.  Raises DataError where the reference is unusable, never for a bad completion."""


def as_reference(value: Any) -> str | None:
    """A right answer as scorers read it: text, or a number's digits (18.0 is 18, as a table of numbers with gaps would have
    written it); None for what is neither."""
    if isinstance(value, float):
        return None if not math.isfinite(value) else str(int(value) if value.is_integer() else value)
    return str(value) if isinstance(value, (str, int)) else None

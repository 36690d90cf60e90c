"""What a scorer says of one completion.

>>> Scored(parsed="18", correct=True)
Scored(parsed='18', correct=True)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Scored:
    """parsed: the answer as it was compared (None: there is none).  correct: whether it is the reference."""

    parsed: str | None
    correct: bool


Scorer = Callable[[str, str], Scored]
"""(completion, reference) -> Scored.  Raises DataError where the reference is unusable, never for a bad completion."""

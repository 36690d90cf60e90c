"""Result of a preflight check."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """A problem, as text `key path: what, and what was expected`."""

    text: str
    fatal: bool = True
    """Whether a run would fail; otherwise it is advice."""


def advice(text: str) -> Finding:
    """Return a non-fatal finding."""
    return Finding(text, fatal=False)

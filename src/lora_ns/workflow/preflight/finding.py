"""One thing that a look ahead found."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What is wrong, as `key path: what, and what was expected`."""

    text: str
    fatal: bool = True
    """Whether a run would fail by it; otherwise it is advice."""


def advice(text: str) -> Finding:
    """Something to know that no run fails by."""
    return Finding(text, fatal=False)

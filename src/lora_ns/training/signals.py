"""Clean stop: on a first SIGTERM, SIGUSR1 or Ctrl-C training saves its state, and the process exits with status 75.

75 is EX_TEMPFAIL of sysexits.h: not done, not broken; called again, the run goes on where it stopped.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lora_ns.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
ECHO_SECONDS = 3.0
"""A second Ctrl-C within this time is the same one: the terminal signals every process of a group, and torch's launcher
forwards its own signal."""


class Interruption:
    """True once a signal has arrived."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def raised(self, what: str) -> Interrupted:
        """The error to raise once the state is saved.  what: description of what was saved."""
        assert self.signal is not None
        return Interrupted(f"stopped by {self.signal.name}: {what}. Called again, the run goes on from there.")


_noticed: list[Interruption] = []
"""The interruption of the block that is running, if any."""


@contextmanager
def defer_signals() -> Iterator[Interruption]:
    """Record signals inside the block, for the training loop to check.  A second Ctrl-C after ECHO_SECONDS acts at once.

    A nested block shares the Interruption, so a signal that arrives at the end of one run stops the next.
    SIGTERM and SIGUSR1 may be repeated: schedulers send them again, and use SIGKILL to force an end.
    """
    if _noticed:
        yield _noticed[-1]
        return
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption  # only the main thread receives signals
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    pressed: list[float] = []
    """Time of the last Ctrl-C."""

    def note(number: int, frame: Any) -> None:
        interruption.signal = signal.Signals(number)
        if number != signal.SIGINT:
            return
        pressed.append(time.monotonic())
        if pressed[-1] - pressed[0] > ECHO_SECONDS:
            signal.signal(number, before[signal.SIGINT])
            signal.raise_signal(number)

    for number in SIGNALS:
        signal.signal(number, note)
    _noticed.append(interruption)
    try:
        yield interruption
    finally:
        _noticed.pop()
        for number, handler in before.items():
            signal.signal(number, handler)

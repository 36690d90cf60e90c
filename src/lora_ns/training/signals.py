"""Being told to stop: a first SIGTERM, SIGUSR1 or Ctrl-C lets training keep what it has; then the process ends with 75.

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
"""A Ctrl-C that comes again so soon is the same one: the terminal tells every process of a group, and torch's launcher
passes on to the others what it was told itself."""


class Interruption:
    """Whether the process was told to stop."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def raised(self, what: str) -> Interrupted:
        """The error to raise once all is kept.  what: what was kept."""
        assert self.signal is not None
        return Interrupted(f"stopped by {self.signal.name}: {what}. Called again, the run goes on from there.")


_noticed: list[Interruption] = []
"""By the block that is being run, if any."""


@contextmanager
def defer_signals() -> Iterator[Interruption]:
    """Inside, a signal is only noted, for the loop to act on; a second Ctrl-C that is no echo acts at once.

    A block within another one shares what was noted: a signal that one run came too far to act on stops the next.
    SIGTERM and SIGUSR1 may come any number of times: a scheduler repeats itself when it is in doubt whether it was heard,
    and has SIGKILL for a process that does not end.
    """
    if _noticed:
        yield _noticed[-1]
        return
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption  # signals reach the main thread alone
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    pressed: list[float] = []
    """When Ctrl-C came."""

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

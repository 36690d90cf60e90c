"""Signals, as a terminal, SLURM and torch's launcher send them."""

from __future__ import annotations

import os
import signal
import time

import pytest

from lora_ns.training import signals
from lora_ns.training.signals import defer_signals


def ended_by(number: signal.Signals, seconds_between: float) -> int:
    """How a process ends that is told to stop twice, and then has a moment to finish; negative: by a signal."""
    child = os.fork()
    if child == 0:
        signal.signal(number, signal.SIG_DFL)
        with defer_signals() as told:
            os.kill(os.getpid(), number)
            time.sleep(seconds_between)
            os.kill(os.getpid(), number)
            time.sleep(0.05)
            os._exit(75 if told else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_an_echo_of_ctrl_c_leaves_time_to_keep_what_was_done() -> None:
    assert ended_by(signal.SIGINT, seconds_between=0.05) == 75


def test_a_second_ctrl_c_later_on_acts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "ECHO_SECONDS", 0.02)
    assert ended_by(signal.SIGINT, seconds_between=0.05) == -signal.SIGINT


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_scheduler_that_repeats_itself_is_heard_once(number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "ECHO_SECONDS", 0.02)
    assert ended_by(number, seconds_between=0.05) == 75

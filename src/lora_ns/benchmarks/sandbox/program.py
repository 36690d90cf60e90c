"""A program for the sandbox, and its outcome."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["pass", "wrong", "exception", "timeout", "memory", "killed", "output_too_long"]


@dataclass(frozen=True)
class Program:
    """A model's program and the checks it must meet.

    code: the program extracted from the completion; for HumanEval the prompt and the completion.
    asserts: `assert f(2) == 4` lines, judged in order.
    setup: run after `code` and before the checks (MBPP's `test_setup_code` builds on the program's own classes).
    harness: statements that must end without an exception (HumanEval's `test` and `check(entry_point)`).
    timeout_seconds: wall clock for code, setup and all checks together, without the interpreter's start.
    """

    code: str
    asserts: tuple[str, ...] = ()
    setup: str = ""
    harness: str = ""
    timeout_seconds: float = 3.0


@dataclass(frozen=True)
class Outcome:
    """The verdict on one program.

    status: `pass`; `wrong` (a check failed); `exception` (raised, or ended before its checks); `timeout`;
        `memory` (above the limit); `killed` (died by a signal); `output_too_long` (printed or returned too much).
    message: the reason, in one line; empty for a pass.
    seconds: wall clock from the first statement to the verdict.
    """

    status: Status
    message: str
    seconds: float

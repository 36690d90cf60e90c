"""Runs one program in the sandbox and judges it."""

import contextlib
import secrets
import time
from typing import Any

from lora_ns.benchmarks.sandbox.checks import Question, checks_of
from lora_ns.benchmarks.sandbox.harness import Harness
from lora_ns.benchmarks.sandbox.process import IsolatedProcess, Limits, Stopped
from lora_ns.benchmarks.sandbox.program import Outcome, Program
from lora_ns.benchmarks.sandbox.tiers import Tier
from lora_ns.benchmarks.sandbox.wire import Opaque, Unreadable, value_of
from lora_ns.errors import DataError

MESSAGE_CHARACTERS = 300


def outcome_of(program: Program, tier: Tier, limits: Limits) -> Outcome:
    """Run and judge one program.  Raises SandboxError; DataError if a check is not Python."""
    try:
        checks = checks_of(program.asserts, program.harness)
    except (SyntaxError, ValueError) as error:
        raise DataError(f"a check is not Python ({error}): {_short(program.asserts or program.harness)}") from error
    with contextlib.ExitStack() as running:
        process = running.enter_context(IsolatedProcess(tier, limits, program.timeout_seconds))
        started = time.monotonic()
        deadline = started + program.timeout_seconds
        try:
            for source in (program.code, program.setup):
                if source:
                    _answer(process.ask(("exec", source), deadline))
            for check in checks:
                if isinstance(check, Question):
                    _ask(process, check, deadline)
                elif check.program_names is None:
                    _judge_inside(process, check, deadline)
                else:
                    _judge_apart(process, check, deadline, tier, limits)
        except Stopped as stopped:
            return Outcome(stopped.status, _writable(str(stopped)), time.monotonic() - started)
        return Outcome("pass", "", time.monotonic() - started)


def _ask(process: IsolatedProcess, question: Question, deadline: float) -> None:
    value = _answer(process.ask(("eval", question.expression), deadline))
    if not question.met_by(value):
        raise Stopped("wrong", f"{question.expression} is {_short(value)}, not {_short(question.expected)}")


def _answer(reply: tuple[str, Any]) -> Any:
    """Return the value of a reply.  Raises Stopped for an exception in the program or an invalid reply."""
    kind, content = reply
    if kind == "error":
        raise _stopped_by(content)
    if kind != "value":
        raise Stopped("exception", "the program wrote on the judge's channel")
    try:
        return value_of(content)
    except Unreadable as error:
        raise Stopped("exception", str(error)) from None


def _error_in(content: Any) -> tuple[str, str, str]:
    """Return (name, nearest built-in class, message) of the exception in a reply."""
    try:
        name, base, message = map(str, content)
    except (TypeError, ValueError, RecursionError):
        raise Stopped("exception", "the program wrote on the judge's channel") from None
    return name, base, message


def _stopped_by(content: Any) -> Stopped:
    name, base, message = _error_in(content)
    return Stopped("memory" if base == "MemoryError" else "exception", f"{name}: {message}" if message else name)


def _judge_inside(process: IsolatedProcess, harness: Harness, deadline: float) -> None:
    """Run the harness in the program's process. It ends by returning a token, which a hostile program can read."""
    token = secrets.token_hex(16)
    kind, content = process.ask(("inside", harness.source), deadline, then=token)
    if kind == "error" and _error_in(content)[1] == "AssertionError":
        raise Stopped("wrong", _error_in(content)[2] or "an assertion of the harness is not met")
    if _answer((kind, content)) != token:
        raise Stopped("exception", "the harness did not end")


def _judge_apart(program: IsolatedProcess, harness: Harness, deadline: float, tier: Tier, limits: Limits) -> None:
    """Run the harness in a separate process. Its calls of the program's functions are passed on to the program."""
    seconds = deadline - time.monotonic()
    with IsolatedProcess(tier, limits, seconds) as judge:
        deadline = time.monotonic() + seconds  # start-up does not count as the program's time
        request: tuple[Any, ...] = ("judge", harness.source, harness.program_names, harness.module_names)
        fault: Stopped | None = None
        while True:
            kind, content = judge.ask(request, deadline)
            if kind == "call":
                request, fault = _passed_on(program, content, deadline)
            elif kind == "error" and fault:
                raise fault
            elif kind == "error" and content[1] == "AssertionError":
                raise Stopped("wrong", content[2] or "an assertion of the harness is not met")
            else:
                _answer((kind, content))
                return


def _passed_on(program: IsolatedProcess, call: Any, deadline: float) -> tuple[tuple[Any, ...], Stopped | None]:
    """Call the program. Returns the reply for the harness, and the program's exception if it raised one."""
    name, args, kwargs = call[0], value_of(call[1]["v"]), value_of(call[2]["v"])
    if isinstance(args, Opaque) or isinstance(kwargs, Opaque):
        raise Stopped("wrong", f"{name} was to be called with an object that only its own program has")
    kind, content = program.ask(("call", name, args, kwargs), deadline)
    if kind == "error":
        return ("raised", *_error_in(content)[1:]), _stopped_by(content)
    try:
        value, after = (value_of(part["v"]) for part in content)
    except (Unreadable, TypeError, KeyError, ValueError):
        raise Stopped("exception", "the program wrote on the judge's channel") from None
    if isinstance(value, Opaque):
        return ("opaque", value.kind), None
    return ("returned", value, args if isinstance(after, Opaque) else after), None


def _writable(message: str) -> str:
    """Return the message with lone surrogates escaped, so that it can be written to a file."""
    return message[:MESSAGE_CHARACTERS].encode("utf-8", "backslashreplace").decode()


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer with too many digits, or a value nested too deeply
        text = f"a {type(value).__name__}"
    return text if len(text) <= 100 else text[:97] + "..."

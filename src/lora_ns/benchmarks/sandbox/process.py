"""One isolated interpreter: starts it, asks it, kills it."""

from __future__ import annotations

import contextlib
import json
import marshal
import os
import select
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import Any

from lora_ns.benchmarks.sandbox.program import Status
from lora_ns.benchmarks.sandbox.tiers import Tier, environment
from lora_ns.benchmarks.sandbox.wire import Unreadable, message_of
from lora_ns.errors import SandboxError

START_SECONDS = 60.0
"""Far above any start-up time. A process that is not ready by then means a broken sandbox, not a slow program."""


@dataclass(frozen=True)
class Limits:
    """Limits of one process: address space [bytes]; bytes printed and bytes in one reply."""

    memory_bytes: int = 1 << 30
    output_bytes: int = 1 << 20

    def resources(self, timeout_seconds: float) -> dict[str, tuple[int, int]]:
        """Return RLIMIT name -> (soft, hard) limit.

        The CPU limit is above the wall-clock limit, which decides a time-out.  At the soft CPU limit a process dies by
        SIGXCPU.  At the hard one it dies by SIGKILL, which has many other causes.
        """
        cpu_seconds = int(timeout_seconds) + 5
        return {
            "RLIMIT_AS": (self.memory_bytes, self.memory_bytes),
            "RLIMIT_CPU": (cpu_seconds, cpu_seconds + 1),
            "RLIMIT_FSIZE": (1 << 24, 1 << 24),
            "RLIMIT_NOFILE": (64, 64),
            "RLIMIT_CORE": (0, 0),
        }


MESSAGE_BYTES = 4096


class Stopped(Exception):
    """Raised when the process will send no further reply."""

    def __init__(self, status: Status, message: str):
        self.status: Status = status
        super().__init__(message)


class IsolatedProcess:
    """An interpreter in a sandbox. As a context manager it kills the process at its end."""

    def __init__(self, tier: Tier, limits: Limits, timeout_seconds: float):
        self._limits = limits
        self._printed = b""
        self._printed_bytes = 0
        self._replies = bytearray()
        self._start(tier)
        try:
            config = {**tier.config, "limits": limits.resources(timeout_seconds)}
            self._await_ready(config)
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> IsolatedProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def ask(self, request: tuple[Any, ...], deadline: float, then: str | None = None) -> tuple[str, Any]:
        """Return kind and content of the reply.  Raises Stopped.

        deadline: in `time.monotonic()`.  then: a second message, read by the process after it has handled the request.
        """
        return self._exchange(_framed(request) + (b"" if then is None else _framed(then)), deadline)

    def _start(self, tier: Tier) -> None:
        reply_read, reply_write = os.pipe()
        output_read, output_write = os.pipe()
        inherited = [reply_write]
        command = [*tier.command, str(reply_write)]
        self._info: int | None = None
        if tier.seccomp is not None:
            self._info, info_write = os.pipe()
            filter_read, filter_write = os.pipe()
            os.write(filter_write, tier.seccomp)  # smaller than a pipe's buffer
            os.close(filter_write)
            inherited += [info_write, filter_read]
            command[1:1] = ["--info-fd", str(info_write), "--seccomp", str(filter_read)]
        self._init: int | None = None
        self._may_fork = tier.name == "unsafe"
        self._replies_fd, self._output_fd = reply_read, output_read
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=output_write, stderr=output_write, pass_fds=inherited,
                env=environment(), cwd="/", start_new_session=True, bufsize=0,
            )  # fmt: skip
        except OSError as error:
            self._close()
            raise SandboxError(f"the sandbox did not start: {error}") from error
        finally:
            for descriptor in (output_write, *inherited):
                os.close(descriptor)
        assert self._process.stdin
        self._requests_fd = self._process.stdin.fileno()
        for descriptor in (self._requests_fd, reply_read, output_read):
            os.set_blocking(descriptor, False)

    def _await_ready(self, config: dict[str, Any]) -> None:
        """Wait for the ready message.  Raises SandboxError: the program has not run yet, so any failure is the sandbox's."""
        try:
            kind, _ = self._exchange(_framed(config), time.monotonic() + START_SECONDS)
        except Stopped as stopped:
            with contextlib.suppress(Stopped):
                self._receive(self._output_fd)  # its last words may lie there unread
            printed = self._printed.decode(errors="replace").strip()
            raise SandboxError(f"the sandbox did not start: {printed or stopped}") from None
        if kind != "ready":
            raise SandboxError(f"the sandbox did not start: its first word was {kind!r}")
        if self._info is not None:
            # bubblewrap's inner process: a descriptor rather than a number, which might be given to another
            self._init = os.pidfd_open(json.loads(os.read(self._info, 1 << 16))["child-pid"])

    def _exchange(self, frames: bytes, deadline: float) -> tuple[str, Any]:
        """Send the frames, then read one reply and any printed output until the deadline."""
        outgoing = memoryview(frames)
        poller = select.poll()
        poller.register(self._requests_fd, select.POLLOUT)
        poller.register(self._replies_fd, select.POLLIN)
        poller.register(self._output_fd, select.POLLIN)
        while True:
            frame = _take_frame(self._replies)
            if frame is not None:
                return _read(frame)
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise Stopped("timeout", "the time limit was reached")
            for descriptor, _ in poller.poll(remaining * 1000):
                if descriptor == self._requests_fd:
                    outgoing = self._send(outgoing)
                    if not outgoing:
                        poller.unregister(descriptor)
                elif not self._receive(descriptor):
                    if descriptor == self._replies_fd:
                        raise _cause_of_end(self._process)
                    poller.unregister(descriptor)

    def _send(self, outgoing: memoryview) -> memoryview:
        try:
            return outgoing[os.write(self._requests_fd, outgoing) :]
        except BlockingIOError:
            return outgoing
        except BrokenPipeError:
            raise _cause_of_end(self._process) from None

    def _receive(self, descriptor: int) -> bool:
        """Read the available bytes. Returns False at the end of the stream.  Raises Stopped above the output limits."""
        try:
            data = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return True
        if descriptor == self._replies_fd:
            self._replies += data
            if len(self._replies) > self._limits.output_bytes + 4:
                raise Stopped("output_too_long", f"an answer is longer than {self._limits.output_bytes} bytes")
        else:
            self._printed = (self._printed + data)[:MESSAGE_BYTES]
            self._printed_bytes += len(data)
            if self._printed_bytes > self._limits.output_bytes:
                raise Stopped("output_too_long", f"the program printed more than {self._limits.output_bytes} bytes")
        return bool(data)

    def kill(self) -> None:
        """Kill the process and its children, and wait for their end."""
        if self._init is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._init, signal.SIGKILL)  # the kernel ends the whole namespace with it
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=10)
            os.close(self._init)
            self._init = None
        if self._may_fork:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        if self._process.stdin:
            self._process.stdin.close()
        self._close()

    def _close(self) -> None:
        for descriptor in (self._replies_fd, self._output_fd, self._info):
            if descriptor is not None:
                os.close(descriptor)
        self._replies_fd = self._output_fd = -1


def _framed(message: Any) -> bytes:
    data = marshal.dumps(message)
    return len(data).to_bytes(4, "big") + data


def _take_frame(received: bytearray) -> bytes | None:
    """Remove the first complete message from the buffer and return it.  None if none is complete."""
    if len(received) < 4:
        return None
    end = 4 + int.from_bytes(received[:4], "big")
    if len(received) < end:
        return None
    frame = bytes(received[4:end])
    del received[:end]
    return frame


def _read(frame: bytes) -> tuple[str, Any]:
    try:
        return message_of(frame)
    except Unreadable as error:
        raise Stopped("exception", str(error)) from None


def _cause_of_end(process: subprocess.Popen[bytes]) -> Stopped:
    """What the process died of."""
    try:
        code = process.wait(timeout=2)
    except subprocess.TimeoutExpired:
        return Stopped("exception", "the program closed the judge's channel")
    number = -code if code < 0 else code - 128 if code > 128 else 0  # bubblewrap and shells add 128
    if number == signal.SIGXCPU:
        return Stopped("timeout", "the limit of CPU time was reached")
    if number in signal.valid_signals():
        return Stopped("killed", f"died by {signal.Signals(number).name}")
    return Stopped("exception", f"the program ended with exit status {code} before its checks were done")

"""One trainer a run: whoever holds `lock` in a run's scratch writes its checkpoints, and nobody beside it.

The file names its holder (host, process, SLURM job) and is touched as long as the holder lives, so that a process on
another machine can tell a living holder from one that was killed.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from lora_ns.errors import Busy, LoraNsError

BEAT_SECONDS = 10
SILENT_SECONDS = 120
"""A holder on another machine that has not touched the file for so long is gone."""


@contextmanager
def holding(scratch: Path) -> Iterator[None]:
    """Holds a run's scratch folder.  Raises Busy where a living process holds it, LoraNsError where it cannot be written."""
    path = scratch / "lock"
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        _take(path)
    except OSError as error:
        raise LoraNsError(f"cannot write {path}: {error.strerror or error}.") from error
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, ended), daemon=True)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join()
        path.unlink(missing_ok=True)


def _take(path: Path) -> None:
    """Creates the file, after removing one whose holder is gone."""
    for _ in range(10):
        try:
            # the content stands before the name does, so that nobody reads a holder without a name
            own = path.with_name(f".lock-{platform.node()}-{os.getpid()}")
            own.write_text(json.dumps(_self()), encoding="utf-8")
            os.link(own, path)
            return
        except FileExistsError:
            holder = holder_of(path)
            if holder is not None and is_alive(holder, path):
                raise Busy(
                    f"{path.parent.name} is being trained by process {holder['pid']} on {holder['host']}"
                    + (f" (SLURM job {holder['job']})" if holder.get("job") else "")
                    + ". Wait for it, or end it first."
                ) from None
            with suppress(FileNotFoundError):
                path.unlink()
        finally:
            own.unlink(missing_ok=True)
    raise Busy(f"{path} changes hands faster than it can be taken; start again.")


def _self() -> dict[str, Any]:
    return {
        "host": platform.node(),
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
        "job": os.environ.get("SLURM_JOB_ID"),
    }


def holder_of(path: Path) -> dict[str, Any] | None:
    """Who the file says holds it; None where there is no such file, or nothing to be read in it."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return holder if {"host", "pid", "started"} <= set(holder) else None
    except (OSError, ValueError, TypeError):
        return None


def is_alive(holder: dict[str, Any], path: Path) -> bool:
    """Whether the holder is still at work."""
    if holder["host"] == platform.node():
        try:
            return abs(psutil.Process(holder["pid"]).create_time() - holder["started"]) < 2
        except psutil.Error:
            return False
    job = holder.get("job")
    if job is not None and job == os.environ.get("SLURM_JOB_ID"):
        return False  # this very job, before it was requeued on another machine
    state = _job_state(job) if job is not None else None
    if state is not None:
        return state in ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED")
    try:
        return time.time() - path.stat().st_mtime < SILENT_SECONDS
    except OSError:
        return False


def _job_state(job: str) -> str | None:
    """A SLURM job's state, empty once it is gone; None where there is no SLURM to ask."""
    try:
        done = subprocess.run(
            ["squeue", "--noheader", "--job", job, "--format=%T"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode == 0:
        return done.stdout.strip()
    return "" if "Invalid job id" in done.stderr else None


def _beat(path: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        with suppress(OSError):
            os.utime(path)

"""The process that a file belongs to (a run's lock, a progress file), and whether it is still at work."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

SILENT_SECONDS = 120.0
"""A process on another machine counts as dead after this long without a sign of life."""


@dataclass(frozen=True)
class Owner:
    """A process, identified by host, pid and start time."""

    host: str
    pid: int
    started: float
    """Start time in seconds since 1970.  It tells the process from a later one with the same pid."""
    job: str | None
    """SLURM job id."""

    @classmethod
    def here(cls) -> Owner:
        """Return this process."""
        return Owner(platform.node(), os.getpid(), psutil.Process().create_time(), os.environ.get("SLURM_JOB_ID"))

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Return the owner in a file.  None if the file is missing or unreadable."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def is_alive(self, silence: float, patience: float = SILENT_SECONDS, *, ask_slurm: bool = False) -> bool:
        """Whether the process is still running.  Checked by pid on this machine, by silence on others.

        silence: seconds since its last sign of life.  patience: the limit, in seconds.
        ask_slurm: use SLURM's job state instead of the silence, if SLURM knows the job.
        """
        if self.host == platform.node():
            try:
                return abs(psutil.Process(self.pid).create_time() - self.started) < 2
            except psutil.Error:
                return False
        if ask_slurm and self.job is not None:
            if self.job == os.environ.get("SLURM_JOB_ID"):
                return False  # this very job, before it was requeued on another machine
            if (known := is_at_work(self.job)) is not None:
                return known
        return silence < patience


ANSWER_SECONDS = 60
"""Timeout of SLURM's commands."""


def is_at_work(job: str) -> bool | None:
    """Whether a SLURM job has started and not ended.  None without SLURM."""
    state = ask_slurm(*squeue_command(job), absent="Invalid job id")
    return None if state is None else state in ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED")


def squeue_command(job: str) -> list[str]:
    return ["squeue", "--noheader", "--format=%T", f"--job={job}"]


def ask_slurm(*words: str, absent: str | None = None) -> str | None:
    """What one of SLURM's tools says; None where it is not there, or fails.  absent: the complaint that means `nothing`."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if absent is not None and absent in done.stderr:
        return ""
    return done.stdout.strip() if done.returncode == 0 else None

"""Requests to SLURM: requeue this job, and cancel jobs that a killed workflow left."""

import getpass
import os
import re
import time
from pathlib import Path

from lora_ns.errors import LoraNsError
from lora_ns.store.owner import ask_slurm, squeue_command

TRIES, PAUSE_SECONDS = 3, 2
"""A busy controller may not answer at once."""
ENDING_SECONDS = 600
"""A cancelled job has saved its checkpoint and ended by then."""

_OF_A_WORKFLOW = re.compile(r"(^|_)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
"""Job names of Snakemake: a prefix, and a UUID for each call."""


def requeue() -> bool:
    """Requeue the SLURM job of this process, to resume later; returns whether that was done.

    Returns False outside SLURM or if the job is not running, as when it is cancelled or SLURM itself ends it.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or _insist(*squeue_command(job)) != "RUNNING":
        return False
    return _insist("scontrol", "requeue", job) is not None


def cancel_leftovers() -> list[str]:
    """Cancel SLURM jobs left by an earlier Snakemake call in this folder, and wait for their end; returns their ids.

    The caller must hold the folder's Snakemake lock, so that no live call owns the jobs.  Training jobs save a checkpoint.
    Raises LoraNsError if they do not end.
    """
    left = _leftovers()
    if not left:
        return []
    ask_slurm("scancel", *left)
    end = time.monotonic() + ENDING_SECONDS
    while remaining := _leftovers():
        if time.monotonic() > end:
            raise LoraNsError(f"SLURM jobs {', '.join(remaining)} of an earlier call do not end; see squeue.")
        time.sleep(1)
    return left


def _leftovers() -> list[str]:
    """Queued and running jobs of workflows in this folder, oldest first.  Empty without SLURM."""
    said = ask_slurm("squeue", "--noheader", f"--user={getpass.getuser()}", "--format=%F|%j|%Z")
    jobs = (line.split("|", 2) for line in (said or "").splitlines())
    here = str(Path.cwd())
    found = {job for job, name, folder in jobs if folder == here and _OF_A_WORKFLOW.search(name)}
    return sorted(found, key=int)


def _insist(*words: str) -> str | None:
    """`ask_slurm`, repeated if there is no answer."""
    said = ask_slurm(*words)
    for _ in range(TRIES - 1):
        if said is None:
            time.sleep(PAUSE_SECONDS)
            said = ask_slurm(*words)
    return said

"""Where a run's work stands, in a small file that anyone may read while it goes on: also from another host.

WRITES results/scratch/<run>/progress.json (training), progress-<evaluation>.json (each evaluation)

{"host", "pid", "started", "job", "stage", "step", "steps", "loss", "time", "begun", "started_at"}; times in seconds since
1970.
The file is gone once the work has ended, well or not; what is left of a killed process tells by its silence.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from lora_ns.store.owner import SILENT_SECONDS, Owner
from lora_ns.store.paths import Store
from lora_ns.store.processes import Processes

EVERY_SECONDS = 1.0
"""Minimum seconds between two writes of the file."""

Report = Callable[..., None]
"""report(step, loss=None): `step` steps are done."""


def silent(step: int, loss: float | None = None) -> None:
    """A report that does nothing."""


@dataclass(frozen=True)
class Progress(Owner):
    """The content of a progress file: its process and how far the work is."""

    stage: str
    """`train`, or the evaluation's name."""
    step: int
    steps: int
    """The total: optimiser steps of a training, rows of an evaluation."""
    loss: float | None
    time: float
    """When the file was written."""
    begun: float
    """When the process started this work."""
    started_at: int
    """Steps done before the work started: more than 0 after resuming from a checkpoint."""

    @property
    def seconds_a_step(self) -> float | None:
        """The mean seconds per step since the work started.  None before the first step."""
        done = self.step - self.started_at
        return (self.time - self.begun) / done if done > 0 else None

    def seconds_left(self, now: float) -> float | None:
        """The estimated seconds until the last step.  None before the first step."""
        pace = self.seconds_a_step
        return None if pace is None else max(0.0, (self.steps - self.step) * pace - (now - self.time))

    def is_silent(self, now: float) -> bool:
        """Whether the writing process is dead (same host) or its file is too old (other host)."""
        return not self.is_alive(now - self.time, max(SILENT_SECONDS, 10 * (self.seconds_a_step or 0.0)))


@contextmanager
def report_progress(store: Store, run: str, stage: str, steps: int, start: int = 0) -> Iterator[Report]:
    """Write the progress file of a stage while the code inside runs.  Yields the report function.

    stage: `train`, or an evaluation's name.  steps: their total.  start: steps done before this process.
    With several processes only the first writes.  Write errors (a full disk) are ignored.
    """
    path = store.progress(run, stage)
    if not Processes.here().is_first:
        yield silent
        return
    owner, begun, written = asdict(Owner.here()), time.time(), 0.0

    def report(step: int, loss: float | None = None) -> None:
        nonlocal written
        now = time.time()
        if now - written < EVERY_SECONDS and step < steps:
            return
        written = now
        said = Progress(**owner, stage=stage, step=step, steps=steps, loss=loss, time=now, begun=begun, started_at=start)
        with suppress(OSError):
            write_progress(path, json.dumps(asdict(said)) + "\n")

    report(start)
    try:
        yield report
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
            path.parent.rmdir()  # where nothing else, a checkpoint, lies in it


def write_progress(path: Path, text: str) -> None:
    """Whole or not at all, but without waiting for the disk: what is lost in a crash is of no use after it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)


def logs_of(run: str, store: Store) -> list[Path]:
    """The logs of a run's training, evaluations and merging that are there, as the workflow writes them; also those
    of jobs that it shared with others, which name their runs as they begin."""
    root = store.root / "logs"
    own = [root / "train" / f"{run}.log", *(root / "evaluate" / run).glob("*.log")]
    own += (root / "merge").glob(f"{run}-*.log")
    shared = {*(root / "train").glob("*.log"), *(root / "evaluate").glob("*/*.log")} - {*own}
    return [path for path in own if path.is_file()] + [path for path in shared if _mentions(path, run)]


def _mentions(log: Path, run: str) -> bool:
    with log.open(encoding="utf-8", errors="replace") as file:
        return run in file.read(1 << 16)

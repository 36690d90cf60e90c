"""Which runs share a process: a start of Python with torch costs more than a small run itself.

The jobs hang on the experiment alone, never on what is done already: a job that starts on another machine, or is tried
again, has to find itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_ns.config import RunConfig
from lora_ns.experiment import Run
from lora_ns.experiment_file import SweepConfig
from lora_ns.fusing import groups_of
from lora_ns.models import weight_bytes
from lora_ns.store import Store

SMALL_BYTES = 2**29
"""A base model of at most so many bytes on the disk is small: its runs are short, and share a process."""

IN_TURN = 6
"""Short runs of a small base that share a process, one after another."""


@dataclass(frozen=True)
class Job:
    """Runs that share a process."""

    runs: tuple[Run, ...]
    at_once: bool = False
    """Whether they are trained at once; else one after another."""

    @property
    def name(self) -> str:
        """Of the job's marker and log; it hangs on the runs."""
        first = self.runs[0].config
        names = "\n".join(run.name for run in self.runs)
        return f"{first.task_name}-{len(self.runs)}-{hashlib.sha256(names.encode()).hexdigest()[:12]}"


def training_jobs(runs: Sequence[Run], store: Store, sweep: SweepConfig) -> list[Job]:
    """The runs in jobs, each run in one: what can be trained at once together, and short runs in turn."""
    by_name = {run.name: run for run in runs}
    groups = groups_of([run.config for run in runs], store, sweep.largest)
    named = [[by_name[store.run_name(config)] for config in group] for group in groups]
    jobs = [Job(tuple(group), at_once=True) for group in named if len(group) > 1]
    return jobs + in_turn([group[0] for group in named if len(group) == 1], store, sweep, lambda run: run.tokens)


def in_turn(runs: Sequence[Run], store: Store, sweep: SweepConfig, alike: Callable[[Run], str]) -> list[Job]:
    """Runs that are worked on one after another, in jobs of equal size.  alike: what the runs of a job have in common."""
    shelves: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        shelves.setdefault((alike(run), run.config.model.name_or_path), []).append(run)
    jobs = []
    for shelf in shelves.values():
        largest = sweep.in_turn if sweep.in_turn is not None else IN_TURN if _is_small(shelf[0].config) else 1
        count = -(-len(shelf) // largest)
        jobs += [Job(tuple(shelf[number::count])) for number in range(count)]
    return jobs


def _is_small(config: RunConfig) -> bool:
    name = config.model.name_or_path
    if name.startswith("builtin:"):
        return True
    folder = Path(name).expanduser()
    return folder.is_dir() and weight_bytes(folder) <= SMALL_BYTES

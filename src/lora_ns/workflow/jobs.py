"""Which runs share a process.  Decided once, before anything starts, from the experiment only and without torch."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from lora_ns.config import RunConfig
from lora_ns.config.experiment_file import SweepConfig
from lora_ns.store.model_files import weight_bytes
from lora_ns.store.run import Run
from lora_ns.training.multi_adapter.grouping import count_of, evenly, groups_of

SMALL_BYTES = 2**29
"""Largest file size of a small base model.  Its runs are short and share a process."""


IN_TURN = 6
"""Number of short runs that share a process, one after another."""


@dataclass(frozen=True)
class Job:
    """Runs that share one process."""

    runs: tuple[Run, ...]
    at_once: bool = False
    """Whether they are trained in one loop.  Otherwise one after another."""

    @property
    def name(self) -> str:
        """Name of the job's marker and log, with a digest of its runs."""
        how = "at-once" if self.at_once else "in-turn"
        names = "\n".join(run.name for run in self.runs)
        digest = hashlib.sha256(names.encode()).hexdigest()[:12]
        return f"{self.runs[0].config.task_name}-{len(self.runs)}-{how}-{digest}"


def training_jobs(runs: Sequence[Run], sweep: SweepConfig, cores: int = 1) -> list[Job]:
    """Split runs into jobs: compatible runs are trained together in one loop, short runs one after another.

    cores: number of jobs that run at a time on this CPU.  A job of a small base model holds at most one core's share of
    the runs, unless `sweep.max_memory` is set.
    """
    share = max(Fraction(1), Fraction(len(runs), cores if sweep.max_memory is None else 1))
    jobs: list[Job] = []
    shelves: dict[tuple[str, str], list[Run]] = {}
    for group in groups_of(runs, sweep.largest):
        small = _is_small(group[0].config)
        for members in evenly(group, count_of(group, share if small else len(group))):
            if len(members) > 1:
                jobs.append(Job(tuple(members), at_once=True))
            else:
                shelf_of = (members[0].tokens.name, members[0].config.model.name_or_path)
                shelves.setdefault(shelf_of, []).extend(members)
    for shelf in shelves.values():
        small = _is_small(shelf[0].config)
        largest = sweep.in_turn or (IN_TURN if small else 1)
        count = count_of(shelf, min(Fraction(largest), share) if small else largest)
        jobs += [Job(tuple(shelf[number::count])) for number in range(count)]
    return jobs


def _is_small(config: RunConfig) -> bool:
    name = config.model.name_or_path
    if name.startswith("builtin:"):
        return True
    folder = Path(name).expanduser()
    return folder.is_dir() and weight_bytes(folder) <= SMALL_BYTES


def parts_within(group: Sequence[Run], max_memory: int) -> list[list[Run]]:
    """Split a group, in order, into parts that are each predicted to need at most `max_memory` bytes.

    A run that needs more, or cannot be predicted, is a part alone.
    """
    if len(group) < 2:
        return [list(group)]
    from lora_ns.models.base_model import best_device
    from lora_ns.workflow.planning import memory
    from lora_ns.workflow.planning.devices import GPUS, PROCESSOR
    from lora_ns.workflow.planning.estimator import Estimator
    from lora_ns.workflow.planning.workload import workload_of

    # the kind of GPU does not change the memory that is needed
    device = PROCESSOR if best_device() == "cpu" else next(iter(GPUS.values()))
    predictor = Estimator(group[0].store)
    parts: list[list[Run]] = []
    steps: list[Any] = []
    for run in group:
        shape = workload_of(run, []).shape
        step = predictor.step(run, shape) if shape else None
        known = [one for one in [*steps, step] if one is not None]
        fits = len(known) > len(steps) and memory.group_bytes(known, device) <= max_memory
        if parts and fits:
            parts[-1].append(run)
        else:
            parts.append([run])
            steps = []
        steps.append(step)
    return parts

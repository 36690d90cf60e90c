"""How many of a sweep's runs are trained at once, where their memory is limited."""

from __future__ import annotations

from collections.abc import Sequence

from lora_ns.prediction import memory
from lora_ns.prediction.devices import GPUS, PROCESSOR
from lora_ns.prediction.footprint import Step
from lora_ns.prediction.predictor import Predictor
from lora_ns.prediction.workload import workload_of
from lora_ns.run import Run


def parts_within(group: Sequence[Run], max_memory: int) -> list[list[Run]]:
    """The group in as few parts, in its order, as are each predicted to take so many bytes at most, or are one run.

    A run that cannot be predicted is by itself.
    """
    if len(group) < 2:
        return [list(group)]
    from lora_ns.models import best_device

    # which GPU it is makes no difference to memory
    device = PROCESSOR if best_device() == "cpu" else next(iter(GPUS.values()))
    predictor = Predictor(group[0].store)
    parts: list[list[Run]] = []
    steps: list[Step | None] = []
    for run in group:
        shape = workload_of(run, []).shape
        step = predictor.step(run, shape) if shape else None
        known = [one for one in [*steps, step] if one is not None]
        fits = len(known) > len(steps) and memory.of_sweep(known, device) <= max_memory
        if parts and fits:
            parts[-1].append(run)
        else:
            parts.append([run])
            steps = []
        steps.append(step)
    return parts

"""How many of a sweep's runs are trained at once, where their memory is limited."""

from __future__ import annotations

from collections.abc import Sequence

from lora_ns.config import RunConfig
from lora_ns.prediction import memory
from lora_ns.prediction.devices import GPUS, PROCESSOR
from lora_ns.prediction.footprint import Step
from lora_ns.prediction.predictor import Predictor
from lora_ns.prediction.workload import workload_of
from lora_ns.store import Store


def parts_within(group: Sequence[RunConfig], max_memory: int, store: Store) -> list[list[RunConfig]]:
    """The group in as few parts, in its order, as are each predicted to take so many bytes at most, or are one run.

    A run that cannot be predicted is by itself.
    """
    if len(group) < 2:
        return [list(group)]
    from lora_ns.models import best_device

    # which GPU it is makes no difference to memory
    device = PROCESSOR if best_device() == "cpu" else next(iter(GPUS.values()))
    predictor = Predictor(store)
    parts: list[list[RunConfig]] = []
    steps: list[Step | None] = []
    for config in group:
        shape = workload_of(config, [], store).shape
        step = predictor.step(config, shape) if shape else None
        known = [one for one in [*steps, step] if one is not None]
        fits = len(known) > len(steps) and memory.of_sweep(known, device) <= max_memory
        if parts and fits:
            parts[-1].append(config)
        else:
            parts.append([config])
            steps = []
        steps.append(step)
    return parts

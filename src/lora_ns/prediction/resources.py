"""What a job asks its scheduler for.  Cheap: reads what has been predicted, predicts nothing, never imports torch."""

from __future__ import annotations

import math
from functools import lru_cache

from lora_ns.config import RunConfig
from lora_ns.errors import LoraNsError
from lora_ns.prediction import duration, memory
from lora_ns.prediction.devices import GPUS, Device, known_machine
from lora_ns.prediction.predictor import Predictor
from lora_ns.prediction.workload import Workload, workload_of
from lora_ns.store import Evaluation, Store

MEMORY_MARGIN = 1.35
"""No prediction of benchmarks/memory_predictions.py is further off."""
TIME_MARGIN = 3.0
START_MINUTES = 10
"""Loading libraries, model and rows, from a slow disk."""
UNKNOWN_MINUTES = 240
UNKNOWN_MEGABYTES = {"processor": 8000, "gpu": 32000}
GPU_HOST_BYTES = 6 * 2**30
"""Of the host's memory, beside the weights on their way to the GPU: CUDA's libraries, and batches in pinned pages."""
GPU_FROM_HOURS = 1.0
"""A run that would take a processor longer asks for a GPU."""
PROCESSOR = Device("any processor", 0, {"float32": 50e9, "bfloat16": 5e9, "float16": 5e9}, 10e9, 5e-6, is_gpu=False)
"""Where no machine was measured: a few cores of a usual server."""


def resources_of(config: RunConfig, store: Store, evaluation: Evaluation | None = None) -> dict[str, int]:
    """{mem_mb, runtime_minutes, gpu} for training the run, or for one evaluation of it.

    From cached predictions (`lora-ns plan` makes them), with a margin; without one, safe values: builtin models are small
    and run anywhere, another asks for a GPU.
    """
    processor = known_machine(store) or PROCESSOR
    try:
        workload = workload_of(config, [evaluation] if evaluation else [], store)
    except LoraNsError:
        return _unknown(config)
    seconds = _seconds(config, workload, evaluation, store, processor)
    sizes = _sizes(config, workload, evaluation, store, processor)
    if seconds is None or sizes is None:
        return _unknown(config)
    if seconds < 3600 * GPU_FROM_HOURS:
        return _asked(sizes[0] * MEMORY_MARGIN, seconds, gpu=0)
    weights = sizes[1]
    fitting = [
        gpu for gpu in GPUS.values() if (_sizes(config, workload, evaluation, store, gpu) or sizes)[0] <= gpu.memory
    ]
    slowest = max((_seconds(config, workload, evaluation, store, gpu) or 0.0 for gpu in fitting), default=seconds)
    return _asked(GPU_HOST_BYTES + 2 * weights, slowest, gpu=1)


def _seconds(
    config: RunConfig, workload: Workload, evaluation: Evaluation | None, store: Store, device: Device
) -> float | None:
    predictor = _predictor(store)
    if evaluation is None:
        if workload.shape is None:
            return 0.0
        step = predictor.step(config, workload.shape)
        return duration.of_training(step, workload, config, device) if step else None
    answer = predictor.answer(config, workload.questions[0])
    return duration.of_answering(answer, workload.questions[0], config, device) if answer else None


def _sizes(
    config: RunConfig, workload: Workload, evaluation: Evaluation | None, store: Store, device: Device
) -> tuple[int, int] | None:
    """(bytes at the peak, bytes of the weights)"""
    predictor = _predictor(store)
    if evaluation is None and workload.shape is not None:
        step = predictor.step(config, workload.shape)
        return (memory.of_training(step, device), step.weights) if step else None
    if evaluation is None:
        return (memory.PROCESS_BYTES, 0)
    answer = predictor.answer(config, workload.questions[0])
    return (memory.of_answering(answer, workload.questions[0], device), answer.weights) if answer else None


@lru_cache(maxsize=4)
def _predictor(store: Store) -> Predictor:
    return Predictor(store, trace=False)


def _unknown(config: RunConfig) -> dict[str, int]:
    gpu = 0 if config.model.name_or_path.startswith("builtin:") else 1
    return {"mem_mb": UNKNOWN_MEGABYTES["gpu" if gpu else "processor"], "runtime_minutes": UNKNOWN_MINUTES, "gpu": gpu}


def _asked(size: float, seconds: float, gpu: int) -> dict[str, int]:
    """Rounded up: half a gigabyte, five minutes."""
    minutes = START_MINUTES + TIME_MARGIN * seconds / 60
    return {
        "mem_mb": 500 * max(4, math.ceil(size / 500e6)),
        "runtime_minutes": 5 * math.ceil(minutes / 5),
        "gpu": gpu,
    }

"""Costs for scheduler requests: predictions saved by `lora-ns plan`, with a margin.

They are needed for every run of an experiment, so nothing is traced here and torch is not imported.
"""

from __future__ import annotations

import math

from lora_ns.config import RunConfig
from lora_ns.errors import LoraNsError
from lora_ns.store.evaluation_file import EvaluationRequest
from lora_ns.store.paths import Store
from lora_ns.store.run import Run
from lora_ns.workflow.planning import duration, memory
from lora_ns.workflow.planning.devices import GPUS, PROCESSOR, Device, known_machine
from lora_ns.workflow.planning.estimator import Estimator
from lora_ns.workflow.planning.workload import workload_of
from lora_ns.workflow.resources import Cost

MEMORY_MARGIN = 1.5
"""Covers the lowest prediction in benchmarks/memory_predictions.py (0.74 of the measured memory)."""
TIME_MARGIN = 3.0
"""Cluster nodes differ from the measured machine and are shared with other jobs."""
GPU_HOST_BYTES = 6 * 2**30
"""Host memory for CUDA libraries and pinned batches, besides the weights loaded onto the GPU."""
MEGABYTE = 10**6


class KnownCosts:
    """Costs of an experiment's runs, computed once for all seeds."""

    def __init__(self, store: Store):
        self._store, self._predictor = store, Estimator(store, trace=False)
        self._known: dict[tuple[str, str], Cost | None] = {}

    def of_training(self, run: Run) -> Cost | None:
        """Return the cost of one training process; None if unknown."""
        return self._of(run, None)

    def of_evaluation(self, run: Run, evaluation: EvaluationRequest) -> Cost | None:
        """Return the cost of evaluating one run on one benchmark; None if unknown."""
        return self._of(run, evaluation)

    def _of(self, run: Run, evaluation: EvaluationRequest | None) -> Cost | None:
        if not self._store.has_predictions:
            return None
        key = (run.config.model_dump_json(exclude={"seed"}), evaluation.name if evaluation else "")
        if key not in self._known:
            try:
                found = self._answering(run, evaluation) if evaluation else self._training(run)
            except LoraNsError:
                found = None
            self._known[key] = found
        return self._known[key]

    def _training(self, run: Run) -> Cost | None:
        workload = workload_of(run, [])
        if workload.shape is None:
            return Cost(memory.PROCESS_BYTES // MEGABYTE, 0, minutes=0)
        step = self._predictor.step(run, workload.shape)
        device = _device_of(run)
        if step is None or device is None:
            return None
        seconds = duration.of_training(step, workload, run.config, device)
        return _cost(run.config, memory.of_training(step, PROCESSOR), step.weights, seconds)

    def _answering(self, run: Run, evaluation: EvaluationRequest) -> Cost | None:
        questions = workload_of(run, [evaluation]).questions[0]
        answer = self._predictor.answer(run, questions)
        device = _device_of(run)
        if answer is None or device is None:
            return None
        seconds = duration.of_answering(answer, questions, run.config, device)
        return _cost(run.config, memory.of_answering(answer, questions, PROCESSOR), answer.weights, seconds)


def _device_of(run: Run) -> Device | None:
    """Return the device whose speed is used; None if a GPU is needed and launch.gpu is not set."""
    if run.config.needs_gpu:
        return GPUS[run.config.launch.gpu] if run.config.launch.gpu else None
    return known_machine(run.store) or PROCESSOR


def _cost(config: RunConfig, peak: int, weights: int, seconds: float | None) -> Cost | None:
    """Compute a cost with margins.  peak: bytes on a CPU, weights included.  seconds: None if unknown."""
    if seconds is None:
        return None
    minutes = math.ceil(TIME_MARGIN * seconds / 60)
    if config.needs_gpu:
        return Cost(math.ceil((GPU_HOST_BYTES + 2 * weights) / MEGABYTE), 0, minutes)
    shared = MEMORY_MARGIN * (memory.PROCESS_BYTES + weights)
    own = MEMORY_MARGIN * peak - shared
    return Cost(math.ceil(shared / MEGABYTE), math.ceil(own / MEGABYTE), minutes)

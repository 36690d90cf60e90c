"""What a job asks its scheduler for: the predictions that `lora-ns plan` left, with a margin.

Cheap, as it is asked for every run of an experiment: what is not known stays unknown, and torch is not imported.
"""

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

    def training_cost(self, run: Run) -> Cost | None:
        """Of one process of a training; None where nothing is known."""
        return self._of(run, None)

    def evaluation_cost(self, run: Run, evaluation: EvaluationRequest) -> Cost | None:
        """Of the process that asks one run one benchmark; None where nothing is known."""
        return self._of(run, evaluation)

    def _of(self, run: Run, evaluation: EvaluationRequest | None) -> Cost | None:
        if not self._store.has_step_costs:
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
        seconds = duration.training_seconds(step, workload, run.config, device)
        return _cost(run.config, memory.training_bytes(step, PROCESSOR), step.weights, seconds)

    def _answering(self, run: Run, evaluation: EvaluationRequest) -> Cost | None:
        questions = workload_of(run, [evaluation]).questions[0]
        answer = self._predictor.answer(run, questions)
        device = _device_of(run)
        if answer is None or device is None:
            return None
        seconds = duration.evaluation_seconds(answer, questions, run.config, device)
        return _cost(run.config, memory.evaluation_bytes(answer, questions, PROCESSOR), answer.weights, seconds)


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

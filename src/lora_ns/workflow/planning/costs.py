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
"""No prediction of benchmarks/memory_predictions.py falls further short (0.74 of what was taken)."""
TIME_MARGIN = 3.0
"""A cluster's nodes are not the machine that was measured, and others work on them too."""
GPU_HOST_BYTES = 6 * 2**30
"""Of the host's memory, beside the weights on their way to the GPU: CUDA's libraries, and batches in pinned pages."""
MEGABYTE = 10**6


class KnownCosts:
    """Costs of an experiment's runs, each worked out once for all seeds."""

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
    """What the run's time is predicted for; None where it is some GPU that nobody named."""
    if run.config.needs_gpu:
        return GPUS[run.config.launch.gpu] if run.config.launch.gpu else None
    return known_machine(run.store) or PROCESSOR


def _cost(config: RunConfig, peak: int, weights: int, seconds: float | None) -> Cost | None:
    """peak: bytes on a processor, of which the weights are a part; seconds: None where it is not known."""
    if seconds is None:
        return None
    minutes = math.ceil(TIME_MARGIN * seconds / 60)
    if config.needs_gpu:
        return Cost(math.ceil((GPU_HOST_BYTES + 2 * weights) / MEGABYTE), 0, minutes)
    shared = MEMORY_MARGIN * (memory.PROCESS_BYTES + weights)
    own = MEMORY_MARGIN * peak - shared
    return Cost(math.ceil(shared / MEGABYTE), math.ceil(own / MEGABYTE), minutes)

"""Find the cheapest change of settings that makes a run fit a device, by predicting each candidate."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lora_ns.config import RunConfig, check, expand_dotted, merge
from lora_ns.errors import InputError
from lora_ns.store.run import Run
from lora_ns.workflow.planning import memory
from lora_ns.workflow.planning.devices import Device
from lora_ns.workflow.planning.estimator import Estimator
from lora_ns.workflow.planning.workload import ROWS_ASKED, workload_of

Changes = dict[str, Any]
"""Dotted key -> value."""
SHORTEST = 64
"""Smallest dataset.max_length that is proposed."""


@dataclass(frozen=True)
class Fit:
    """Settings that make a run fit, and the predicted bytes with them."""

    changes: Changes
    bytes: int

    def __str__(self) -> str:
        return " ".join(f"{key}={str(value).lower()}" for key, value in self.changes.items())


def fit_training(run: Run, predictor: Estimator, device: Device) -> Fit | None:
    """Return the first change that fits, or None.

    Tried in order: a smaller per-device batch (same results), gradient checkpointing (a third more time), both, then also
    8-bit, 4-bit and shorter rows (which change results)."""
    for changes in _for_training(run.config):
        needed = _training_bytes(run, changes, predictor, device)
        if needed is not None and needed <= device.memory:
            return _largest_batch(run, Fit(changes, needed), predictor, device)
    return None


def fit_evaluation(run: Run, predictor: Estimator, device: Device) -> Fit | None:
    """Return the largest evaluation.batch_size that fits, if needed with quantised weights; None if none does."""
    quantized: list[Changes] = [{}, {"model.quantization": "8bit"}, {"model.quantization": "4bit"}]
    for base in quantized:
        size = run.config.evaluation.batch_size or ROWS_ASKED
        while size >= 1:
            changes = {**base, "evaluation.batch_size": size}
            needed = _evaluation_bytes(run, changes, predictor, device)
            if needed is not None and needed <= device.memory:
                return Fit(changes, needed)
            size //= 2
    return None


def _for_training(config: RunConfig) -> Iterator[Changes]:
    """Yield candidates from cheap to costly. Batch size 1 stands for all smaller batches."""
    smallest: Changes = {"training.per_device_train_batch_size": 1}
    checkpointing: Changes = {"training.gradient_checkpointing": True}
    lean = smallest | checkpointing
    yield smallest
    if not config.training.arguments.get("gradient_checkpointing"):
        yield checkpointing
        yield lean
    least = {"none": ["8bit", "4bit"], "8bit": ["4bit"], "4bit": []}[config.model.quantization]
    for bits in least:
        yield lean | {"model.quantization": bits}
    length = config.dataset.max_length // 2
    while length >= SHORTEST:
        for quantized in [*({"model.quantization": bits} for bits in least[-1:]), {}]:
            yield lean | quantized | {"dataset.max_length": length}
        length //= 2


def _largest_batch(run: Run, fit: Fit, predictor: Estimator, device: Device) -> Fit:
    """Return the fit with the largest per-device batch that still fits."""
    key = "training.per_device_train_batch_size"
    if key not in fit.changes:
        return fit
    found, now = fit, workload_of(run, []).shape
    share = run.config.training.global_batch_size // run.config.topology.processes
    for size in [n for n in range(2, now.rows if now else 1) if share % n == 0]:
        changes = fit.changes | {key: size}
        needed = _training_bytes(run, changes, predictor, device)
        if needed is None or needed > device.memory:
            break
        found = Fit(changes, needed)
    return found


def _training_bytes(run: Run, changes: Mapping[str, Any], predictor: Estimator, device: Device) -> int | None:
    changed = changed_run(run, changes)
    if changed is None:
        return None
    shape = workload_of(changed, []).shape
    step = predictor.step(changed, shape) if shape else None
    return memory.training_bytes(step, device) if step else None


def _evaluation_bytes(run: Run, changes: Mapping[str, Any], predictor: Estimator, device: Device) -> int | None:
    changed = changed_run(run, changes)
    if changed is None:
        return None
    questions = workload_of(changed, changed.evaluations).questions
    found = [(predictor.answer(changed, q), q) for q in questions]
    sizes = [memory.evaluation_bytes(answer, q, device) for answer, q in found if answer is not None]
    return max(sizes, default=None)


def changed_run(run: Run, changes: Mapping[str, Any]) -> Run | None:
    """Return the run with changed settings; None if they are invalid together."""
    try:
        return Run(check(merge(run.config.model_dump(), expand_dotted(changes)), "plan"), run.store)
    except InputError:
        return None

"""Predict the seconds of training and evaluation on a device from footprints.  Never imports torch.

Start-up (loading libraries, model and rows) is not included.
"""

from __future__ import annotations

import math

from lora_ns.config import RunConfig
from lora_ns.workflow.planning.devices import Device
from lora_ns.workflow.planning.footprint import AnswerFootprint, StepFootprint
from lora_ns.workflow.planning.workload import Questions, Workload

CHOICES = 4
"""Assumed choices per row of a multiple-choice benchmark."""


def of_training(step: StepFootprint, workload: Workload, config: RunConfig, device: Device) -> float | None:
    """Return the time of all steps on one device at the rows' mean length; None if the number of steps is unknown."""
    if workload.steps is None or workload.shape is None:
        return None
    fill = workload.mean_length / workload.shape.length
    micro_batch = device.seconds(step.forward_backward, dtype_of(config), fill)
    return workload.steps * (workload.accumulation * micro_batch + device.seconds(step.update, "float32"))


def of_answering(answer: AnswerFootprint, questions: Questions, config: RunConfig, device: Device) -> float | None:
    """Return an upper bound: every generation is assumed to use max_new_tokens.  None if the number of rows is unknown."""
    if questions.rows is None:
        return None
    rows = questions.rows * (CHOICES if questions.kind == "choice" else 1)
    portions = math.ceil(rows / questions.shape.rows)
    fill = questions.mean_length / questions.shape.length
    reading = device.seconds(answer.forward, dtype_of(config), fill)
    # each new token reads all weights and, on average, half of the final KV cache
    tokens = (questions.shape.length + questions.new_tokens) / 2 * questions.shape.rows * questions.copies
    held = answer.weights + answer.cache_per_token * tokens
    one_token = questions.copies / questions.shape.length
    writing = device.seconds(answer.forward, dtype_of(config), one_token) + held / device.bandwidth
    return portions * (reading + questions.new_tokens * writing)


def dtype_of(config: RunConfig) -> str:
    """Return the dtype of matrix products."""
    arguments = config.training.arguments
    if arguments.get("bf16"):
        return "bfloat16"
    return "float16" if arguments.get("fp16") else config.model.dtype

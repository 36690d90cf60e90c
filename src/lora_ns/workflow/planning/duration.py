"""Seconds that training and evaluations take on a device, from what was traced.  Never imports torch.

Without what every process begins with: loading libraries, model and rows.
"""

import math

from lora_ns.config import RunConfig
from lora_ns.workflow.planning.devices import Device
from lora_ns.workflow.planning.footprint import AnswerFootprint, StepFootprint
from lora_ns.workflow.planning.workload import Questions, Workload

CHOICES = 4
"""Assumed choices per row of a multiple-choice benchmark."""


def training_seconds(step: StepFootprint, workload: Workload, config: RunConfig, device: Device) -> float | None:
    """All steps on one device, at the rows' mean length; None where their number is not known."""
    if workload.steps is None or workload.shape is None:
        return None
    fill = workload.mean_length / workload.shape.length
    micro_batch = device.seconds(step.forward_backward, dtype_of(config), fill)
    return workload.steps * (workload.accumulation * micro_batch + device.seconds(step.update, "float32"))


def evaluation_seconds(answer: AnswerFootprint, questions: Questions, config: RunConfig, device: Device) -> float | None:
    """All questions; at most, as generation is taken to run to its last token.  None where they cannot be counted."""
    if questions.rows is None:
        return None
    rows = questions.rows * (CHOICES if questions.kind == "choice" else 1)
    portions = math.ceil(rows / questions.shape.rows)
    fill = questions.mean_length / questions.shape.length
    reading = device.seconds(answer.forward, dtype_of(config), fill)
    # each further token reads all weights and half of the keys and values that there will be
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

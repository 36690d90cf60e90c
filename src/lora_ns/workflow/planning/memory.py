"""Bytes that a step or an answer takes on a device, from what was traced.  Never imports torch.

On a processor it is the resident memory of the process: what it holds before any work, the weights, and for what comes
and goes more than is ever alive at once, because malloc keeps what is freed between two pieces in use.
On a GPU it is what the caching allocator holds, and the driver's own.
"""

from collections.abc import Sequence

from lora_ns.workflow.planning.devices import GIBIBYTE, Device
from lora_ns.workflow.planning.footprint import AnswerFootprint, StepFootprint
from lora_ns.workflow.planning.workload import Questions

HEAP_OVERHEAD = 1.5
"""Resident bytes per live byte of temporary tensors. Fitted to benchmarks/memory_predictions.py (1.2 to 2.4 there, glibc
2.36), which lists the remaining errors."""
HELD_ANYWAY = 0.8
"""Resident bytes per byte that would be live without gradient checkpointing. Freed activations leave holes in the heap that
later blocks do not fit into.  Fitted to the same data (0.6 to 1.2 there)."""
PROCESS_BYTES = int(0.6 * GIBIBYTE)
"""Resident memory of Python with torch, transformers and PEFT loaded."""
BLOCK_OVERHEAD = 1.1
"""Bytes that torch's caching allocator reserves per live byte: it cuts blocks from segments of 2 and 20 MiB."""
CONTEXT_BYTES = int(0.6 * GIBIBYTE)
"""GPU memory of the CUDA context and cuBLAS workspaces."""


def training_bytes(step: StepFootprint, device: Device) -> int:
    """The most that a training takes."""
    return _on(device, step.weights, step.peak, step.large, step.unchecked)


def group_bytes(steps: Sequence[StepFootprint], device: Device) -> int:
    """The most that trainings at once over one base take: the base once, of each all else.

    On a processor less, where their batches are too large to go through the base together.
    """
    base = min(step.weights - step.adapter for step in steps)
    weights = base + sum(step.weights - base for step in steps)
    peak = base + sum(step.peak - base for step in steps)
    unchecked = base + sum(step.unchecked - base for step in steps)
    return _on(device, weights, peak, sum(step.large for step in steps), unchecked)


def evaluation_bytes(answer: AnswerFootprint, questions: Questions, device: Device) -> int:
    """The most that an evaluation takes: reading the longest questions, or holding keys and values up to the last token."""
    held = cache_bytes(answer, questions)
    reading = _on(device, answer.weights, answer.peak, answer.large)
    return max(reading, _on(device, answer.weights, answer.weights + held, 0))


def cache_bytes(answer: AnswerFootprint, questions: Questions) -> int:
    """Return the KV cache bytes of a whole batch at its longest."""
    tokens = questions.shape.length + questions.new_tokens
    return answer.cache_per_token * tokens * questions.shape.rows * questions.copies if questions.new_tokens else 0


def _on(device: Device, weights: int, peak: int, large: int, unchecked: int = 0) -> int:
    """large: bytes at the peak, besides the weights, outside the heap.  unchecked: peak without gradient checkpointing."""
    if device.is_gpu:
        return CONTEXT_BYTES + int(BLOCK_OVERHEAD * peak)
    held = large + HEAP_OVERHEAD * (peak - weights - large)
    return PROCESS_BYTES + weights + int(max(held, HELD_ANYWAY * (unchecked - weights)))

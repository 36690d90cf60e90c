"""On out-of-memory the per-device batch is halved and the step retried.  The longest rows are tried first."""

import gc

from lora_ns.errors import TrainingError


class OutOfMemory(Exception):
    """A forward and backward pass did not fit into memory.  The next try uses a smaller per-device batch."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means out of memory, on a GPU or on the machine."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in said or "CUDA out of memory" in said)


def smaller(size: int) -> int:
    """Per-device batch for the next try.  Raises TrainingError if a single row did not fit."""
    if size > 1:
        return next(n for n in range(size // 2, 0, -1) if size % n == 0)
    raise TrainingError(
        "memory ran out with a single row at once. Set training.gradient_checkpointing: true (a third slower, a fraction "
        "of the memory), model.quantization: 4bit, a shorter dataset.max_length, or a smaller model."
    )


def release() -> None:
    """Free the memory of a failed try."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

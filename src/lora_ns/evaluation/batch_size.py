"""Batch size of an evaluation: the largest that pays and fits.  On out-of-memory it is halved."""

from collections.abc import Callable, Sequence
from typing import Any

from lora_ns.errors import EvaluationError
from lora_ns.evaluation.engines.decoding import TokenSequence

SLOTS = {"cpu": 64, "cuda": 256}
"""Batch sizes above which there is no gain: measured on CPUs (benchmarks/RESULTS.md), a guess on GPUs."""
SHARE_OF_MEMORY = {"cpu": 0.25, "cuda": 0.5}
"""Largest share of free memory that the KV cache may take."""
ROWS = {"cpu": 32, "cuda": 128}
"""Batch sizes for texts that are read once, without generation."""


def slots_that_fit(model: Any, answers: Sequence[TokenSequence], new_tokens: int) -> int:
    """The largest power of two that pays and whose KV cache fits into memory."""
    kind = "cuda" if str(model.device).startswith("cuda") else "cpu"
    longest = max(len(answer.prompt) for answer in answers) + new_tokens
    fitting = SHARE_OF_MEMORY[kind] * _free_bytes(kind) / (longest * _bytes_a_position(model))
    size = SLOTS[kind]
    while size > 1 and size > fitting:
        size //= 2
    return size


def rows_at_a_time(model: Any, given: int | None) -> int:
    """Batch size for texts: the given one, else the default of the device."""
    return given or ROWS["cuda" if str(model.device).startswith("cuda") else "cpu"]


def _free_bytes(kind: str) -> int:
    if kind == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[0])
    import psutil

    return int(psutil.virtual_memory().available)


def _bytes_a_position(model: Any) -> int:
    """Bytes of one token in the KV cache, over all layers."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * width * int(model.dtype.itemsize)


def halving(attempt: Callable[[int], None], size: int) -> dict[str, Any]:
    """Retry with half the batch size on out-of-memory; returns {batch_size, halved_from if it was halved}.

    attempt: continues where the last one stopped.  Raises EvaluationError if batch size 1 does not fit.
    """
    from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

    asked = size
    while True:
        try:
            attempt(size)
        except Exception as error:
            if not should_reduce_batch_size(error):
                raise
            if size == 1:
                raise EvaluationError(
                    "memory runs out with a single example at a time: use a shorter max_new_tokens or fewer few-shot "
                    "examples, model.quantization 4bit, or a device with more memory."
                ) from error
        else:
            return {"batch_size": size, **({"halved_from": asked} if size < asked else {})}
        size //= 2
        clear_device_cache(garbage_collection=True)


def in_batches(
    order: Sequence[int], size: int, answer: Callable[[list[int]], None], most: Callable[[int], int] | None = None
) -> dict[str, Any]:
    """Call a function with `size` numbers at a time, in order.  Returns the result of `halving`.

    most: how many may go together with a number that comes first.
    """
    done = 0

    def attempt(size: int) -> None:
        nonlocal done
        while done < len(order):
            together = size if most is None else max(1, min(size, most(order[done])))
            batch = list(order[done : done + together])
            answer(batch)
            done += len(batch)

    return halving(attempt, max(1, min(size, len(order))))

"""How many answers at a time: as many as pay and fit, and half as many where they did not fit after all."""

from collections.abc import Callable, Sequence
from typing import Any

from lora_ns.errors import EvaluationError
from lora_ns.evaluation.engines.decoding import TokenSequence

SLOTS = {"cpu": 64, "cuda": 256}
"""More answers at a time no longer pay: benchmarks/RESULTS.md for processors; on GPUs a guess."""
SHARE_OF_MEMORY = {"cpu": 0.25, "cuda": 0.5}
"""Of what is free, at most so much is taken for keys and values."""
ROWS = {"cpu": 32, "cuda": 128}
"""Of whole texts that are read once, at a time."""


def slots_that_fit(model: Any, answers: Sequence[TokenSequence], new_tokens: int) -> int:
    """The greatest power of two that pays and whose keys and values fit into memory."""
    kind = "cuda" if str(model.device).startswith("cuda") else "cpu"
    longest = max(len(answer.prompt) for answer in answers) + new_tokens
    fitting = SHARE_OF_MEMORY[kind] * _free_bytes(kind) / (longest * _bytes_a_position(model))
    size = SLOTS[kind]
    while size > 1 and size > fitting:
        size //= 2
    return size


def rows_at_a_time(model: Any, given: int | None) -> int:
    """Texts in one batch: as given, else what pays on the device."""
    return given or ROWS["cuda" if str(model.device).startswith("cuda") else "cpu"]


def _free_bytes(kind: str) -> int:
    if kind == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[0])
    import psutil

    return int(psutil.virtual_memory().available)


def _bytes_a_position(model: Any) -> int:
    """Keys and values of one token in all layers."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * width * int(model.dtype.itemsize)


def halving(attempt: Callable[[int], None], size: int) -> dict[str, Any]:
    """Tries with half the size for as long as memory runs out; returns {batch_size, and where it began}.

    attempt: goes on where the last one stopped.  Raises EvaluationError where not even one fits.
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
    """Hands out the numbers in order, `size` at a time; returns what `halving` does.

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

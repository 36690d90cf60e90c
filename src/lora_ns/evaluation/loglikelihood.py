"""Log-likelihood of given tokens under a causal model."""

from collections.abc import Callable, Sequence
from typing import Any

from lora_ns.evaluation.batch_size import in_batches, rows_at_a_time

LOGIT_BYTES = 1 << 30
"""Largest memory for the logits of one batch."""


def log_likelihoods(
    model: Any,
    examples: Sequence[tuple[Sequence[int], Sequence[int]]],
    pad_token_id: int,
    batch_size: int | None,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[list[float], dict[str, Any]]:
    """Return (summed log-probability in nats of each example's counted tokens, batch-size facts).

    examples: (input_ids, spans [start, end, …] of the tokens to count). The first token has no probability.
    """
    import torch

    order = sorted(range(len(examples)), key=lambda i: (-len(examples[i][0]), i))
    sums = [0.0] * len(examples)
    bytes_a_token = model.config.get_text_config().vocab_size * 4

    def of_batch(batch: list[int]) -> None:
        with torch.inference_mode():
            found = _of_batch(model, [examples[i] for i in batch], pad_token_id)
        for i, value in zip(batch, found, strict=True):
            sums[i] = value
        progress(len(batch))

    def most(first: int) -> int:
        return LOGIT_BYTES // (len(examples[first][0]) * bytes_a_token)

    return sums, in_batches(order, rows_at_a_time(model, batch_size), of_batch, most)


def _of_batch(model: Any, examples: Sequence[tuple[Sequence[int], Sequence[int]]], pad: int) -> list[float]:
    import torch

    longest = max(len(ids) for ids, _ in examples)
    input_ids = torch.full((len(examples), longest), pad, dtype=torch.long)
    attention = torch.zeros((len(examples), longest), dtype=torch.long)
    counted = torch.zeros((len(examples), longest), dtype=torch.bool)
    for row, (ids, spans) in enumerate(examples):
        input_ids[row, : len(ids)] = torch.tensor(list(ids))
        attention[row, : len(ids)] = 1
        for start, end in zip(spans[::2], spans[1::2], strict=True):
            counted[row, start:end] = True
    input_ids, counted = input_ids.to(model.device), counted.to(model.device)
    # virtual tokens come before the prompt and shift its positions
    logits = model(input_ids=input_ids, attention_mask=attention.to(model.device)).logits[:, -longest:]
    scores = logits[:, :-1].float().log_softmax(-1).gather(-1, input_ids[:, 1:, None])[..., 0]
    return torch.where(counted[:, 1:], scores, 0.0).double().sum(-1).tolist()


def counted_tokens(spans: Sequence[int]) -> int:
    """Number of tokens in the spans, without the first token of the text, which has no predecessor."""
    return sum(end - max(start, 1) for start, end in zip(spans[::2], spans[1::2], strict=True))

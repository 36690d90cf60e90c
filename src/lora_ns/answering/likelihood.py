"""How likely a causal model finds given tokens after those before them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

LOGIT_BYTES = 1 << 30
"""At most so much for one batch's logits: vocabularies are large."""


def log_likelihoods(
    model: Any,
    examples: Sequence[tuple[Sequence[int], Sequence[int]]],
    pad_token_id: int,
    batch_size: int,
    progress: Callable[[int], None] = lambda done: None,
) -> list[float]:
    """Sum of the log-probabilities (nats) of each example's chosen tokens, in the order of the examples.

    examples: (input_ids, spans [start, end, …] of the tokens to count); the first token of all has no probability.
    """
    import torch

    order = sorted(range(len(examples)), key=lambda i: (-len(examples[i][0]), i))
    sums = [0.0] * len(examples)
    start = 0
    while start < len(order):
        longest = len(examples[order[start]][0])
        fitting = LOGIT_BYTES // (longest * model.config.get_text_config().vocab_size * 4)
        chosen = order[start : start + max(1, min(batch_size, fitting))]
        with torch.inference_mode():
            found = _of_batch(model, [examples[i] for i in chosen], pad_token_id)
        for i, value in zip(chosen, found, strict=True):
            sums[i] = value
        start += len(chosen)
        progress(len(chosen))
    return sums


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
    # a trained prompt stands before the tokens, and its positions before theirs
    logits = model(input_ids=input_ids, attention_mask=attention.to(model.device)).logits[:, -longest:]
    scores = logits[:, :-1].float().log_softmax(-1).gather(-1, input_ids[:, 1:, None])[..., 0]
    return torch.where(counted[:, 1:], scores, 0.0).double().sum(-1).tolist()


def counted_tokens(spans: Sequence[int]) -> int:
    """Tokens that the spans count: all but the first of all, which nothing precedes."""
    return sum(end - max(start, 1) for start, end in zip(spans[::2], spans[1::2], strict=True))

"""Compare the logits of two models on a few fixed prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBES = (
    "The quick brown fox counts 1, 2, 3 and then 5 apples.",
    "Question: A train leaves at 9:40 and takes 85 minutes. When does it arrive?\nAnswer:",
    "def mean(values):\n    return sum(values) / len(values)\n",
    "She did not say that the report was wrong. She said that it was late.",
)
"""Prompts: prose, a question, code, two sentences.  They are fixed, so different merges can be compared."""

Logits = list[Any]
"""One float32 CPU tensor per prompt: [tokens, vocabulary] for a causal model, [classes] for a classifier."""


def probe(model: Any, tokenizer: PreTrainedTokenizerBase) -> Logits:
    """Return the model's logits on each prompt."""
    import torch

    with torch.inference_mode():
        encoded = [tokenizer(text, return_tensors="pt").to(model.device) for text in PROBES]
        return [model(**ids).logits[0].float().cpu() for ids in encoded]


def compare(expected: Logits, found: Logits) -> dict[str, float]:
    """Return the differences of `found` from `expected`.

    max_logit_difference, mean_logit_difference: absolute differences.  max_logit: largest absolute expected logit, for scale.
    same_choice: share of positions with the same top-1 token or class.  mean_divergence: Kullback-Leibler divergence of the
    found distribution from the expected one, in nats, averaged over positions.
    """
    import torch

    a, b = (torch.cat([logits.reshape(-1, logits.shape[-1]) for logits in side]) for side in (expected, found))
    divergence = torch.nn.functional.kl_div(b.log_softmax(-1), a.log_softmax(-1), log_target=True, reduction="none")
    return {
        "max_logit_difference": float((a - b).abs().max()),
        "mean_logit_difference": float((a - b).abs().mean()),
        "max_logit": float(a.abs().max()),
        "same_choice": float((a.argmax(-1) == b.argmax(-1)).float().mean()),
        "mean_divergence": max(0.0, float(divergence.sum(-1).mean())),
    }

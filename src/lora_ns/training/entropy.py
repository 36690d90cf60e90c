"""Cross-entropy over a large vocabulary with two passes over the logits fewer than autograd takes, and no copy of them."""

from __future__ import annotations

from typing import Any

import torch


class _TokenEntropy(torch.autograd.Function):
    """-log softmax(logits)[target] of each row; the gradient is written where the logits stood."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        normaliser = logits.logsumexp(-1)
        ctx.save_for_backward(logits, targets, normaliser)
        return normaliser - logits.gather(1, targets[:, None])[:, 0]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        logits, targets, normaliser = ctx.saved_tensors
        each = gradients[0][:, None]
        inward = torch.exp(logits.sub_(normaliser[:, None]), out=logits).mul_(each)
        return inward.scatter_add_(1, targets[:, None], -each), None


def token_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy (nats) [N] of logits [N, V], float32, with targets [N].

    The logits are used up by the backward pass, so nobody else may read them after it.
    """
    return _TokenEntropy.apply(logits, targets)

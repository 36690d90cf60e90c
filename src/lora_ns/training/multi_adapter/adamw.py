"""AdamW for several members, each with its own learning rate, weight decay and gradient clipping."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm


class MembersAdamW:
    """torch's fused AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) for each member.

    parameters: member number -> its parameters with their weight decay.
    """

    def __init__(
        self, parameters: Mapping[int, Sequence[tuple[torch.nn.Parameter, float]]], *, betas: tuple[float, float], epsilon: float
    ):
        self._of = {
            member: torch.optim.AdamW(_groups(pairs), betas=betas, eps=epsilon, fused=True)
            for member, pairs in parameters.items()
        }

    def clip(self, member: int, largest: float) -> float:
        """Clip a member's gradient norm to `largest` (0: no clipping).  Returns the norm before clipping."""
        trained = [p for group in self._of[member].param_groups for p in group["params"] if p.grad is not None]
        norm = get_total_norm([p.grad for p in trained])
        length = float(norm)
        if largest > 0 and not length + 1e-6 <= largest:  # torch's clip_grad_norm_ scales by 1 below this
            clip_grads_with_norm_(trained, largest, norm)
        return length

    def step(self, rates: Mapping[int, float]) -> None:
        """Update every member that has a learning rate, and clear the gradients."""
        for member, rate in rates.items():
            optimizer = self._of[member]
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()

    def drop(self, member: int) -> None:
        """Remove a member."""
        del self._of[member]

    def state(self) -> dict[int, Any]:
        """State of each member for a checkpoint."""
        return {member: optimizer.state_dict() for member, optimizer in self._of.items()}

    def restore(self, state: Mapping[int, Any]) -> None:
        """Restore a state."""
        for member, kept in state.items():
            self._of[member].load_state_dict(kept)


def _groups(pairs: Sequence[tuple[torch.nn.Parameter, float]]) -> list[dict[str, Any]]:
    """torch's parameter groups, one for each weight decay."""
    decays = dict.fromkeys(decay for _, decay in pairs)
    return [{"params": [p for p, own in pairs if own == decay], "weight_decay": decay} for decay in decays]

"""AdamW for the parameters of many members, each with its own rate, decay and clipping."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm


class MembersAdamW:
    """torch's AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) for each member, one pass over all of its parameters.

    parameters: of each member, with the weight decay of each.
    """

    def __init__(
        self, parameters: Mapping[int, Sequence[tuple[torch.nn.Parameter, float]]], *, betas: tuple[float, float], epsilon: float
    ):
        self._of = {
            member: torch.optim.AdamW(_groups(pairs), betas=betas, eps=epsilon, fused=True)
            for member, pairs in parameters.items()
        }

    def clip(self, member: int, largest: float) -> float:
        """Scales a member's gradients to a norm of at most `largest` (0: not at all); returns the norm they had."""
        trained = [p for group in self._of[member].param_groups for p in group["params"] if p.grad is not None]
        norm = get_total_norm([p.grad for p in trained])
        length = float(norm)
        if largest > 0 and not length + 1e-6 <= largest:  # where torch's own would scale by 1
            clip_grads_with_norm_(trained, largest, norm)
        return length

    def step(self, rates: Mapping[int, float]) -> None:
        """One update of every member that has a rate; gradients are gone after it."""
        for member, rate in rates.items():
            optimizer = self._of[member]
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()

    def drop(self, member: int) -> None:
        """A member takes no further part."""
        del self._of[member]

    def state(self) -> dict[int, Any]:
        """What resuming needs, of each member."""
        return {member: optimizer.state_dict() for member, optimizer in self._of.items()}

    def restore(self, state: Mapping[int, Any]) -> None:
        """Puts a state back."""
        for member, kept in state.items():
            self._of[member].load_state_dict(kept)


def _groups(pairs: Sequence[tuple[torch.nn.Parameter, float]]) -> list[dict[str, Any]]:
    """torch's parameter groups, one for each decay."""
    decays = dict.fromkeys(decay for _, decay in pairs)
    return [{"params": [p for p, own in pairs if own == decay], "weight_decay": decay} for decay in decays]

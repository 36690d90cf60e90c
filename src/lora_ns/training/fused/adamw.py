"""AdamW for the parameters of many members at once, each with its own rate, decay and clipping, as torch has it for one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch


class MembersAdamW:
    """Decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101); torch.optim.AdamW's arithmetic, step by step.

    parameters: of each member, with the weight decay of each.
    """

    def __init__(
        self,
        parameters: Mapping[int, Sequence[tuple[torch.nn.Parameter, float]]],
        *,
        betas: tuple[float, float],
        epsilon: float,
    ):
        self.members = {member: list(pairs) for member, pairs in parameters.items()}
        self.betas, self.epsilon, self.steps = betas, epsilon, 0
        self._first = {member: [torch.zeros_like(p) for p, _ in pairs] for member, pairs in self.members.items()}
        self._second = {member: [torch.zeros_like(p) for p, _ in pairs] for member, pairs in self.members.items()}

    @torch.no_grad()
    def clip(self, member: int, largest: float) -> float:
        """Scales a member's gradients to a norm of at most `largest` (0: not at all); returns the norm they had."""
        gradients = [p.grad for p, _ in self.members[member] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if largest > 0:
            torch.nn.utils.clip_grads_with_norm_([p for p, _ in self.members[member]], largest, norm)
        return float(norm)

    @torch.no_grad()
    def step(self, rates: Mapping[int, float]) -> None:
        """One update of every member that has a rate; gradients are gone after it."""
        self.steps += 1
        parameters: list[torch.Tensor] = []
        gradients, firsts, seconds = [], [], []
        kept, moved = [], []
        first_share, second_share = self.betas
        for member, rate in rates.items():
            for (parameter, decay), first, second in zip(
                self.members[member], self._first[member], self._second[member], strict=True
            ):
                if parameter.grad is None:
                    continue
                parameters.append(parameter)
                gradients.append(parameter.grad)
                firsts.append(first)
                seconds.append(second)
                kept.append(1 - rate * decay)
                moved.append(-rate / (1 - first_share**self.steps))
        torch._foreach_mul_(parameters, kept)
        torch._foreach_lerp_(firsts, gradients, 1 - first_share)
        torch._foreach_mul_(seconds, second_share)
        torch._foreach_addcmul_(seconds, gradients, gradients, 1 - second_share)
        roots = torch._foreach_sqrt(seconds)
        torch._foreach_div_(roots, (1 - second_share**self.steps) ** 0.5)
        torch._foreach_add_(roots, self.epsilon)
        torch._foreach_addcdiv_(parameters, firsts, roots, moved)
        for updated in parameters:
            updated.grad = None

    def drop(self, member: int) -> None:
        """A member takes no further part."""
        for of_members in (self.members, self._first, self._second):
            of_members.pop(member)

    def state(self) -> dict[str, Any]:
        """What resuming needs."""
        return {"steps": self.steps, "first": self._first, "second": self._second}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Puts a state back."""
        self.steps, self._first, self._second = state["steps"], state["first"], state["second"]

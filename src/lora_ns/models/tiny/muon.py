"""The Muon optimiser."""

import torch


class Muon(torch.optim.Optimizer):
    """Muon: momentum with nearly orthogonal updates (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

    torch.optim.Muon computes in bfloat16, which is twenty times slower on CPUs without AVX-512.  This version computes in
    float32, and batches all matrices of one shape.
    """

    MOMENTUM = 0.95
    COEFFICIENTS = (3.4445, -4.7750, 2.0315)
    ITERATIONS = 5

    def __init__(self, params: list[torch.nn.Parameter], lr: float):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            updates: dict[torch.Size, list[tuple[torch.Tensor, torch.Tensor]]] = {}
            for parameter in group["params"]:
                momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                momentum.lerp_(parameter.grad, 1 - self.MOMENTUM)
                nesterov = parameter.grad.lerp(momentum, self.MOMENTUM)
                updates.setdefault(parameter.shape, []).append((parameter, nesterov))
            for (rows, columns), pairs in updates.items():
                directions = self._orthogonal(torch.stack([update for _, update in pairs]))
                for (parameter, _), direction in zip(pairs, directions, strict=True):
                    parameter.add_(direction, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)

    def _orthogonal(self, matrices: torch.Tensor) -> torch.Tensor:
        """Return the nearest orthogonal matrices [n, rows, columns], by Newton-Schulz iteration."""
        a, b, c = self.COEFFICIENTS
        x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
        tall = x.size(1) > x.size(2)
        x = x.mT if tall else x
        for _ in range(self.ITERATIONS):
            gram = x @ x.mT
            x = a * x + (b * gram + c * gram @ gram) @ x
        return x.mT if tall else x

"""Products of many rows with a frozen weight matrix on processors, by oneDNN where it is quicker than the BLAS of torch's own.

That is where a layer makes much more of a row than it was given, as output layers and the first half of feed-forward parts
do: on an AMD EPYC (Zen 2) such products take 0.7 to 0.9 of MKL's time.  For few rows oneDNN is slower, and for each new
number of rows it makes code first, 1 to 2 ms, which small matrices do not repay.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch

FEWEST_ROWS = 128
LEAST_NUMBERS = 2**18
"""In a weight matrix that oneDNN gets."""


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x Wᵀ + bias of x [n, in], weight [out, in], all float32 on a processor, without a gradient."""
    if len(x) >= FEWEST_ROWS and _is_wide(weight) and torch.backends.mkldnn.is_available():
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return x @ weight.t() if bias is None else torch.addmm(bias, x, weight.t())


def _is_wide(weight: torch.Tensor) -> bool:
    return weight.numel() >= LEAST_NUMBERS and weight.size(0) > 2 * weight.size(1)


class _Frozen(torch.autograd.Function):
    """x [n, in] -> W x + bias [n, out], with a gradient for x."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(weight)
        return linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (weight,) = ctx.saved_tensors
        return gradients[0] @ weight, None, None


def quicken_frozen(model: Any) -> int:
    """Gives the frozen wide linear layers of a model on a processor this product for training; returns how many."""
    layers: list[Any] = [layer for layer in model.modules() if type(layer) is torch.nn.Linear and _gains(layer)]
    for layer in layers:
        layer.forward = MethodType(_forward, layer)
    return len(layers)


def _gains(layer: torch.nn.Linear) -> bool:
    weight = layer.weight
    is_frozen = not any(parameter.requires_grad for parameter in layer.parameters())
    return is_frozen and weight.device.type == "cpu" and weight.dtype == torch.float32 and _is_wide(weight)


def _forward(layer: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
    if not x.requires_grad or x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return torch.nn.Linear.forward(layer, x)
    return _Frozen.apply(x.reshape(-1, x.size(-1)), layer.weight, layer.bias).view(*x.shape[:-1], -1)

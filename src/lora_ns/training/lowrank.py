"""LoRA's product on a processor without the passes over the rows that PEFT's layer takes: scaling and adding happen in the
matrix products themselves, and the rank-r rows of the forward pass are kept for the backward one.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch


class _LowRank(torch.autograd.Function):
    """x [n, in] -> W x + s·B·A·x [n, out], with gradients for x, a [r, in] and b [out, r]."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: Any, a: torch.Tensor, b: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        inner = x @ a.t()
        out = x @ weight.t() if bias is None else torch.addmm(bias, x, weight.t())
        out.addmm_(inner, b.t(), alpha=scaling)
        ctx.save_for_backward(x, weight, a, b, inner)
        ctx.scaling = scaling
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        x, weight, a, b, inner = ctx.saved_tensors
        outward, scaling = gradients[0], ctx.scaling
        to_inner = outward @ b
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = (outward @ weight).addmm_(to_inner, a, alpha=scaling)
        to_a = (to_inner.t() @ x).mul_(scaling)
        to_b = (outward.t() @ inner).mul_(scaling)
        return to_x, None, None, to_a, to_b, None


def low_rank(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, a: torch.Tensor, b: torch.Tensor, scaling: float
) -> torch.Tensor:
    """W x + bias + s·B·A·x of rows x [..., in], weight [out, in] frozen, a [r, in], b [out, r]."""
    flat = x.reshape(-1, x.size(-1))
    return _LowRank.apply(flat, weight, bias, a, b, scaling).view(*x.shape[:-1], -1)


def quicken(model: Any) -> int:
    """Gives the plain LoRA layers of a PEFT model on a processor this product for training; returns how many.

    Layers with dropout, of a variant (DoRA), of more adapters than one, quantised or in lower precision keep PEFT's own.
    """
    from peft.tuners.lora.layer import Linear

    layers: list[Any] = [layer for layer in model.modules() if type(layer) is Linear and _is_plain(layer)]
    for layer in layers:
        layer.forward = MethodType(_forward, layer)
    return len(layers)


def _is_plain(layer: Any) -> bool:
    base, names = layer.get_base_layer(), list(layer.lora_A)
    if type(base) is not torch.nn.Linear or base.weight.device.type != "cpu" or base.weight.requires_grad:
        return False
    if len(names) != 1 or layer.lora_variant or layer.lora_bias[names[0]] or layer.fan_in_fan_out:
        return False
    kinds = {base.weight.dtype, layer.lora_A[names[0]].weight.dtype, layer.lora_B[names[0]].weight.dtype}
    return kinds == {torch.float32} and isinstance(layer.lora_dropout[names[0]], torch.nn.Identity)


def _forward(layer: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    if (
        not layer.training
        or layer.merged
        or layer.disable_adapters
        or args
        or kwargs
        or torch.is_autocast_enabled("cpu")
    ):
        return type(layer).forward(layer, x, *args, **kwargs)
    base, (name,) = layer.get_base_layer(), layer.active_adapters
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    return low_rank(x, base.weight, base.bias, a, b, layer.scaling[name])

"""LoRA's product on a processor without the passes over the rows that PEFT's layer takes: scaling and adding happen in the
matrix products themselves, and what A made of the rows in the forward pass is kept for the backward one.

Whatever has one side of rank r lies with that side first, [r, n]: processors take up to eight times as long for [n, r].
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch


class _LowRank(torch.autograd.Function):
    """x, d [n, in] -> W x + s·B·A·d [n, out], with gradients for x, d, a [r, in] and b [out, r]; d None: x itself."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, d: Any, weight: torch.Tensor, bias: Any, a: torch.Tensor, b: torch.Tensor, s: float
    ) -> torch.Tensor:
        seen = x if d is None else d
        inner = a @ seen.t()
        out = x @ weight.t() if bias is None else torch.addmm(bias, x, weight.t())
        out.addmm_(inner.t(), b.t(), alpha=s)
        ctx.save_for_backward(seen, weight, a, b, inner)
        ctx.is_apart, ctx.scaling = d is not None, s
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        seen, weight, a, b, inner = ctx.saved_tensors
        outward, scaling = gradients[0], ctx.scaling
        to_inner = (b.t() @ outward.t()).mul_(scaling)
        to_x = outward @ weight if ctx.needs_input_grad[0] else None
        to_d = None
        if ctx.is_apart:
            to_d = to_inner.t() @ a if ctx.needs_input_grad[1] else None
        elif to_x is not None:
            to_x.addmm_(to_inner.t(), a)
        to_b = (inner @ outward).mul_(scaling).t()
        return to_x, to_d, None, None, to_inner @ seen, to_b, None


def low_rank(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    a: torch.Tensor,
    b: torch.Tensor,
    scaling: float,
    dropped: torch.Tensor | None = None,
) -> torch.Tensor:
    """W x + bias + s·B·A·x of rows x [..., in], weight [out, in] frozen, a [r, in], b [out, r].

    dropped [..., in]: the rows after dropout, of which A's product is taken instead.
    """
    flat, apart = x.reshape(-1, x.size(-1)), None if dropped is None else dropped.reshape(-1, x.size(-1))
    return _LowRank.apply(flat, apart, weight, bias, a, b, scaling).view(*x.shape[:-1], -1)


def quicken(model: Any) -> int:
    """Gives the plain LoRA layers of a PEFT model on a processor this product for training; returns how many.

    Layers of a variant (DoRA), of more adapters than one, quantised or in lower precision keep PEFT's own.
    """
    from peft.tuners.lora.layer import Linear

    layers: list[Any] = [layer for layer in model.modules() if type(layer) is Linear and _is_plain(layer)]
    for layer in layers:
        layer.forward = MethodType(_forward, layer)
    return len(layers)


def is_quick(layer: Any) -> bool:
    """Whether a layer has this product."""
    return getattr(vars(layer).get("forward"), "__func__", None) is _forward


def _is_plain(layer: Any) -> bool:
    base, names = layer.get_base_layer(), list(layer.lora_A)
    if type(base) is not torch.nn.Linear or base.weight.device.type != "cpu" or base.weight.requires_grad:
        return False
    if len(names) != 1 or layer.lora_variant or layer.lora_bias[names[0]] or layer.fan_in_fan_out:
        return False
    kinds = {base.weight.dtype, layer.lora_A[names[0]].weight.dtype, layer.lora_B[names[0]].weight.dtype}
    return kinds == {torch.float32}


def _forward(layer: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    if (
        not layer.training
        or layer.merged
        or layer.disable_adapters
        or args
        or kwargs
        or x.device.type != "cpu"  # the model moved on to a GPU
        or torch.is_autocast_enabled("cpu")
    ):
        return type(layer).forward(layer, x, *args, **kwargs)
    base, (name,) = layer.get_base_layer(), layer.active_adapters
    a, b, dropout = layer.lora_A[name].weight, layer.lora_B[name].weight, layer.lora_dropout[name]
    dropped = None if isinstance(dropout, torch.nn.Identity) else dropout(x)
    return low_rank(x, base.weight, base.bias, a, b, layer.scaling[name], dropped)

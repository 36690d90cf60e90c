"""RMSNorm and the rotary position embedding on a processor, each direction in a few passes over the rows.

As models write them, autograd goes over the rows for every step of their formulas, forwards and backwards: a sixth of the
time of a small model's step.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import torch

from lora_ns.training.positions import same_instructions

ROTATION = "apply_rotary_pos_emb"
"""Of queries and keys, by the name that transformers' models call it by."""


class _RmsNorm(torch.autograd.Function):
    """x [..., n] -> w · x / sqrt(mean(x²) + epsilon), with gradients for x and w [n] (Zhang and Sennrich 2019,
    arXiv 1910.07467, section 4)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        scale = x.square().mean(-1, keepdim=True).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (outward,), (x, weight, scale) = gradients, ctx.saved_tensors
        to_x = to_weight = None
        if ctx.needs_input_grad[0]:
            to_x = outward * weight
            along = torch.linalg.vecdot(to_x, x).unsqueeze_(-1).mul_(scale.square()).div_(x.size(-1))
            to_x.addcmul_(x, along, value=-1).mul_(scale)
        if ctx.needs_input_grad[1]:
            to_weight = (x * scale).mul_(outward).reshape(-1, x.size(-1)).sum(0)
        return to_x, to_weight, None


class _Rotation(torch.autograd.Function):
    """x [..., n], cos and sin [..., n] that broadcast -> each pair (x_i, x_(i + n/2)) turned (Su et al. 2021,
    arXiv 2104.09864, section 3.2); gradients for x."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        turned, half = x * cos, x.size(-1) // 2
        turned[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
        turned[..., half:].addcmul_(x[..., :half], sin[..., half:])
        return turned

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (outward,), (cos, sin) = gradients, ctx.saved_tensors
        to_x, half = outward * cos, outward.size(-1) // 2
        to_x[..., :half].addcmul_(outward[..., half:], sin[..., half:])
        to_x[..., half:].addcmul_(outward[..., :half], sin[..., :half], value=-1)
        return to_x, None, None


def quicken_elementwise(model: Any) -> int:
    """Gives the norms and attentions of a base or PEFT model that compute as Llama's do these functions, for float32 on a
    processor; returns how many modules it knew.  What is put in place of transformers' functions later does not reach them."""
    modules = [module for module in model.modules() if "forward" not in vars(module)]
    kinds: set[Any] = set(map(type, modules))
    passes = {kind: _quick(kind.forward) for kind in kinds}
    known = [(module, quick) for module in modules if (quick := passes[type(module)])]
    for module, quick in known:
        module.forward = MethodType(quick, module)
    return len(known)


def _quick(theirs: Any) -> Callable[..., Any] | None:
    """A class's forward pass by the functions above; None where it is another than Llama's."""
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    if same_instructions(theirs, LlamaRMSNorm.forward):
        return _norm
    if _rotates_as_llamas(theirs):
        return _with_globals(theirs, {ROTATION: _rotated_by(theirs.__globals__[ROTATION])})
    return None


def _norm(module: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    if not _is_plain(hidden_states, module.weight):
        return type(module).forward(module, hidden_states)
    return _RmsNorm.apply(hidden_states, module.weight, module.variance_epsilon)


def _rotates_as_llamas(pass_: Any) -> bool:
    from transformers.models.llama import modeling_llama

    if not isinstance(pass_, FunctionType) or ROTATION not in pass_.__code__.co_names:
        return False
    return all(
        same_instructions(pass_.__globals__.get(name), getattr(modeling_llama, name))
        for name in (ROTATION, "rotate_half")
    )


def _rotated_by(theirs: Any) -> Any:
    """`theirs`, by the rotation above where it can be."""

    def rotated(
        q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, unsqueeze_dim: int = 1
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not _is_plain(q, k, cos, sin) or cos.requires_grad or sin.requires_grad:
            return theirs(q, k, cos, sin, unsqueeze_dim=unsqueeze_dim)
        cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        return _Rotation.apply(q, cos, sin), _Rotation.apply(k, cos, sin)

    return rotated


def _with_globals(function: FunctionType, changed: dict[str, Any]) -> FunctionType:
    """The function as it is, for which some of its module's names are others."""
    given = {**function.__globals__, **changed}
    made = FunctionType(function.__code__, given, function.__name__, function.__defaults__, function.__closure__)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def _is_plain(*tensors: torch.Tensor) -> bool:
    """Whether all are float32 on a processor that is not told of another precision."""
    return not torch.is_autocast_enabled("cpu") and all(
        tensor.device.type == "cpu" and tensor.dtype is torch.float32 for tensor in tensors
    )

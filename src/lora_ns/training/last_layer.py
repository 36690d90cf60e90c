"""The last layer computed only where its output is read: what follows its attention looks at no position but its own.

At positions without loss the last layer's output goes nowhere, so they are dropped before its output projection and its
feed-forward part, which are most of a layer.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from lora_ns.training.lowrank import is_quick

Places = Callable[[], torch.Tensor | None]
"""Where output is read, in the positions [B * T] of the moment's batch; None for everywhere."""


def narrow(base: Any, places: Places) -> bool:
    """Gives the last layer of a causal model that is built as Llama's are a forward pass whose output [1, N, hidden] is
    that at the N places; returns whether it is such a model."""
    layers = getattr(getattr(base, base.base_model_prefix, None), "layers", None)
    if not isinstance(layers, torch.nn.ModuleList) or not len(layers) or not _is_as_llamas(layers[-1]):
        return False
    layer: Any = layers[-1]
    if not all(map(_sees_one_position, [*layer.mlp.modules(), *layer.self_attn.o_proj.modules()])):
        return False
    whole = layer.forward

    def drop(module: Any, inputs: tuple[torch.Tensor, ...]) -> Any:
        chosen = places()
        return None if chosen is None else (_at(inputs[0], chosen), *inputs[1:])

    def forward(hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        chosen = places()
        if chosen is None:
            return whole(hidden_states, **kwargs)
        attended, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **kwargs)
        residual = _at(hidden_states, chosen) + attended
        return residual + layer.mlp(layer.post_attention_layernorm(residual))

    layer.self_attn.o_proj.register_forward_pre_hook(drop)
    layer.forward = forward
    return True


def _at(positions: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """[B, T, width] -> [1, N, width]"""
    return positions.reshape(-1, positions.size(-1)).index_select(0, places)[None]


def _is_as_llamas(layer: Any) -> bool:
    """Whether a layer's pass is Llama's, instruction by instruction, and its attention ends with the projection."""
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    theirs, llamas = (inspect.unwrap(kind.forward).__code__ for kind in (type(layer), LlamaDecoderLayer))
    if (theirs.co_code, theirs.co_names) != (llamas.co_code, llamas.co_names):
        return False
    end = inspect.getsource(inspect.unwrap(type(layer.self_attn).forward)).split()[-6:]
    return end == "attn_output = self.o_proj(attn_output) return attn_output, attn_weights".split()


def _sees_one_position(module: Any) -> bool:
    """Whether a module of the base or of PEFT computes each position from itself alone: of PEFT's only LoRA's, DoRA's and
    IA3's are known to (aLoRA counts positions, X-LoRA weighs them, others mix them); LLM.int8 looks for outliers in all."""
    from peft.tuners.ia3.layer import IA3Layer
    from peft.tuners.lora.layer import LoraLayer
    from peft.tuners.lora.variants import DoraLinearVariant
    from peft.tuners.tuners_utils import BaseTunerLayer

    if type(module).__name__ == "Linear8bitLt":
        return False
    if isinstance(module, LoraLayer):
        its_own = "forward" not in vars(module) or is_quick(module)
        return its_own and all(isinstance(variant, DoraLinearVariant) for variant in module.lora_variant.values())
    return isinstance(module, IA3Layer) or not isinstance(module, BaseTunerLayer)

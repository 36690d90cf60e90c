"""The last layer computed only where its output is read: what follows its attention looks at no position but its own.

At positions without loss the last layer's output goes nowhere, so they are dropped before its output projection and its
feed-forward part, which are most of a layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lora_ns.training.positions import decoder_layers, is_as_llamas, sees_one_position

Places = Callable[[], torch.Tensor | None]
"""Where output is read, in the positions [B * T] of the moment's batch; None for everywhere."""


def narrow(base: Any, places: Places) -> bool:
    """Gives the last layer of a causal model that is built as Llama's are a forward pass whose output [1, N, hidden] is
    that at the N places; returns whether it is such a model."""
    layers = decoder_layers(base)
    if layers is None or not is_as_llamas(layers[-1]):
        return False
    layer: Any = layers[-1]
    if not all(map(sees_one_position, [*layer.mlp.modules(), *layer.self_attn.o_proj.modules()])):
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

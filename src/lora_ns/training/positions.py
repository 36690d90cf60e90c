"""What of a model computes each position from that position alone, so that which positions stand around it is no matter."""

from __future__ import annotations

import inspect
from types import FunctionType
from typing import Any

import torch

from lora_ns.training.lowrank import is_quick


def decoder_layers(base: Any) -> torch.nn.ModuleList | None:
    """A causal model's layers; None where they stand elsewhere than most have them."""
    layers = getattr(getattr(base, base.base_model_prefix, None), "layers", None)
    return layers if isinstance(layers, torch.nn.ModuleList) and len(layers) else None


def is_as_llamas(layer: Any) -> bool:
    """Whether a layer's pass is Llama's, instruction by instruction, and its attention ends with the projection."""
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    if not same_instructions(inspect.unwrap(type(layer).forward), inspect.unwrap(LlamaDecoderLayer.forward)):
        return False
    end = inspect.getsource(inspect.unwrap(type(layer.self_attn).forward)).split()[-6:]
    return end == "attn_output = self.o_proj(attn_output) return attn_output, attn_weights".split()


def same_instructions(function: Any, other: Any) -> bool:
    """Whether a function is another, instruction by instruction; what its module's names stand for is not compared."""
    both = isinstance(function, FunctionType) and isinstance(other, FunctionType)
    return both and _instructions(function) == _instructions(other)


def _instructions(function: FunctionType) -> tuple[Any, ...]:
    code = function.__code__
    has_docstring = bool(code.co_consts) and isinstance(code.co_consts[0], str | None)
    return code.co_code, code.co_names, code.co_consts[has_docstring:], function.__defaults__, function.__kwdefaults__


def sees_one_position(module: Any) -> bool:
    """Whether a module of the base or of PEFT computes each position from itself alone: of PEFT's only LoRA's, DoRA's and
    IA3's are known to (aLoRA counts positions, X-LoRA weighs them, others mix them); LLM.int8 looks for outliers in all."""
    from peft.tuners.ia3.layer import IA3Layer
    from peft.tuners.lora.layer import LoraLayer
    from peft.tuners.lora.variants import DoraLinearVariant
    from peft.tuners.tuners_utils import BaseTunerLayer

    if type(module).__name__ == "Linear8bitLt" or isinstance(module, torch.nn.modules.conv._ConvNd):
        return False
    if isinstance(module, LoraLayer):
        its_own = "forward" not in vars(module) or is_quick(module)
        return its_own and all(isinstance(variant, DoraLinearVariant) for variant in module.lora_variant.values())
    return isinstance(module, IA3Layer) or not isinstance(module, BaseTunerLayer)

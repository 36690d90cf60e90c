"""A batch's rows read as one, every token once and no padding, where only attention sees them apart.

Linear layers, norms and the like compute each position from itself alone, so padding is work for nothing there: a
fifteenth of a batch of sixteen rows of like length, and two in five tokens of sixteen as they come.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch

from lora_ns.config import RunConfig
from lora_ns.training.collate import IGNORED, Batch
from lora_ns.training.positions import decoder_layers, is_as_llamas, sees_one_position

COMPILED = ("torch_compile", "torch_compile_backend", "torch_compile_mode")
"""Any of which has transformers compile the model, which lengths of every batch's own would have done again and again."""

NAME = "lora_ns_rows"
"""Of the attention, among those that transformers knows."""


def reads_flat(model: Any, config: RunConfig) -> bool:
    """Whether a base or PEFT model can read rows as one: a causal one of Llama's build with full attention and no dropout of
    its own, and a method that computes each position from itself alone."""
    told = config.training.arguments
    compiled = any(told.get(key) for key in COMPILED)
    # NEFTune's noise is the weaker the longer a row is (Jain et al. 2023, arXiv 2310.05914, section 2)
    noisy = bool(told.get("neftune_noise_alpha"))
    if config.task_type != "causal_lm" or not config.training.shortcuts or compiled or noisy:
        return False
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if hasattr(model, "peft_config") and any(peft.is_prompt_learning for peft in model.peft_config.values()):
        return False
    settings, layers = base.config.get_text_config(), decoder_layers(base)
    if layers is None or getattr(settings, "output_router_logits", False):
        return False
    usual = settings._attn_implementation in ("sdpa", NAME) and not getattr(settings, "attention_dropout", 0.0)
    return (
        usual
        and _has_full_attention(settings)
        and all(is_as_llamas(layer) and _config_of(layer) is settings for layer in layers)
        and all(map(sees_one_position, layers.modules()))
    )


def _config_of(layer: Any) -> Any:
    return getattr(layer.self_attn, "config", None)


def _has_full_attention(settings: Any) -> bool:
    sliding = getattr(settings, "sliding_window", None) is not None and getattr(settings, "use_sliding_window", True)
    kinds = set(getattr(settings, "layer_types", None) or ["full_attention"])
    capped = getattr(settings, "attn_logit_softcapping", None) is not None
    looks_back = getattr(settings, "is_causal", True)
    return looks_back and not sliding and not capped and kinds == {"full_attention"}


def read_flat(base: Any) -> None:
    """Has a base model see apart the rows of batches that `flatten` made; others it reads as before."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
    base.config._attn_implementation = NAME
    base.config.get_text_config()._attn_implementation = NAME


def flatten(batch: Batch) -> Batch:
    """input_ids, attention_mask, labels [B, T], padded on the right -> input_ids, position_ids, labels [1, tokens], and for
    attention the rows' lengths; on a GPU also each token's place in the padded batch."""
    real = batch["attention_mask"].bool()
    labels = batch["labels"].clone()
    labels[:, 0] = IGNORED  # what stands before a row's first token is another row's
    positions = torch.arange(real.size(1), device=real.device).expand_as(real)
    parts = {"input_ids": batch["input_ids"], "position_ids": positions, "labels": labels}
    flat: Batch = {name: value[real][None] for name, value in parts.items()}
    flat["attention_mask"] = torch.empty(1, 1, 1, 0, device=real.device)  # of four dimensions it is left as it is
    flat["row_lengths"] = real.sum(1).tolist()
    flat["row_places"] = None if real.device.type == "cpu" else real.view(-1).nonzero()[:, 0]
    return flat


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    row_lengths: list[int] | None = None,
    row_places: torch.Tensor | None = None,
    scaling: float | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, Any]:
    """Causal attention within each row.  query, key, value [1, heads, tokens, width] -> [1, tokens, heads, width].

    Without lengths it is transformers' own, of padded rows.
    """
    if row_lengths is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        assert attention_mask is None or attention_mask.numel(), "the model does not tell its attention of rows"
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **rest)
    lines = [tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value)]
    apart: Any
    if row_places is None:
        apart = zip(*(_rows_of(line, row_lengths) for line in lines), strict=True)
    else:
        apart = [[_padded(line, row_lengths, row_places) for line in lines]]
    seen = [_causal(*parts, scaling=scaling).transpose(1, 2).flatten(0, 1) for parts in apart]
    whole = seen[0] if len(seen) == 1 else torch.cat(seen)
    return (whole if row_places is None else whole[row_places])[None], None


def _rows_of(line: torch.Tensor, lengths: Sequence[int]) -> list[torch.Tensor]:
    """[tokens, heads, width] -> [rows, heads, length, width] of each run of rows of one length."""
    runs = [(len(list(rows)), length) for length, rows in groupby(lengths)]
    parts = line.split([rows * length for rows, length in runs])
    return [part.unflatten(0, run).transpose(1, 2) for part, run in zip(parts, runs, strict=True)]


def _padded(line: torch.Tensor, lengths: Sequence[int], places: torch.Tensor) -> torch.Tensor:
    """[tokens, heads, width] -> [rows, heads, longest, width], zeros where a row has ended: one call for all on a GPU."""
    room = line.new_zeros(len(lengths) * max(lengths), *line.shape[1:]).index_copy(0, places, line)
    return room.unflatten(0, (len(lengths), max(lengths))).transpose(1, 2)


def _causal(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scaling: float | None) -> torch.Tensor:
    """Attention of [rows, heads, tokens, width], in that shape."""
    return torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scaling, enable_gqa=query.size(1) != key.size(1)
    )

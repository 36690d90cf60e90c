"""Padding-free batches: the rows of a batch are concatenated, and attention keeps them apart.

Linear layers and norms compute each position from itself, so padding is work for nothing there: a fifteenth of a batch of
sixteen rows of like length, and two in five tokens of sixteen as they come.
"""

from collections.abc import Sequence
from itertools import accumulate, groupby
from typing import Any

import torch

from lora_ns.config import RunConfig
from lora_ns.data.collator import IGNORED, Batch, Collate
from lora_ns.models.base_model import without_peft

MODEL_TYPES = frozenset(
    """
    arcee deepseek_v2 deepseek_v3 ernie4_5 ernie4_5_moe gemma glm glm4_moe helium llama ministral3 mistral nanochat olmo
    olmoe qwen2 qwen2_moe qwen3 qwen3_moe smollm3
    """.split()
)
"""transformers' decoders whose layers, attention apart, see one position at a time and hand keyword arguments on to
attention.  tests/training/test_padding_free.py compares each with its padded batches."""

COMPILED = ("torch_compile", "torch_compile_backend", "torch_compile_mode")
"""Settings that compile the model, which padding-free batches would do again for every new length."""

NAME = "lora_ns_rows"
"""Name under which transformers knows the attention function."""


def reads_flat(model: Any, config: RunConfig) -> bool:
    """Whether a base or PEFT model supports padding-free batches.

    It must be in MODEL_TYPES, with full attention without dropout, and its method must not mix positions.
    """
    told = config.training.arguments
    # NEFTune's noise depends on the padded length (Jain et al. 2023, arXiv 2310.05914, section 2)
    if config.task_type != "causal_lm" or told.get("neftune_noise_alpha") or any(told.get(key) for key in COMPILED):
        return False
    base = without_peft(model)
    if hasattr(model, "peft_config") and any(peft.is_prompt_learning for peft in model.peft_config.values()):
        return False
    settings = base.config.get_text_config()
    return (
        settings.model_type in MODEL_TYPES
        and type(base).__module__.startswith("transformers.")  # not remote code under a known name
        and settings._attn_implementation in ("sdpa", NAME)
        and not getattr(settings, "attention_dropout", 0.0)
        and not getattr(settings, "output_router_logits", False)
        and _has_full_attention(settings)
        and all(_sees_one_position(module) for module in base.base_model.modules())
        # copied layers (peft.layer_replication) have their own config, without our attention function
        and all(getattr(module, "config", settings) is settings for module in base.base_model.modules())
    )


def _sees_one_position(module: Any) -> bool:
    """Whether a module of the base model or of PEFT computes each position independently.

    Of PEFT's layers, LoRA, DoRA and IA3 do.  Others, such as aLoRA and X-LoRA, depend on several positions.  LLM.int8
    searches all positions for outliers.
    """
    from peft.tuners.ia3.layer import IA3Layer
    from peft.tuners.lora.layer import LoraLayer
    from peft.tuners.lora.variants import DoraLinearVariant
    from peft.tuners.tuners_utils import BaseTunerLayer

    if type(module).__name__ == "Linear8bitLt" or isinstance(module, torch.nn.modules.conv._ConvNd):
        return False
    if isinstance(module, LoraLayer):  # X-LoRA replaces forward on the instance
        return "forward" not in vars(module) and all(
            isinstance(variant, DoraLinearVariant) for variant in module.lora_variant.values()
        )
    return isinstance(module, IA3Layer) or not isinstance(module, BaseTunerLayer)


def _has_full_attention(settings: Any) -> bool:
    sliding = getattr(settings, "sliding_window", None) is not None and getattr(settings, "use_sliding_window", True)
    kinds = set(getattr(settings, "layer_types", None) or ["full_attention"])
    capped = getattr(settings, "attn_logit_softcapping", None) is not None
    looks_back = getattr(settings, "is_causal", True)
    return looks_back and not sliding and not capped and kinds == {"full_attention"}


def read_flat(base: Any) -> None:
    """Make a base model read padding-free batches.  Padded batches still work."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
    base.config._attn_implementation = NAME
    base.config.get_text_config()._attn_implementation = NAME


def without_padding(collate: Collate) -> Collate:
    """A collator that makes padding-free batches."""
    return lambda rows: flatten(collate(rows))


def flatten(batch: Batch) -> Batch:
    """Convert a right-padded batch [B, T] of `with_targets` to a padding-free one.

    It has input_ids, position_ids, labels [1, tokens], logits_to_keep [N] as token indices, targets [N], and row_lengths and
    row_places for attention.
    """
    real = batch["attention_mask"].bool()
    labels = batch["labels"].clone()
    labels[:, 0] = IGNORED  # the token before a row's first one belongs to another row
    positions = torch.arange(real.size(1), device=real.device).expand_as(real)
    lengths = real.sum(1).tolist()
    return {
        "input_ids": batch["input_ids"][real][None],
        "position_ids": positions[real][None],
        "labels": labels[real][None],
        "attention_mask": torch.empty(1, 1, 1, 0, device=real.device),  # transformers does not change a mask with four dimensions
        "logits_to_keep": batch["logits_to_keep"][real].nonzero()[:, 0],
        "targets": batch["targets"],
        "row_lengths": lengths,
        "row_places": _row_places(lengths),
    }


def concatenated(batches: Sequence[Batch]) -> Batch:
    """Concatenate padding-free batches."""
    lengths = [length for batch in batches for length in batch["row_lengths"]]
    starts = [0, *accumulate(batch["input_ids"].size(1) for batch in batches)]
    kept = [batch["logits_to_keep"] + start for batch, start in zip(batches, starts, strict=False)]
    return {
        **{name: torch.cat([b[name] for b in batches], dim=1) for name in ("input_ids", "position_ids", "labels")},
        "attention_mask": batches[0]["attention_mask"],
        "logits_to_keep": torch.cat(kept),
        "targets": torch.cat([batch["targets"] for batch in batches]),
        "row_lengths": lengths,
        "row_places": _row_places(lengths),
    }


def _row_places(lengths: Sequence[int]) -> torch.Tensor | None:
    """Return each token's index in the padded rows [rows * longest].  With it, attention is one call for all rows.

    None on a CPU, where one call per row length is faster.
    """
    if not torch.cuda.is_available():
        return None
    longest = max(lengths)
    return torch.cat([torch.arange(length) + row * longest for row, length in enumerate(lengths)])


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

    Without row_lengths it calls transformers' attention for padded rows.
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
    """Split [tokens, heads, width] into one [rows, heads, length, width] per group of adjacent rows of equal length."""
    runs = [(len(list(rows)), length) for length, rows in groupby(lengths)]
    parts = line.split([rows * length for rows, length in runs])
    return [part.unflatten(0, run).transpose(1, 2) for part, run in zip(parts, runs, strict=True)]


def _padded(line: torch.Tensor, lengths: Sequence[int], places: torch.Tensor) -> torch.Tensor:
    """Pad [tokens, heads, width] with zeros to [rows, heads, longest, width]."""
    room = line.new_zeros(len(lengths) * max(lengths), *line.shape[1:]).index_copy(0, places, line)
    return room.unflatten(0, (len(lengths), max(lengths))).transpose(1, 2)


def _causal(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scaling: float | None) -> torch.Tensor:
    """Return causal attention of [rows, heads, tokens, width], in the same shape."""
    return torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scaling, enable_gqa=query.size(1) != key.size(1)
    )

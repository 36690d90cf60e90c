"""The loss of a batch, with logits only at supervised positions.

Four in five positions of a batch are prompt or padding.  transformers' `logits_to_keep` drops them before the output layer.
For a large vocabulary that layer is a third of the computation.  On GPUs TRL's fused output layer computes it in tiles.
"""

import inspect
from dataclasses import dataclass
from typing import Any

from lora_ns.config import RunConfig
from lora_ns.data.collator import IGNORED
from lora_ns.models.base_model import without_peft
from lora_ns.training.padding_free import read_flat
from lora_ns.training.token_entropy import token_entropy


@dataclass(frozen=True)
class Losses:
    """The losses of a batch.

    values [N], float32: nats of each supervised token, or nats or squared error of each row (0 without a label).
    correct [N]: whether the label had the largest logit.  None for regression.
    """

    values: Any
    correct: Any


class CausalLoss:
    """Next-token cross-entropy (nats) of each supervised token."""

    accuracy = "mean_token_accuracy"

    def __init__(self, model: Any, *, label_smoothing: float = 0.0, flat: bool = False):
        """model: base or PEFT model, before it is wrapped for distributed training.

        flat: whether batches are padding-free (see `reads_flat`).
        """
        base = without_peft(model)
        self.rows = "flat" if flat else "padded"
        if flat:
            read_flat(base)
        self.label_smoothing = label_smoothing
        self.kind = _kind_of(base)
        """fused (TRL's tiles), compact (logits at supervised positions only) or whole (all logits)."""
        if self.kind == "fused":
            from trl.trainer.utils import add_fused_lm_head

            add_fused_lm_head(base, outputs=("log_probs", "is_top1"))
        self._needs_mask = flat or self.kind == "whole" or not _looks_back_only(model, base)
        self._virtual_tokens = _virtual_tokens(model)

    def count(self, inputs: dict[str, Any]) -> Any:
        """Number of supervised tokens: the divisor of the mean loss."""
        import torch

        return torch.tensor(len(inputs["targets"]))

    def __call__(self, model: Any, inputs: dict[str, Any]) -> Losses:
        """The losses of a batch from the collator.  model: may be wrapped for distributed training."""
        import torch

        given = {name: value for name, value in inputs.items() if name not in ("labels", "logits_to_keep", "targets")}
        if not self._needs_mask:  # padding is on the right, unseen by causal attention, which is faster without a mask
            del given["attention_mask"]
        keep, targets = inputs["logits_to_keep"], inputs["targets"]
        if self.kind == "fused" and not self.label_smoothing:
            output = model(**given, labels=inputs["labels"], use_cache=False, fused_lm_head=True)
            width = inputs["labels"].size(1) - 1  # virtual tokens come before the prompt
            kept = [_kept(figures[:, -width:], keep) for figures in (output.log_probs, output.is_top1)]
            return Losses(-kept[0].float(), kept[1])
        if self.kind == "compact":
            if keep.dim() == 2 and self._virtual_tokens:
                keep = torch.nn.functional.pad(keep, (self._virtual_tokens, 0))
            logits = model(**given, use_cache=False, logits_to_keep=keep).logits
            logits = logits.reshape(-1, logits.size(-1))
        else:
            logits = _kept(model(**given, use_cache=False).logits[:, -inputs["input_ids"].size(1) :], keep)
        if not self.label_smoothing:
            return Losses(*token_entropy(logits.float(), targets))
        values = torch.nn.functional.cross_entropy(
            logits.float(), targets, reduction="none", label_smoothing=self.label_smoothing
        )
        return Losses(values, logits.argmax(-1) == targets)


def _kept(values: Any, keep: Any) -> Any:
    """Return values [B, T or T - 1, ...] at the N positions of logits_to_keep."""
    return values[0, keep] if keep.dim() == 1 else values[keep[:, : values.size(1)]]


def _kind_of(base: Any) -> str:
    import torch

    if getattr(base.config.get_text_config(), "output_router_logits", False):
        return "whole"  # the load-balancing loss of the experts needs all tokens
    if torch.cuda.is_available():
        return "fused"
    return "compact" if "logits_to_keep" in inspect.signature(type(base).forward).parameters else "whole"


def _virtual_tokens(model: Any) -> int:
    """Number of virtual tokens before the prompt.  Prefix tuning has none: its prefix is in the KV cache."""
    if not hasattr(model, "peft_config"):
        return 0
    method = model.active_peft_config
    is_prompt = method.is_prompt_learning and method.peft_type.value != "PREFIX_TUNING"
    return int(method.num_virtual_tokens) if is_prompt else 0


def _looks_back_only(model: Any, base: Any) -> bool:
    """Whether the model is causal, so that padding on the right cannot change a position's output."""
    prompted = hasattr(model, "peft_config") and model.active_peft_config.is_prompt_learning
    settings = base.config.get_text_config()
    kinds = set(getattr(settings, "layer_types", None) or ["full_attention"])
    usual = getattr(base, "_supports_attention_backend", False) and kinds <= {"full_attention", "sliding_attention"}
    return usual and not prompted and getattr(settings, "is_causal", True)


class LabelLoss:
    """Cross-entropy (nats) of each row's class, or squared error of its regression value."""

    kind, rows = "whole", "padded"
    accuracy = "accuracy"

    def __init__(self, *, regression: bool, label_smoothing: float = 0.0):
        self.regression, self.label_smoothing = regression, label_smoothing

    def count(self, inputs: dict[str, Any]) -> Any:
        """Number of rows with a label: the divisor of the mean loss."""
        labels = inputs["labels"]
        return (~labels.isnan() if self.regression else labels != IGNORED).sum()

    def __call__(self, model: Any, inputs: dict[str, Any]) -> Losses:
        """The losses of a batch.  model: may be wrapped for distributed training."""
        import torch

        labels = inputs["labels"]
        logits = model(**{name: value for name, value in inputs.items() if name != "labels"}).logits.float()
        if self.regression:
            known = ~labels.isnan()
            return Losses(torch.where(known, logits[:, 0] - labels.nan_to_num(), 0.0) ** 2, None)
        values = torch.nn.functional.cross_entropy(
            logits, labels, reduction="none", ignore_index=IGNORED, label_smoothing=self.label_smoothing
        )
        return Losses(values, logits.argmax(-1) == labels)


def sums_by_owner(losses: Losses, owners: Any, count: int) -> tuple[Any, Any]:
    """(sum of losses, number of correct predictions) [count] of each owner.  owners [N]: owner of each value, 0 … count - 1."""
    right = losses.values.new_zeros(count)
    if losses.correct is not None:
        right = right.index_add(0, owners, losses.correct.to(right.dtype))
    return losses.values.new_zeros(count).index_add(0, owners, losses.values), right


def loss_of(config: RunConfig, model: Any, *, flat: bool) -> CausalLoss | LabelLoss:
    """The loss function of the config's task.  flat: batches are padding-free."""
    smoothing = float(config.training.arguments.get("label_smoothing_factor") or 0.0)
    if config.task_type == "causal_lm":
        return CausalLoss(model, label_smoothing=smoothing, flat=flat)
    return LabelLoss(regression=config.task_type == "regression", label_smoothing=smoothing)

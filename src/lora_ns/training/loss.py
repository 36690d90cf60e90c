"""What training makes small: the loss of each row of a batch, with logits only at the places that carry loss.

Four in five positions of a batch are prompt or padding.  Their hidden states are dropped before the output layer, which
for a large vocabulary is a third of the whole computation; on GPUs TRL's fused output layer does the same in tiles.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from lora_ns.config import RunConfig
from lora_ns.training.collate import IGNORED


@dataclass(frozen=True)
class RowLosses:
    """Of each row of a batch: sums [B] float32 (nats; squared errors), counts [B] of what was summed.

    correct: how many of the batch's counted tokens (rows, for classes) were the likeliest; None for regression.
    """

    sums: Any
    counts: Any
    correct: Any


class CausalLoss:
    """Next-token cross-entropy (nats) of each row's supervised tokens."""

    accuracy = "mean_token_accuracy"

    def __init__(self, model: Any, *, label_smoothing: float = 0.0):
        """model: base or PEFT model, before it is wrapped for several processes."""
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.label_smoothing = label_smoothing
        self.kind = _kind_of(base)
        """fused (TRL's tiles), compact (the output layer sees supervised positions only) or whole (all logits)."""
        if self.kind == "fused":
            from trl.trainer.utils import add_fused_lm_head

            add_fused_lm_head(base, outputs=("log_probs", "is_top1"))
        elif self.kind == "compact":
            self._compact = _CompactHead(base)

    def count(self, inputs: dict[str, Any]) -> Any:
        """What the mean over a batch divides by, of a part of it: its supervised tokens."""
        return (inputs["labels"][:, 1:] != IGNORED).sum()

    def __call__(self, model: Any, inputs: dict[str, Any]) -> RowLosses:
        """The losses of a batch.  model: wrapped or not."""
        import torch

        if self.kind == "fused" and not self.label_smoothing:
            output = model(**inputs, use_cache=False, fused_lm_head=True)
            counts = output.label_mask.sum(-1)
            return RowLosses(-output.log_probs.float().sum(-1), counts, output.is_top1.sum())
        labels = inputs["labels"]
        if self.kind == "compact":
            logits, targets, rows = self._compact(model, inputs)
        else:
            rest = {name: value for name, value in inputs.items() if name != "labels"}
            # a trained prompt stands before the tokens
            logits = model(**rest, use_cache=False).logits[:, -labels.size(1) :][:, :-1]
            carried = labels[:, 1:] != IGNORED
            logits, targets, rows = logits[carried], labels[:, 1:][carried], carried.nonzero()[:, 0]
        logits = logits.float()
        each = torch.nn.functional.cross_entropy(
            logits, targets, reduction="none", label_smoothing=self.label_smoothing
        )
        sums = each.new_zeros(len(labels)).index_add(0, rows, each)
        counts = torch.bincount(rows, minlength=len(labels))
        with torch.no_grad():
            likeliest = logits.gather(1, targets[:, None])[:, 0] >= logits.amax(-1) if len(targets) else targets
        return RowLosses(sums, counts, likeliest.sum())


def _kind_of(base: Any) -> str:
    import torch

    if getattr(base.config.get_text_config(), "output_router_logits", False):
        return "whole"  # the experts' balance is a part of the model's own loss
    if torch.cuda.is_available():
        return "fused"
    source = inspect.getsource(type(base).forward)
    is_usual = "self.loss_function(" in source and base.get_output_embeddings() is not None
    return "compact" if is_usual else "whole"


class _CompactHead:
    """Hooks by which the model's own forward computes logits, scaled and capped as it does, of chosen positions only."""

    def __init__(self, base: Any):
        self._labels: Any = None
        self._kept: Any = None
        self._base = base
        base.register_forward_pre_hook(self._note_labels, with_kwargs=True)
        base.loss_function = self._keep_logits
        self._head: Any = None

    def __call__(self, model: Any, inputs: dict[str, Any]) -> tuple[Any, Any, Any]:
        """(logits [N, V], targets [N], rows [N]) of the N supervised positions."""
        head = self._base.get_output_embeddings()  # PEFT may have put another in its place
        if head is not self._head:
            head.register_forward_pre_hook(self._drop_positions)
            self._head = head
        model(**inputs, use_cache=False)
        kept, self._labels, self._kept = self._kept, None, None
        return kept

    def _note_labels(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        # whatever stands before the tokens by now (a trained prompt) has its labels too
        self._labels = kwargs.get("labels")

    def _drop_positions(self, module: Any, args: tuple[Any, ...]) -> Any:
        if self._labels is None:
            return None
        return (args[0][:, :-1][self._labels[:, 1:] != IGNORED][None], *args[1:])

    def _keep_logits(self, logits: Any, labels: Any, *_: Any, **__: Any) -> Any:
        carried = labels[:, 1:] != IGNORED
        self._kept = (logits[0], labels[:, 1:][carried], carried.nonzero()[:, 0])
        return logits.new_zeros(())


class LabelLoss:
    """Cross-entropy (nats) of each row's class, or the squared error of its number."""

    kind = "whole"
    accuracy = "accuracy"

    def __init__(self, *, regression: bool, label_smoothing: float = 0.0):
        self.regression, self.label_smoothing = regression, label_smoothing

    def count(self, inputs: dict[str, Any]) -> Any:
        """What the mean over a batch divides by, of a part of it: its rows with a label."""
        labels = inputs["labels"]
        return (~labels.isnan() if self.regression else labels != IGNORED).sum()

    def __call__(self, model: Any, inputs: dict[str, Any]) -> RowLosses:
        """The losses of a batch.  model: wrapped or not."""
        import torch

        labels = inputs["labels"]
        logits = model(**{name: value for name, value in inputs.items() if name != "labels"}).logits.float()
        if self.regression:
            counted = ~labels.isnan()
            each = torch.where(counted, (logits[:, 0] - labels.nan_to_num()) ** 2, 0.0)
            return RowLosses(each, counted.long(), None)
        each = torch.nn.functional.cross_entropy(
            logits, labels, reduction="none", ignore_index=IGNORED, label_smoothing=self.label_smoothing
        )
        return RowLosses(each, (labels != IGNORED).long(), (logits.argmax(-1) == labels).sum())


def loss_of(config: RunConfig, model: Any) -> CausalLoss | LabelLoss:
    """The loss of the config's task on its model."""
    smoothing = float(config.training.arguments.get("label_smoothing_factor") or 0.0)
    if config.task_type == "causal_lm":
        return CausalLoss(model, label_smoothing=smoothing)
    return LabelLoss(regression=config.task_type == "regression", label_smoothing=smoothing)

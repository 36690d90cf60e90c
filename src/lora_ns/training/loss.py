"""What training makes small: the loss of a batch, with logits only at the places that carry loss.

Four in five positions of a batch are prompt or padding.  Their hidden states are dropped before the output layer, which
for a large vocabulary is a third of the whole computation; on GPUs TRL's fused output layer does the same in tiles.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from lora_ns.config import RunConfig
from lora_ns.training.collate import IGNORED
from lora_ns.training.entropy import token_entropy
from lora_ns.training.flat import flatten, read_flat, reads_flat
from lora_ns.training.last_layer import narrow


@dataclass(frozen=True)
class Losses:
    """Of each supervised token of a batch, or of each labelled row: values [N] float32 (nats; squared errors).

    places [N]: where each is in the batch's owners, flattened.  correct [N]: whether its label was the likeliest; None for
    numbers.
    """

    values: Any
    places: Any
    correct: Any


class CausalLoss:
    """Next-token cross-entropy (nats) of each supervised token."""

    accuracy = "mean_token_accuracy"

    def __init__(self, model: Any, *, label_smoothing: float = 0.0, shortcuts: bool = True, flat: bool = False):
        """model: base or PEFT model, before it is wrapped for several processes.  shortcuts: where there are any.

        flat: whether it reads a batch's rows as one, which `reads_flat` says it can.
        """
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.rows = "flat" if flat else "padded"
        if flat:
            read_flat(base)
        self.label_smoothing = label_smoothing
        self.kind = _kind_of(base) if shortcuts else "whole"
        """fused (TRL's tiles), compact (the output layer sees supervised positions only) or whole (all logits)."""
        if self.kind == "fused":
            from trl.trainer.utils import add_fused_lm_head

            add_fused_lm_head(base, outputs=("log_probs", "is_top1"))
        elif self.kind == "compact":
            self._compact = _CompactHead(model, base)
        self._masks = self.kind == "whole" or not _looks_back_only(model, base)

    def count(self, inputs: dict[str, Any]) -> Any:
        """What the mean over a batch divides by, of a part of it: its supervised tokens."""
        return (inputs["labels"][:, 1:] != IGNORED).sum()

    def __call__(self, model: Any, inputs: dict[str, Any]) -> Losses:
        """The losses of a batch.  model: wrapped or not."""
        import torch

        labels = inputs["labels"]
        carried = labels[:, 1:] != IGNORED
        places = (torch.arange(labels.numel(), device=labels.device).view_as(labels)[:, 1:])[carried]
        if self.rows == "flat":
            inputs = flatten(inputs)
            labels = inputs["labels"]
            carried = labels[:, 1:] != IGNORED
        elif not self._masks:  # padding stands on the right, where no token looks: without a mask attention is quicker
            inputs = {name: value for name, value in inputs.items() if name != "attention_mask"}
        if self.kind == "fused" and not self.label_smoothing:
            output = model(**inputs, use_cache=False, fused_lm_head=True)
            width = carried.size(1)  # a trained prompt stands before the tokens
            return Losses(-output.log_probs[:, -width:][carried].float(), places, output.is_top1[:, -width:][carried])
        if self.kind == "compact":
            logits, targets = self._compact(model, inputs)
        else:
            rest = {name: value for name, value in inputs.items() if name != "labels"}
            logits = model(**rest, use_cache=False).logits[:, -labels.size(1) :][:, :-1][carried]
            targets = labels[:, 1:][carried]
        logits = logits.float()
        if not self.label_smoothing:
            values, correct = token_entropy(logits, targets)
            return Losses(values, places, correct)
        with torch.no_grad():
            correct = logits.gather(1, targets[:, None])[:, 0] >= logits.amax(-1) if len(targets) else targets
        smooth: dict[str, Any] = {"reduction": "none", "label_smoothing": self.label_smoothing}
        return Losses(torch.nn.functional.cross_entropy(logits, targets, **smooth), places, correct)

    def by_owner(self, model: Any, inputs: dict[str, Any], owners: Any, count: int) -> tuple[Any, Any]:
        """(sum of losses, number of right answers) [count] of each owner of a batch's rows.  owners: [B]."""
        return _summed(self(model, inputs), owners[:, None].expand_as(inputs["labels"]).reshape(-1), count)


def _kind_of(base: Any) -> str:
    import torch

    if getattr(base.config.get_text_config(), "output_router_logits", False):
        return "whole"  # the experts' balance is a part of the model's own loss
    if torch.cuda.is_available():
        return "fused"
    source = inspect.getsource(type(base).forward)
    is_usual = "self.loss_function(" in source and base.get_output_embeddings() is not None
    return "compact" if is_usual else "whole"


def _looks_back_only(model: Any, base: Any) -> bool:
    """Whether each position's output hangs on those before it alone, whatever a mask says of those behind."""
    prompted = hasattr(model, "peft_config") and model.active_peft_config.is_prompt_learning
    settings = base.config.get_text_config()
    kinds = set(getattr(settings, "layer_types", None) or ["full_attention"])
    usual = getattr(base, "_supports_attention_backend", False) and kinds <= {"full_attention", "sliding_attention"}
    return usual and not prompted and getattr(settings, "is_causal", True)


@dataclass
class _Chosen:
    """The batch of the moment: its labels and the places before them, and the logits that came of it."""

    labels: Any = None
    places: Any = None
    logits: Any = None


class _CompactHead:
    """Hooks by which the model's own forward computes logits, scaled and capped as it does, of chosen positions only."""

    def __init__(self, model: Any, base: Any):
        self._now, self._base = _Chosen(), base
        for entered in dict.fromkeys((model, base)):  # AdaLoRA calls the base's forward past its hooks
            entered.register_forward_pre_hook(self._note_labels, with_kwargs=True)
        base.loss_function = self._keep_logits
        self._head: Any = None
        self._is_narrow = narrow(base, lambda: self._now.places)

    def __call__(self, model: Any, inputs: dict[str, Any]) -> tuple[Any, Any]:
        """(logits [N, V], targets [N]) of the N supervised positions, row by row."""
        head = self._base.get_output_embeddings()  # PEFT may have put another in its place
        if head is not self._head:
            head.register_forward_pre_hook(self._drop_positions)
            self._head = head
        model(**inputs, use_cache=False)
        logits, self._now.logits = self._now.logits, None
        labels = self._now.labels[:, 1:]
        return logits, labels[labels != IGNORED]

    def _note_labels(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        """What is read of the forward pass that comes, and of those that checkpoints make of it again.

        At the base whatever stands before the tokens by now (a trained prompt) has its labels too.
        """
        import torch

        labels, places = kwargs.get("labels"), None
        if labels is not None:
            next_ones = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
            places = (next_ones != IGNORED).view(-1).nonzero()[:, 0]
        self._now.labels, self._now.places = labels, places

    def _drop_positions(self, module: Any, args: tuple[Any, ...]) -> Any:
        if self._now.places is None or self._is_narrow:
            return None
        return (args[0].reshape(-1, args[0].size(-1)).index_select(0, self._now.places)[None], *args[1:])

    def _keep_logits(self, logits: Any, labels: Any, *_: Any, **__: Any) -> Any:
        self._now.logits = logits.squeeze(0)
        return logits.new_zeros(())


class LabelLoss:
    """Cross-entropy (nats) of each row's class, or the squared error of its number."""

    kind, rows = "whole", "padded"
    accuracy = "accuracy"

    def __init__(self, *, regression: bool, label_smoothing: float = 0.0):
        self.regression, self.label_smoothing = regression, label_smoothing

    def count(self, inputs: dict[str, Any]) -> Any:
        """What the mean over a batch divides by, of a part of it: its rows with a label."""
        return self._counted(inputs["labels"]).sum()

    def _counted(self, labels: Any) -> Any:
        return ~labels.isnan() if self.regression else labels != IGNORED

    def __call__(self, model: Any, inputs: dict[str, Any]) -> Losses:
        """The losses of a batch.  model: wrapped or not."""
        import torch

        labels = inputs["labels"]
        logits = model(**{name: value for name, value in inputs.items() if name != "labels"}).logits.float()
        places = self._counted(labels).nonzero()[:, 0]
        logits, labels = logits[places], labels[places]
        if self.regression:
            return Losses((logits[:, 0] - labels) ** 2, places, None)
        values = torch.nn.functional.cross_entropy(
            logits, labels, reduction="none", label_smoothing=self.label_smoothing
        )
        return Losses(values, places, logits.argmax(-1) == labels)

    def by_owner(self, model: Any, inputs: dict[str, Any], owners: Any, count: int) -> tuple[Any, Any]:
        """(sum of losses, number of right answers) [count] of each owner of a batch's rows.  owners: [B]."""
        return _summed(self(model, inputs), owners, count)


def _summed(losses: Losses, owners: Any, count: int) -> tuple[Any, Any]:
    mine = owners[losses.places]
    right = losses.values.new_zeros(count)
    if losses.correct is not None:
        right = right.index_add(0, mine, losses.correct.to(right.dtype))
    return losses.values.new_zeros(count).index_add(0, mine, losses.values), right


def loss_of(config: RunConfig, model: Any, *, flat: bool | None = None) -> CausalLoss | LabelLoss:
    """The loss of the config's task on its model.  flat: whether rows are read as one, by default where they can be."""
    smoothing = float(config.training.arguments.get("label_smoothing_factor") or 0.0)
    if config.task_type == "causal_lm":
        flat = reads_flat(model, config) if flat is None else flat
        return CausalLoss(model, label_smoothing=smoothing, shortcuts=config.training.shortcuts, flat=flat)
    return LabelLoss(regression=config.task_type == "regression", label_smoothing=smoothing)

"""What methods that move rank between layers while they train (AdaLoRA, AdaMSS) need beside the loss of the rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

STATE = "ranks.pt"
"""In a checkpoint: what the moving hangs on, beside the weights."""
_IMPORTANCE = ("ipt", "exp_avg_ipt", "exp_avg_unc")


class MovesRank(TrainerCallback):
    """Lets the method move rank after each step, while the gradients are still there."""

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        model.base_model.update_and_allocate(state.global_step + 1)


def moves_rank(model: Any) -> bool:
    """Whether the model's method does."""
    return hasattr(getattr(model, "base_model", None), "update_and_allocate")


def orthogonality(model: Any) -> Any | None:
    """AdaLoRA's own part of the loss, which keeps P and Q orthogonal; None for other methods.

    The weighted mean of |PᵀP - I| over the matrices, as PEFT has it (Zhang et al. 2023, AdaLoRA, section 3.1; there the
    squared norm), which would add it only where the model's own loss is asked for.
    """
    if not _is_adalora(model):
        return None
    adapter = model.base_model.trainable_adapter_name
    weight = model.peft_config[adapter].orth_reg_weight
    norms = []
    for name, matrix in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            gram = matrix @ matrix.T if "lora_A" in name else matrix.T @ matrix
            norms.append(torch.linalg.matrix_norm(gram - torch.eye(len(gram)).to(gram)))
    return weight * torch.stack(norms).mean()


def save(model: Any, folder: Path) -> None:
    """Keeps in a checkpoint the adapter at its full ranks, which PEFT's own file cuts, and what the next moving hangs on."""
    if _is_adalora(model):
        allocator = model.base_model.rankallocator
        importance = {name: getattr(allocator, name) for name in _IMPORTANCE}
        weights = {name: tensor.detach() for name, tensor in model.named_parameters() if tensor.requires_grad}
        pattern = allocator.peft_config.rank_pattern
        torch.save({"importance": importance, "weights": weights, "pattern": pattern}, folder / STATE)


def restore(model: Any, folder: Path) -> None:
    """Takes it up again, weights and all."""
    kept = torch.load(folder / STATE, weights_only=True, map_location="cpu")
    allocator = model.base_model.rankallocator
    for name, values in kept["importance"].items():
        getattr(allocator, name).update({key: value.to(model.device) for key, value in values.items()})
    allocator.peft_config.rank_pattern = kept["pattern"]
    model.load_state_dict(kept["weights"], strict=False)


def is_kept_here(model: Any) -> bool:
    """Whether a checkpoint's weights are those of `save`, not PEFT's own."""
    return _is_adalora(model)


def can_resume(model: Any) -> bool:
    """Whether a checkpoint holds all that is needed; not so where AdaMSS masks subspaces."""
    return not any(getattr(stated, "use_asa", False) for stated in getattr(model, "peft_config", {}).values())


def _is_adalora(model: Any) -> bool:
    return hasattr(getattr(model, "base_model", None), "rankallocator")

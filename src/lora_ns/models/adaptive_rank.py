"""Support for methods that reallocate rank between layers during training (AdaLoRA, AdaMSS)."""

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

STATE = "ranks.pt"
"""File in a checkpoint with the rank allocator's state and the full-rank weights."""
_IMPORTANCE = ("ipt", "exp_avg_ipt", "exp_avg_unc")


class MovesRank(TrainerCallback):
    """Reallocates rank after each optimiser step, before the gradients are cleared."""

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        model.base_model.update_and_allocate(state.global_step + 1)


def moves_rank(model: Any) -> bool:
    """Whether the model's method reallocates rank."""
    return hasattr(getattr(model, "base_model", None), "update_and_allocate")


def orthogonality(model: Any) -> Any | None:
    """AdaLoRA's orthogonality loss for P and Q.  None for other methods.

    The weighted mean of |PᵀP - I| over the matrices, as in PEFT (Zhang et al. 2023, AdaLoRA, section 3.1, has the squared
    norm).  PEFT adds it only to the loss that the model itself computes.
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
    """Save AdaLoRA's full-rank weights, which PEFT's file truncates, and the rank allocator's state in a checkpoint."""
    if _is_adalora(model):
        allocator = model.base_model.rankallocator
        importance = {name: getattr(allocator, name) for name in _IMPORTANCE}
        weights = {name: tensor.detach() for name, tensor in model.named_parameters() if tensor.requires_grad}
        pattern = allocator.peft_config.rank_pattern
        torch.save({"importance": importance, "weights": weights, "pattern": pattern}, folder / STATE)


def restore(model: Any, folder: Path) -> None:
    """Load the weights and the rank allocator's state from a checkpoint."""
    kept = torch.load(folder / STATE, weights_only=True, map_location="cpu")
    allocator = model.base_model.rankallocator
    for name, values in kept["importance"].items():
        getattr(allocator, name).update({key: value.to(model.device) for key, value in values.items()})
    allocator.peft_config.rank_pattern = kept["pattern"]
    model.load_state_dict(kept["weights"], strict=False)


def is_kept_here(model: Any) -> bool:
    """Whether a checkpoint's weights are in the file of `save` instead of PEFT's."""
    return _is_adalora(model)


def can_resume(model: Any) -> bool:
    """Whether training can resume from a checkpoint.  It cannot if AdaMSS masks subspaces (use_asa)."""
    return not any(getattr(stated, "use_asa", False) for stated in getattr(model, "peft_config", {}).values())


def _is_adalora(model: Any) -> bool:
    return hasattr(getattr(model, "base_model", None), "rankallocator")

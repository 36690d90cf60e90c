"""A trained adapter as files: written by PEFT, in a stable order, and read back."""

import json
from pathlib import Path
from typing import Any

from lora_ns.errors import TrainingError


def save_trained(model: Any, folder: Path, initial: dict[str, Any] | None = None, weights: dict[str, Any] | None = None) -> None:
    """Save the trained weights as safetensors, without PEFT's empty model card.

    weights: the full state dict, if the model in memory holds only a part of it.

    initial: the result of `initial_factors`.  If given, the adapter is saved with twice the rank, as [A; A₀] and [B, −B₀],
    since W_rest + s·B·A = W + s·(B·A − B₀·A₀).  It then fits the unchanged base model on any machine.  PEFT's own format
    would repeat the initialisation at loading, which needs the same random numbers or the same data.
    """
    model.save_pretrained(folder, **({} if weights is None else {"state_dict": weights}))
    (folder / "README.md").unlink(missing_ok=True)
    _sort_sets(model, folder)
    _check_saved(model, folder)
    if initial is not None:
        _save_as_difference(folder, initial)


def write_weights(folder: Path, weights: dict[str, Any], initial: dict[str, Any] | None = None) -> None:
    """Overwrite the weights of an adapter saved by `save_trained`.  weights: name in the file -> tensor.  initial: as there."""
    from safetensors.torch import save_file

    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    if initial is not None:
        _save_as_difference(folder, initial)


def _sort_sets(model: Any, folder: Path) -> None:
    """PEFT writes sets, such as the modules, in an order that is another one in every process."""
    path = folder / "adapter_config.json"
    if not path.is_file():
        return
    said = json.loads(path.read_text(encoding="utf-8"))
    for settings in model.peft_config.values():
        said |= {key: sorted(value) for key, value in vars(settings).items() if isinstance(value, set) and key in said}
    path.write_text(json.dumps(said, indent=2, sort_keys=True), encoding="utf-8")


def _check_saved(model: Any, folder: Path) -> None:
    """Raises TrainingError if PEFT saved no tensors.  Adds X-LoRA's classifier if it is missing."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    path = folder / "adapter_model.safetensors"
    if not hasattr(model, "peft_config") or not path.is_file():
        return
    with safe_open(path, "pt") as file:
        if list(file.keys()):
            return
    # PEFT takes the mixer's layer 0 for a part of expert 0, and leaves it out
    mixer = {name: tensor for name, tensor in model.state_dict().items() if "internal_xlora_classifier" in name}
    if not mixer:
        raise TrainingError(f"PEFT {model.active_peft_config.peft_type.value} saved nothing of what was trained.")
    save_file(mixer, path, metadata={"format": "pt"})


def _save_as_difference(folder: Path, initial: dict[str, Any]) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    for name, tensor in weights.items():
        if name.endswith("lora_A.weight"):
            weights[name] = torch.cat([tensor, initial[name].to(tensor)], dim=0)
        elif name.endswith("lora_B.weight"):
            weights[name] = torch.cat([tensor, -initial[name].to(tensor)], dim=1)
    save_file(weights, path, metadata={"format": "pt"})
    settings = json.loads((folder / "adapter_config.json").read_text())
    growth = 2**0.5 if settings["use_rslora"] else 2  # keeps alpha / r, or alpha / sqrt(r), as it was
    settings |= {
        "init_lora_weights": True,
        "r": settings["r"] * 2,
        "lora_alpha": settings["lora_alpha"] * growth,
        "rank_pattern": {name: rank * 2 for name, rank in (settings["rank_pattern"] or {}).items()},
        "alpha_pattern": {name: alpha * growth for name, alpha in (settings["alpha_pattern"] or {}).items()},
        "corda_config": None,
        "lora_ga_config": None,
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")

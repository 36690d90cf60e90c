"""Optimisers that treat LoRA's two matrices apart: LoRA+, LoRA-FA and Riemannian preconditioning, as PEFT has them."""

from __future__ import annotations

from typing import Any

from lora_ns.config import RunConfig
from lora_ns.config.method_constraints import OPTIMIZERS_OF_LORA
from lora_ns.errors import ConfigError

SETTINGS: dict[str, dict[str, float]] = {
    "loraplus": {"loraplus_lr_ratio": 16.0, "loraplus_lr_embedding": 1e-6},
    "lora_fa": {},
    "riemannian": {"reg": 1e-2},
}
"""What `training.optim_args` may say (`loraplus_lr_ratio=16`), and what holds otherwise."""


def lora_optimizer(model: Any, config: RunConfig) -> Any | None:
    """The optimiser of `training.optim` where it is one of PEFT's, else None (transformers makes its own).

    loraplus    B learns loraplus_lr_ratio times as fast as A (Hayou et al. 2024, arXiv 2402.12354)
    lora_fa     A stays as it was drawn, B follows the full gradient's projection (Zhang et al. 2023, arXiv 2308.03303)
    riemannian  each gradient is preconditioned by the other matrix (Zhang and Pilanci 2024, arXiv 2402.02347)

    model: PEFT model on the device it is trained on.  Raises ConfigError for settings that the optimiser lacks.
    """
    optim, training = config.training.optim, config.training
    if optim not in OPTIMIZERS_OF_LORA:
        return None
    import torch
    from peft.optimizers import create_lorafa_optimizer, create_loraplus_optimizer, create_riemannian_optimizer

    settings = _settings(optim, training.arguments.get("optim_args"))
    if optim == "lora_fa":
        peft_config = model.peft_config["default"]
        return create_lorafa_optimizer(
            model, r=peft_config.r, lora_alpha=peft_config.lora_alpha, lr=training.learning_rate,
            weight_decay=training.weight_decay,
        )  # fmt: skip
    stated = training.arguments
    adam = {"betas": (stated.get("adam_beta1", 0.9), stated.get("adam_beta2", 0.999)), "eps": stated.get("adam_epsilon", 1e-8)}
    if optim == "loraplus":
        decay = {"loraplus_weight_decay": training.weight_decay}
        return create_loraplus_optimizer(model, torch.optim.AdamW, lr=training.learning_rate, **settings, **decay, **adam)
    return create_riemannian_optimizer(
        model, torch.optim.AdamW, lr=training.learning_rate, weight_decay=training.weight_decay, **settings, **adam
    )


def _settings(optim: str, stated: str | None) -> dict[str, float]:
    """`a=1,b=2` over the optimiser's own settings."""
    settings = dict(SETTINGS[optim])
    for pair in (stated or "").replace(" ", "").split(","):
        if not pair:
            continue
        key, _, value = pair.partition("=")
        if key not in settings:
            known = ", ".join(settings) or "none"
            raise ConfigError(f"training.optim_args: {optim} has no setting {key!r}; it has: {known}.")
        try:
            settings[key] = float(value)
        except ValueError:
            raise ConfigError(f"training.optim_args: {key}: expected a number, found {value!r}.") from None
    return settings

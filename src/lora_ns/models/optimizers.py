"""PEFT's optimisers that treat LoRA's A and B differently: LoRA+, LoRA-FA, Riemannian preconditioning."""

from typing import Any

from lora_ns.config import RunConfig
from lora_ns.config.method_constraints import OPTIMIZERS_OF_LORA
from lora_ns.errors import ConfigError

SETTINGS: dict[str, dict[str, float]] = {
    "loraplus": {"loraplus_lr_ratio": 16.0, "loraplus_lr_embedding": 1e-6},
    "lora_fa": {},
    "riemannian": {"reg": 1e-2},
}
"""Optimiser -> settings allowed in `training.optim_args` (`loraplus_lr_ratio=16`) and their defaults."""


def lora_optimizer(model: Any, config: RunConfig) -> Any | None:
    """Return the optimiser of `training.optim` if it is one of PEFT's, else None (transformers makes its own).

    loraplus    B's learning rate is loraplus_lr_ratio times A's (Hayou et al. 2024, arXiv 2402.12354)
    lora_fa     A is frozen, B follows the full gradient's projection (Zhang et al. 2023, arXiv 2308.03303)
    riemannian  each gradient is preconditioned by the other matrix (Zhang and Pilanci 2024, arXiv 2402.02347)

    model: PEFT model on its training device.  Raises ConfigError for settings that the optimiser lacks.
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
    """Return the optimiser's settings, overridden by `optim_args` such as `a=1,b=2`.  Raises ConfigError."""
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

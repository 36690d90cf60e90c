"""Where a run starts: base model, method and head as seed and settings make them, the same each time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lora_ns.calibration import Calibration
from lora_ns.config import RunConfig
from lora_ns.methods import attach
from lora_ns.models import best_device, load_base, make_deterministic, weights_folder
from lora_ns.store import Store
from lora_ns.training.collate import Collate


def starting_model(
    config: RunConfig, store: Store, rows: Sequence[dict[str, Any]], collate: Collate, steps: int, base: Any = None
) -> Any:
    """The base model with the method on it, initialised by the run's own rows where the method asks for them.

    steps: optimiser steps of the run.  base: a base model as `load_base` gives it, to be changed; else it is loaded.
    """
    make_deterministic(config.seed, shortcuts=config.training.shortcuts)
    base = load_base(config, store) if base is None else base
    make_deterministic(config.seed, shortcuts=config.training.shortcuts)  # however many numbers loading drew
    calibration, base_weights = None, None
    if config.peft.calibration_rows is not None:
        base = base.to(best_device())
        calibration = Calibration(rows, collate, config.peft.calibration_rows, config.seed)
    if config.peft.fields.get("init_lora_weights") == "loftq" and config.model.quantization == "4bit":
        base_weights = weights_folder(config.model, store)
    return attach(base, config, calibration=calibration, base_weights=base_weights, steps=steps)

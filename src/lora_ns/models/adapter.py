"""The method on the base model: attached for training, saved, and put back on for evaluation."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from lora_ns.config import RunConfig
from lora_ns.config.method_constraints import takes_out_of_base
from lora_ns.errors import ConfigError, DataError
from lora_ns.models.base_model import load_base
from lora_ns.models.lora_init import INITIALISATIONS, Calibration, initialise_loftq
from lora_ns.models.peft_config import build_peft_config, reason_of
from lora_ns.store.artifact import is_finished
from lora_ns.store.integrity import load_verified
from lora_ns.store.run import Run

REFUSALS = (
    re.error,  # a pattern of target_modules that is none
    SafetensorError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    NotImplementedError,
    ImportError,
    RuntimeError,
    AssertionError,
)
"""Exceptions that PEFT raises if the method does not fit the model."""


def apply_method(
    model: Any,
    config: RunConfig,
    *,
    calibration: Calibration | None = None,
    base_weights: Path | None = None,
    steps: int | None = None,
) -> Any:
    """Return the model with only the method's parameters trainable.

    calibration: rows for a data-driven initialisation.  base_weights: folder of the base model's unquantised weights, for
    LoftQ.  steps: optimiser steps of the run, for AdaLoRA's schedule.
    Random initialisation uses torch's current random state, so set the seed first.
    Raises ConfigError with PEFT's reason if the method does not fit the model.
    """
    method = config.peft.method
    if method == "none":
        return model.requires_grad_(False)
    if method == "full":
        return model.requires_grad_(True)
    from peft import get_peft_model, prepare_model_for_kbit_training

    peft_config = build_peft_config(config, steps=steps)
    if config.model.quantization != "none":
        checkpointing = bool(config.training.arguments.get("gradient_checkpointing"))
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=checkpointing)
    _fit_to_base(peft_config, model)
    try:
        if config.peft.fields.get("init_lora_weights") in INITIALISATIONS:
            assert calibration is not None, "a data-driven initialisation needs rows to look at"
            attached = INITIALISATIONS[peft_config.init_lora_weights](model, peft_config, calibration)
        elif base_weights is not None:
            peft_config.init_lora_weights, peft_config.loftq_config = True, {}
            attached = get_peft_model(model, peft_config)
            initialise_loftq(attached, base_weights)
        else:
            attached = get_peft_model(model, peft_config)
    except REFUSALS as error:
        raise ConfigError(f"peft.method {method} does not fit {config.model.name_or_path}: {reason_of(error)}") from error
    return _prepared(attached)


def _fit_to_base(peft_config: Any, model: Any) -> None:
    """Set what X-LoRA needs from the base model's config, which PEFT leaves to its caller."""
    if str(peft_config.peft_type.value) == "XLORA":
        model.config.use_cache = False  # the mix changes with every token, so earlier keys and values do not hold
        peft_config.hidden_size = model.config.hidden_size


def _prepared(model: Any) -> Any:
    """Return the PEFT model with workarounds for IA3, MPT and Poly.  Called after attaching and after loading."""
    for peft_config in model.peft_config.values():
        feedforward, targets = (getattr(peft_config, key, None) for key in ("feedforward_modules", "target_modules"))
        if isinstance(feedforward, set) and isinstance(targets, set):
            peft_config.feedforward_modules = feedforward & targets  # IA3 saves more, which its own loading refuses
    for module in model.modules():
        if _wants_task_ids(module):
            module.register_forward_pre_hook(_first_task, with_kwargs=True)
    return model


def _wants_task_ids(module: Any) -> bool:
    """Whether the module needs task ids.  A run has one task, with the id 0."""
    from peft.tuners.multitask_prompt_tuning.model import MultitaskPromptEmbedding
    from peft.tuners.poly.layer import PolyLayer

    return isinstance(module, (MultitaskPromptEmbedding, PolyLayer))


def _first_task(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments with task_ids.  If none are given, each row of the batch gets id 0."""
    import torch

    given = args[1] if len(args) > 1 else kwargs.get("task_ids")
    if given is None:
        given = torch.zeros(len(args[0]), dtype=torch.long, device=args[0].device)
    return args[:1], {**kwargs, "task_ids": given}


def initial_factors(model: Any, config: RunConfig) -> dict[str, Any] | None:
    """Return copies of the initial A and B if the initialisation subtracts them from the base weights, else None."""
    if not takes_out_of_base(config.peft.fields.get("init_lora_weights")):
        return None
    from peft import get_peft_model_state_dict

    return {name: tensor.detach().cpu().clone() for name, tensor in get_peft_model_state_dict(model).items()}


def load_trained(run: Run, adapter: Path) -> Any:
    """Return the trained model: base model and adapter, or all weights.  Raises DataError for an unreadable adapter."""
    method = run.config.peft.method
    if method == "none":
        return load_base(run)
    if method == "full":
        _refuse_damaged(adapter)
        return load_base(run, place=str(adapter))
    return load_adapter(load_base(run), adapter, run.config.model.name_or_path)


def _refuse_damaged(adapter: Path) -> None:
    """Raises DamagedError if the adapter differs from its record.  An adapter from elsewhere has no record."""
    if is_finished(adapter):
        load_verified(adapter)


def load_adapter(base: Any, adapter: Path, base_name: str, *, name: str = "default") -> Any:
    """Return the base model with the PEFT adapter loaded under `name`.  Raises DataError if the adapter does not fit."""
    from peft import PeftConfig, PeftModel

    with _reading(adapter, base_name):
        peft_config = PeftConfig.from_pretrained(str(adapter))
        _fit_to_base(peft_config, base)
        return _prepared(PeftModel.from_pretrained(base, str(adapter), adapter_name=name))


def add_adapter(model: Any, adapter: Path, base_name: str, *, name: str) -> None:
    """Load one more PEFT adapter into a PEFT model, under `name`.  Raises DataError if the adapter does not fit."""
    with _reading(adapter, base_name):
        model.load_adapter(str(adapter), adapter_name=name)


@contextmanager
def _reading(adapter: Path, base_name: str) -> Iterator[None]:
    _refuse_damaged(adapter)
    try:
        with warnings.catch_warnings():  # AdaLoRA keeps its ranks where LoRA's loading looks for names of layers
            warnings.filterwarnings("ignore", message="The following rank_pattern keys did not match")
            yield
    except (OSError, *REFUSALS) as error:
        raise DataError(f"the adapter {adapter} cannot be put on {base_name}: {reason_of(error)}") from error


def unload_adapter(model: Any) -> None:
    """Remove the PEFT adapter from its base model."""
    base = model.get_base_model()
    if not model.active_peft_config.is_prompt_learning:
        model.unload()
    vars(base).pop("prepare_inputs_for_generation", None)  # PEFT's generate leaves a copy of the base's own there


@contextmanager
def without_adapter(model: Any) -> Iterator[Any]:
    """Yield the model with adapter and trained head disabled.  A model without PEFT is yielded unchanged."""
    if not hasattr(model, "disable_adapter"):
        yield model
    elif model.active_peft_config.is_prompt_learning:
        with _without_prompt(model):
            yield model
    else:
        with model.disable_adapter():
            yield model


@contextmanager
def _without_prompt(model: Any) -> Iterator[None]:
    """Disable prompt and trained heads.  PEFT's disable_adapter() fails for classifiers: it needs generation methods."""
    from peft.utils import ModulesToSaveWrapper

    heads = [module for module in model.modules() if isinstance(module, ModulesToSaveWrapper)]
    model.forward = model.base_model.forward
    for head in heads:
        head.enable_adapters(False)
    try:
        yield
    finally:
        del model.forward
        for head in heads:
            head.enable_adapters(True)


def count_parameters(model: Any) -> tuple[int, int]:
    """Return (trainable, total) parameters.  Quantised weights count as unpacked."""
    if hasattr(model, "get_nb_trainable_parameters"):
        trainable, total = model.get_nb_trainable_parameters()
        return int(trainable), int(total)
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, wanted in sizes if wanted), sum(n for n, _ in sizes)

"""The method on the base model: attached for training, saved, and put back on for evaluation."""

from __future__ import annotations

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
"""What PEFT raises where method and model do not go together."""


def apply_method(
    model: Any,
    config: RunConfig,
    *,
    calibration: Calibration | None = None,
    base_weights: Path | None = None,
    steps: int | None = None,
) -> Any:
    """The model with what the method trains, and nothing else, trainable.

    calibration: rows that a data-driven initialisation looks at.  base_weights: folder of the base's unquantised weights,
    which LoftQ compares with.  steps: optimiser steps of the run, which AdaLoRA's schedule is laid over.
    Random initialisation is drawn from torch's current state: seed before.
    Raises ConfigError with PEFT's own reason where method and model do not go together.
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
    """What PEFT asks of the caller to know of the base model."""
    if str(peft_config.peft_type.value) == "XLORA":
        model.config.use_cache = False  # the mix changes with every token, so earlier keys and values do not hold
        peft_config.hidden_size = model.config.hidden_size


def _prepared(model: Any) -> Any:
    """The PEFT model with the corners rounded off that its method has; the same after attaching and after loading."""
    for peft_config in model.peft_config.values():
        feedforward, targets = (getattr(peft_config, key, None) for key in ("feedforward_modules", "target_modules"))
        if isinstance(feedforward, set) and isinstance(targets, set):
            peft_config.feedforward_modules = feedforward & targets  # IA3 saves more, which its own loading refuses
    for module in model.modules():
        if _wants_task_ids(module):
            module.register_forward_pre_hook(_first_task, with_kwargs=True)
    return model


def _wants_task_ids(module: Any) -> bool:
    """Whether the module mixes by task: a run is one task, its number 0."""
    from peft.tuners.multitask_prompt_tuning.model import MultitaskPromptEmbedding
    from peft.tuners.poly.layer import PolyLayer

    return isinstance(module, (MultitaskPromptEmbedding, PolyLayer))


def _first_task(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """task_ids 0 for every row of the batch, where none are given."""
    import torch

    given = args[1] if len(args) > 1 else kwargs.get("task_ids")
    if given is None:
        given = torch.zeros(len(args[0]), dtype=torch.long, device=args[0].device)
    return args[:1], {**kwargs, "task_ids": given}


# -- on disk -----------------------------------------------------------------------------------------------------------


def initial_factors(model: Any, config: RunConfig) -> dict[str, Any] | None:
    """A and B as they stand before training, where they were taken out of the base's weights; else None."""
    if not takes_out_of_base(config.peft.fields.get("init_lora_weights")):
        return None
    from peft import get_peft_model_state_dict

    return {name: tensor.detach().cpu().clone() for name, tensor in get_peft_model_state_dict(model).items()}


def load_trained(run: Run, adapter: Path) -> Any:
    """The trained model: base and adapter, or all weights.  Raises DataError for an adapter that cannot be read."""
    method = run.config.peft.method
    if method == "none":
        return load_base(run)
    if method == "full":
        _refuse_damaged(adapter)
        return load_base(run, place=str(adapter))
    return load_adapter(load_base(run), adapter, run.config.model.name_or_path)


def _refuse_damaged(adapter: Path) -> None:
    """An adapter of somebody else's has no record to be checked against."""
    if is_finished(adapter):
        load_verified(adapter)


def load_adapter(base: Any, adapter: Path, base_name: str, *, name: str = "default") -> Any:
    """The PEFT adapter in a folder on its base model, under a name.  Raises DataError where they do not go together."""
    from peft import PeftConfig, PeftModel

    with _reading(adapter, base_name):
        peft_config = PeftConfig.from_pretrained(str(adapter))
        _fit_to_base(peft_config, base)
        return _prepared(PeftModel.from_pretrained(base, str(adapter), adapter_name=name))


def put_beside(model: Any, adapter: Path, base_name: str, *, name: str) -> None:
    """The PEFT adapter in a folder put beside those that a model has.  Raises DataError where they do not go together."""
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
    """Takes a PEFT adapter off again, so that its base stands alone."""
    base = model.get_base_model()
    if not model.active_peft_config.is_prompt_learning:
        model.unload()
    vars(base).pop("prepare_inputs_for_generation", None)  # PEFT's generate leaves a copy of the base's own there


@contextmanager
def without_adapter(model: Any) -> Iterator[Any]:
    """The model as its base alone, with the head it had before training; a model that is no PEFT model stays as it is."""
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
    """PEFT's own way fails for classifiers: it asks for what only generation has."""
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
    """(trainable, total) parameters; of quantised weights the unpacked number."""
    if hasattr(model, "get_nb_trainable_parameters"):
        trainable, total = model.get_nb_trainable_parameters()
        return int(trainable), int(total)
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, wanted in sizes if wanted), sum(n for n, _ in sizes)

"""PEFT adapters: attach one to the base model for training, save it, and load it for evaluation."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from lora_ns.config import RunConfig
from lora_ns.config.library_fields import cache_folder, keep
from lora_ns.config.method_constraints import takes_out_of_base
from lora_ns.errors import ConfigError, DataError, TrainingError
from lora_ns.models.base_model import load_base
from lora_ns.models.lora_init import INITIALISATIONS, Calibration, initialise_loftq
from lora_ns.store.artifact import is_finished
from lora_ns.store.digests import digest_of
from lora_ns.store.integrity import load_verified
from lora_ns.store.run import Run

TASK_TYPES = {"causal_lm": "CAUSAL_LM", "classification": "SEQ_CLS", "regression": "SEQ_CLS"}
"""Config task type -> PEFT task type."""

REFUSALS = (
    re.error,  # target_modules is not a valid regular expression
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


def build_peft_config(config: RunConfig, *, steps: int | None = None) -> Any:
    """Return the PEFT config object for the `peft` section.  Raises ConfigError with PEFT's reason."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftType

    config_class: Any = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(config.peft.method.upper())]
    method, fields = config.peft.method, config.peft.fields
    if method == "adalora" and fields.get("total_step") is None and steps is not None:
        # AdaLoRA's schedule: full rank for the first tenth of the steps, final ranks for the last third
        fields = {"tinit": steps // 10, "tfinal": max(1, steps // 3), **fields, "total_step": steps}
    if method == "xlora" and fields.get("adapters"):
        # PEFT numbers the experts when it loads them, and later looks them up by number
        fields["adapters"] = {str(number): path for number, path in enumerate(dict(fields["adapters"]).values())}
    try:
        return config_class(task_type=TASK_TYPES[config.task_type], **fields)
    except (ValueError, TypeError, ImportError, NotImplementedError, AttributeError) as error:
        raise ConfigError(f"peft: {config_class.__name__} refuses these settings: {reason_of(error)}") from error


def check_peft_config(config: RunConfig) -> None:
    """Raises ConfigError if `build_peft_config` would.

    The verdict is saved in the user's cache folder, so the next call does not import PEFT.
    """
    path = cache_folder() / f"peft-{version('peft')}-verdicts.json"
    key = digest_of({"task_type": config.task_type, "peft": config.peft.model_dump()})
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    if key not in known:
        known[key] = None
        try:
            build_peft_config(config, steps=1000)  # AdaLoRA's schedule is valid for any number of steps
        except ConfigError as error:
            known[key] = str(error)
        keep(path, known)
    if known[key] is not None:
        raise ConfigError(known[key])


def _fit_to_base(peft_config: Any, model: Any) -> None:
    """Set what X-LoRA needs from the base model's config, which PEFT leaves to its caller."""
    if str(peft_config.peft_type.value) == "XLORA":
        model.config.use_cache = False  # the expert weights change with every token, which makes the KV cache invalid
        peft_config.hidden_size = model.config.hidden_size


def _prepared(model: Any) -> Any:
    """Return the PEFT model with workarounds for IA3, MPT and Poly.  Called after attaching and after loading."""
    for peft_config in model.peft_config.values():
        feedforward, targets = (getattr(peft_config, key, None) for key in ("feedforward_modules", "target_modules"))
        if isinstance(feedforward, set) and isinstance(targets, set):
            peft_config.feedforward_modules = feedforward & targets  # IA3 saves more modules than it can load
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


# -- save and load -----------------------------------------------------------------------------------------------------


def initial_factors(model: Any, config: RunConfig) -> dict[str, Any] | None:
    """Return copies of the initial A and B if the initialisation subtracts them from the base weights, else None."""
    if not takes_out_of_base(config.peft.fields.get("init_lora_weights")):
        return None
    from peft import get_peft_model_state_dict

    return {name: tensor.detach().cpu().clone() for name, tensor in get_peft_model_state_dict(model).items()}


def save_trained(model: Any, folder: Path, initial: dict[str, Any] | None = None, weights: dict[str, Any] | None = None) -> None:
    """Save the trained weights as safetensors, without PEFT's empty model card.

    weights: the full state dict, if the model in memory holds only a part of it.

    initial: the result of `initial_factors`.  If given, the adapter is saved with twice the rank, as [A; A₀] and [B, −B₀],
    since W_rest + s·B·A = W + s·(B·A − B₀·A₀).  It then fits the unchanged base model on any machine.  PEFT's own format
    would repeat the initialisation at loading, which needs the same random numbers or the same data.
    """
    model.save_pretrained(folder, **({} if weights is None else {"state_dict": weights}))
    (folder / "README.md").unlink(missing_ok=True)
    _put_in_order(model, folder)
    _check_saved(model, folder)
    if initial is not None:
        _save_as_difference(folder, initial)


def write_weights(folder: Path, weights: dict[str, Any], initial: dict[str, Any] | None = None) -> None:
    """Overwrite the weights of an adapter saved by `save_trained`.  weights: name in the file -> tensor.  initial: as there."""
    from safetensors.torch import save_file

    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    if initial is not None:
        _save_as_difference(folder, initial)


def _put_in_order(model: Any, folder: Path) -> None:
    """Sort the sets in adapter_config.json: PEFT writes them in an order that differs between processes."""
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
    # PEFT mistakes layer 0 of X-LoRA's classifier for a part of expert 0 and does not save it
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
    growth = 2**0.5 if settings["use_rslora"] else 2  # the scale alpha / r, or alpha / sqrt(r), must not change
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


def put_beside(model: Any, adapter: Path, base_name: str, *, name: str) -> None:
    """Load one more PEFT adapter into a PEFT model, under `name`.  Raises DataError if the adapter does not fit."""
    with _reading(adapter, base_name):
        model.load_adapter(str(adapter), adapter_name=name)


@contextmanager
def _reading(adapter: Path, base_name: str) -> Iterator[None]:
    _refuse_damaged(adapter)
    try:
        with warnings.catch_warnings():  # AdaLoRA's rank_pattern holds ranks, LoRA's loader expects layer names
            warnings.filterwarnings("ignore", message="The following rank_pattern keys did not match")
            yield
    except (OSError, *REFUSALS) as error:
        raise DataError(f"the adapter {adapter} cannot be put on {base_name}: {reason_of(error)}") from error


def unload_adapter(model: Any) -> None:
    """Remove the PEFT adapter from its base model."""
    base = model.get_base_model()
    if not model.active_peft_config.is_prompt_learning:
        model.unload()
    vars(base).pop("prepare_inputs_for_generation", None)  # PEFT's generate leaves a copy there


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


def reason_of(error: BaseException) -> str:
    """The first line of an error's message, or its class name if the message is empty."""
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__

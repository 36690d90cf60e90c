"""The method on the base model: attached for training, saved, and put back on for evaluation."""

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
"""Our task types -> PEFT's."""

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


def build_peft_config(config: RunConfig, *, steps: int | None = None) -> Any:
    """The PEFT config object of the `peft` section.  Raises ConfigError with PEFT's own reason."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftType

    config_class: Any = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(config.peft.method.upper())]
    method, fields = config.peft.method, config.peft.fields
    if method == "adalora" and fields.get("total_step") is None and steps is not None:
        # its schedule, laid over the run: a tenth of the steps at full rank, the last third at the final ranks
        fields = {"tinit": steps // 10, "tfinal": max(1, steps // 3), **fields, "total_step": steps}
    if method == "xlora" and fields.get("adapters"):
        # PEFT numbers the experts as it loads them, and later looks for them under these numbers
        fields["adapters"] = {str(number): path for number, path in enumerate(dict(fields["adapters"]).values())}
    try:
        return config_class(task_type=TASK_TYPES[config.task_type], **fields)
    except (ValueError, TypeError, ImportError, NotImplementedError, AttributeError) as error:
        raise ConfigError(f"peft: {config_class.__name__} refuses these settings: {reason_of(error)}") from error


def check_peft_config(config: RunConfig) -> None:
    """Raises ConfigError where `build_peft_config` would.

    PEFT's class is asked once; what it said is kept in the user's cache, so that the next call does not import PEFT.
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
            build_peft_config(config, steps=1000)  # whatever the run has, the schedule laid over them is a possible one
        except ConfigError as error:
            known[key] = str(error)
        keep(path, known)
    if known[key] is not None:
        raise ConfigError(known[key])


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


def save_trained(model: Any, folder: Path, initial: dict[str, Any] | None = None, weights: dict[str, Any] | None = None) -> None:
    """The trained weights as safetensors, without the empty model card that PEFT adds.

    weights: of all the model, where the model itself holds a part of them only.

    initial: what `initial_factors` gave.  Then W_rest + s·B·A = W + s·(B·A − B₀·A₀), so the adapter is saved with twice
    the rank, as [A; A₀] and [B, −B₀]: it fits the base as it is, on any machine, where PEFT would have to take the same
    part out again, which needs the same random numbers or the same data.
    """
    model.save_pretrained(folder, **({} if weights is None else {"state_dict": weights}))
    (folder / "README.md").unlink(missing_ok=True)
    _put_in_order(model, folder)
    _check_saved(model, folder)
    if initial is not None:
        _save_as_difference(folder, initial)


def write_weights(folder: Path, weights: dict[str, Any], initial: dict[str, Any] | None = None) -> None:
    """Other values for an adapter that `save_trained` has saved.  weights: name in its file -> tensor.  initial: as there."""
    from safetensors.torch import save_file

    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    if initial is not None:
        _save_as_difference(folder, initial)


def _put_in_order(model: Any, folder: Path) -> None:
    """PEFT writes sets, such as the modules, in an order that is another one in every process."""
    path = folder / "adapter_config.json"
    if not path.is_file():
        return
    said = json.loads(path.read_text(encoding="utf-8"))
    for settings in model.peft_config.values():
        said |= {key: sorted(value) for key, value in vars(settings).items() if isinstance(value, set) and key in said}
    path.write_text(json.dumps(said, indent=2, sort_keys=True), encoding="utf-8")


def _check_saved(model: Any, folder: Path) -> None:
    """Raises TrainingError where PEFT's file holds nothing of what was trained."""
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


def reason_of(error: BaseException) -> str:
    """The first line of what an error says, or its name where it says nothing."""
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__

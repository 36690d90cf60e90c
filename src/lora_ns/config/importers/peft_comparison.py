"""Import of an experiment of PEFT's method comparison, so that its published settings can be run here.

The layout (huggingface/peft, method_comparison): a folder with PEFT's adapter_config.json, and training_params.json where
a setting differs from the suite's default.  Without an adapter_config.json all weights are trained.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_ns.config import check, merge
from lora_ns.config.adapter_config import read_adapter_config
from lora_ns.config.importers.foreign_config import write
from lora_ns.config.naming import slug
from lora_ns.errors import ConfigError

SUITE: dict[str, Any] = {
    "model_id": "meta-llama/Llama-3.2-3B",
    "dtype": "bfloat16",
    "max_seq_length": 768,
    "batch_size": 4,
    "max_steps": 5000,
    "seed": 0,
    "grad_norm_clip": 1.0,
    "optimizer_type": "AdamW",
    "optimizer_kwargs": {"lr": 1e-4, "weight_decay": 0.1},
    "lr_scheduler": "cosine",
    "query_template": "Question: {query} Think step by step.\nAnswer:",
}
"""Default settings of PEFT's MetaMathQA suite. training_params.json overrides them."""

WARMUP = 0.1
"""Warm-up as a share of all steps, hard-coded in the suite."""

OPTIMIZERS = {
    "AdamW": "adamw_torch",
    "Adam": "adamw_torch",
    "SGD": "sgd",
    "Adafactor": "adafactor",
    "Adagrad": "adagrad",
    "RMSprop": "rmsprop",
    "lora+": "loraplus",
    "lora-fa": "lora_fa",
    "riemannian": "riemannian",
}
PASSED_ON = {"loraplus_lr_ratio", "loraplus_lr_embedding", "reg"}
"""Optimiser arguments that are passed on in training.optim_args."""

WATCHING = {"batch_size_eval", "eval_steps", "generation_kwargs", "compile", "use_amp", "autocast_adapter_dtype"}
"""Parameters of the suite's evaluation, and parameters whose effect lora-ns has anyway."""


def import_experiment(
    folder: Path, output: Path | None, *, whole_task: bool = False, force: bool = False
) -> tuple[Path, list[str]]:
    """Write the folder's settings as a method file, or as a whole task config. Returns (path, notes).

    Raises ConfigError where the folder has another layout, or its optimiser or a value is invalid here.
    """
    stated = _stated(folder)
    content, notes = as_config(folder, stated, whole_task=whole_task)
    name = slug("-".join(part.name for part in (folder.resolve().parent, folder.resolve())))
    path = output or Path("configs") / ("methods" if not whole_task else ".") / f"{name}.yaml"
    what = f"From PEFT's method comparison: {folder.resolve().parent.name}/{folder.resolve().name}."
    write(content, path, [what], force=force)
    return path, notes


def as_config(folder: Path, stated: Mapping[str, Any], *, whole_task: bool) -> tuple[dict[str, Any], list[str]]:
    """Return (content of the method file or task config, notes). The content is checked.

    stated: content of training_params.json.  A method file holds only settings that differ from the suite's defaults.
    """
    peft, parameters = _peft(folder), {**SUITE, **stated}
    differing = {key: value for key, value in stated.items() if SUITE.get(key) != value}
    notes = _left_out(differing, whole_task)
    chosen = parameters if whole_task else differing
    training, model = _training(chosen, notes), _model(chosen)
    if not whole_task:
        content = {"peft": peft, **({"training": training} if training else {}), **({"model": model} if model else {})}
    else:
        content = {**_task(parameters), "model": model, "peft": peft, "training": training, "seed": parameters["seed"]}
    check(merge(content, {} if whole_task else _any_task()), str(folder))
    return content, notes


def _left_out(differing: Mapping[str, Any], whole_task: bool) -> list[str]:
    known = {*SUITE, *WATCHING, "attn_implementation", "use_gc"}
    notes = [f"{key} has no counterpart here and was left out." for key in differing if key not in known]
    if not whole_task:
        of_the_task = [key for key in ("max_seq_length", "query_template", "seed") if key in differing]
        notes += [f"{key} belongs to a task, not to a method: --task writes it." for key in of_the_task]
        if "model_id" in differing:
            notes.append(f"the method file also sets the base model: {differing['model_id']}.")
    return notes


def _stated(folder: Path) -> dict[str, Any]:
    path = folder / "training_params.json"
    if not folder.is_dir() or not (path.is_file() or (folder / "adapter_config.json").is_file()):
        raise ConfigError(f"{folder}: holds neither adapter_config.json nor training_params.json.")
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}.") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected an object in braces.")
    return content


def _peft(folder: Path) -> dict[str, Any]:
    path = folder / "adapter_config.json"
    return read_adapter_config(path) if path.is_file() else {"method": "full"}


def _training(parameters: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Return the `training` section made from the given parameters, and append to notes."""
    same_name = {"max_steps": "max_steps", "batch_size": "global_batch_size", "grad_norm_clip": "max_grad_norm"}
    training = {ours: parameters[theirs] for theirs, ours in same_name.items() if theirs in parameters}
    if "lr_scheduler" in parameters:
        training["lr_scheduler_type"] = parameters["lr_scheduler"] or "constant"
        training["warmup_steps"] = WARMUP if parameters["lr_scheduler"] else 0
    if parameters.get("use_gc"):
        training["gradient_checkpointing"] = True
    if "optimizer_type" in parameters:
        kind = parameters["optimizer_type"]
        if kind not in OPTIMIZERS:
            raise ConfigError(f"training_params.json: optimizer_type {kind!r} has no counterpart here.")
        training["optim"] = OPTIMIZERS[kind]
        if kind == "Adam":
            notes.append("optimizer_type Adam became AdamW, which is the same without weight decay.")
    if "optimizer_kwargs" in parameters:
        # the suite replaces optimizer_kwargs as a whole, so missing keys get torch's or PEFT's defaults
        kwargs, optim = _kwargs(parameters["optimizer_kwargs"]), training.get("optim", "adamw_torch")
        training["learning_rate"] = float(kwargs.pop("lr", 1e-3))
        decay = 0.01 if optim in ("adamw_torch", "riemannian") else 0.0
        training["weight_decay"] = float(kwargs.pop("weight_decay", decay))
        passed = {key: kwargs.pop(key) for key in list(kwargs) if key in PASSED_ON}
        if passed:
            training["optim_args"] = ",".join(f"{key}={value}" for key, value in passed.items())
        left = [key for key in kwargs if key not in ("r", "lora_alpha", "use_rslora")]  # repeated from adapter_config.json
        notes += [f"optimizer_kwargs.{key} has no counterpart here and was left out." for key in left]
    return training


def _kwargs(given: Any) -> dict[str, Any]:
    """Return a copy of optimizer_kwargs.  Raises ConfigError unless it is a mapping with numeric lr and weight_decay."""
    numbers = [given.get(key, 0) for key in ("lr", "weight_decay")] if isinstance(given, Mapping) else [None]
    if not all(isinstance(number, (int, float)) for number in numbers):
        raise ConfigError(f"training_params.json: optimizer_kwargs: expected names and numbers, found {given!r}.")
    return dict(given)


def _model(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `model` section made from the given parameters."""
    model: dict[str, Any] = {}
    if "model_id" in parameters:
        model["name_or_path"] = parameters["model_id"]
    dtype = parameters.get("dtype")
    if dtype in ("int4", "int8"):
        model |= {"dtype": "float32", "quantization": {"int4": "4bit", "int8": "8bit"}[dtype]}
    elif dtype is not None:
        model["dtype"] = dtype
    if parameters.get("attn_implementation"):
        model["attn_implementation"] = parameters["attn_implementation"]
    return model


def _task(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the suite's task sections: training on MetaMathQA, evaluation on GSM8K."""
    template = str(parameters["query_template"])
    return {
        "task_name": "metamath_qa",
        "task_type": "causal_lm",
        "dataset": {
            "name": "meta-math/MetaMathQA",
            "prompt_template": template,
            "response_template": " {response}",
            "eval_size": 500,
            "max_length": parameters["max_seq_length"],
        },
        "evaluation": {
            "benchmarks": [
                {
                    "name": "gsm8k",
                    "dataset": {
                        "name": "openai/gsm8k",
                        "subset": "main",
                        "prompt_template": template.replace("{query}", "{question}"),
                    },
                }
            ]
        },
    }


def _any_task() -> dict[str, Any]:
    """Return a placeholder task config, needed to check a method file."""
    data = {"name": "any/any", "response_template": "{any}"}
    return {"task_name": "any", "task_type": "causal_lm", "model": {"name_or_path": "any/any"}, "dataset": data}

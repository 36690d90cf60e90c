"""transformers' TrainingArguments of a run, from the config and the machine."""

import inspect
import os
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import SchedulerType, TrainingArguments
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION

from lora_ns.config import RunConfig, nearest
from lora_ns.config.method_constraints import OPTIMIZERS_OF_LORA
from lora_ns.errors import ConfigError
from lora_ns.models.base_model import best_device
from lora_ns.store.processes import Processes


def arguments_of(config: RunConfig, scratch: Path, *, size: int, accumulation: int, quiet: bool) -> TrainingArguments:
    """TrainingArguments of a run.  size: per-device batch.  Raises ConfigError with transformers' own reason."""
    settings: dict[str, Any] = {
        "report_to": "none",
        "run_name": scratch.name,
        "save_strategy": "no",
        "disable_tqdm": quiet or not sys.stderr.isatty(),
        **config.training.arguments,
        "output_dir": str(scratch),
        "seed": config.seed,
        "data_seed": config.seed,
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": accumulation,
        "remove_unused_columns": False,
        "logging_strategy": "steps",
        "logging_steps": 1,  # the history has every step
        "logging_nan_inf_filter": False,
        "save_total_limit": None,
        "label_names": ["labels"],
        "dataloader_drop_last": False,
        "use_cpu": best_device() == "cpu",  # otherwise bf16 is refused without a GPU
    }
    settings |= _on_processors()
    if config.training.optim in OPTIMIZERS_OF_LORA:
        settings |= {"optim": "adamw_torch", "optim_args": None}
    try:
        arguments = TrainingArguments(**settings)
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"training: transformers refuses these settings: {error}") from error
    _check_schedule(arguments)
    arguments._n_gpu = min(1, arguments.n_gpu)  # one device for each process
    return arguments


def _on_processors() -> dict[str, Any]:
    """Environment that accelerate does not set for several processes without GPUs."""
    if Processes.here().count == 1 or torch.cuda.is_available():
        return {}
    launched_deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"
    return {"ddp_backend": "gloo", "use_cpu": not launched_deepspeed}


def _check_schedule(arguments: TrainingArguments) -> None:
    """Raises ConfigError for a setting that the schedule lacks.  transformers would fail at the first step."""
    kind = SchedulerType(arguments.lr_scheduler_type)
    schedule: Any = TYPE_TO_SCHEDULER_FUNCTION[kind]
    known = inspect.signature(schedule).parameters
    for key in arguments.lr_scheduler_kwargs or {}:
        if key not in known:
            raise ConfigError(
                f"training.lr_scheduler_kwargs: the schedule {kind.value} has no setting {key!r}.{nearest(key, known)}"
            )

"""One adapter: base model, method and tokens in, trained weights out.  WRITES results/adapters/<run>

The adapter's folder holds PEFT's own files (all weights for method `full`, nothing but the record for `none`),
history.jsonl with one line a step, and record.json.
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

from lora_ns import record
from lora_ns.calibration import Calibration
from lora_ns.config import RunConfig
from lora_ns.config.rules import OPTIMIZERS_OF_LORA
from lora_ns.errors import ConfigError, TrainingError
from lora_ns.integrity import intact
from lora_ns.machine import check_machine
from lora_ns.methods import attach, count_parameters, initial_factors, save_trained
from lora_ns.models import best_device, load_base, load_tokenizer, make_deterministic, weights_folder
from lora_ns.optimizers import lora_optimizer
from lora_ns.store import Store, exists, making

DEFAULT_DEVICE_BATCH = 8


def train(config: RunConfig, store: Store, *, quiet: bool = False) -> Path:
    """Makes the adapter of a config where it is missing; returns its folder.

    Raises ConfigError where model, method and settings do not go together, TrainingError for a loss that is not finite.
    """
    run = store.run_name(config)
    target = store.adapter(run)
    if exists(target):
        return target
    check_machine(config)
    meter = record.Meter()
    with making(target) as (folder, notes):
        facts = _nothing_trained(config, store, meter) if config.peft.method == "none" else None
        if facts is None:
            facts = _train_into(folder, config, store, meter, quiet)
        notes |= record.describe(
            "train",
            run.rsplit("-", 1)[1],
            config.model_dump(exclude={"evaluation", "merge"}),
            inputs={"tokens": store.tokens(config).name, "model": json.dumps(store.model_identity(config.model))},
            run=run,
            warnings=_warnings(config),
            meter=meter,
            **facts,
        )
    return target


def _nothing_trained(config: RunConfig, store: Store, meter: record.Meter) -> dict[str, Any]:
    """Method `none`: the base model is only counted."""
    with meter.part("loading"):
        make_deterministic(config.seed)
        trainable, total = count_parameters(attach(load_base(config, store), config))
    return {"parameters": {"trainable": trainable, "total": total}, "steps": 0, "training": None}


def _train_into(folder: Path, config: RunConfig, store: Store, meter: record.Meter, quiet: bool) -> dict[str, Any]:
    """Trains, saves into the folder, and returns what the record says of it."""
    from datasets import Dataset

    with meter.part("loading"):
        make_deterministic(config.seed)
        intact(store.tokens(config))
        tokens = Dataset.from_file(str(store.tokens(config) / "train.arrow"))
        tokenizer = load_tokenizer(config.model, store)
        model = _attached(config, store, tokens, tokenizer)
        initial = initial_factors(model, config)
        history: list[dict[str, Any]] = []
        trainer = _trainer(config, model, tokens, tokenizer, store.scratch(store.run_name(config)), history, quiet)
        trainable, total = count_parameters(model)  # an optimiser may have frozen a part (LoRA-FA)
    with meter.part("training"):
        result = trainer.train()
    _check_finite(trainer.model)
    with meter.part("saving"):
        save_trained(trainer.model, folder, initial)
        lines = [json.dumps(line, allow_nan=False) for line in history]
        (folder / "history.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {
        "parameters": {"trainable": trainable, "total": total},
        "steps": trainer.state.global_step,
        "training": {
            "final_loss": history[-1]["loss"],
            "mean_loss": result.training_loss,
            "tokens_seen": trainer.state.num_input_tokens_seen or None,
            "epochs": trainer.state.epoch,
        },
    }


def _attached(config: RunConfig, store: Store, tokens: Any, tokenizer: Any) -> Any:
    """The base model with the method on it, initialised by the run's own rows where the method asks for them."""
    base: Any = load_base(config, store)
    calibration, base_weights = None, None
    if config.peft.calibration_rows is not None:
        base = base.to(best_device())
        calibration = Calibration(tokens, _collate(config, tokenizer), config.peft.calibration_rows, config.seed)
    if config.peft.fields.get("init_lora_weights") == "loftq" and config.model.quantization == "4bit":
        base_weights = weights_folder(config.model, store)
    steps = count_steps(config, len(tokens))
    return attach(base, config, calibration=calibration, base_weights=base_weights, steps=steps)


def count_steps(config: RunConfig, rows: int) -> int:
    """Optimiser steps of a run over so many rows."""
    training = config.training
    if training.max_steps > 0:
        return training.max_steps
    return math.ceil(training.num_train_epochs * math.ceil(rows / training.global_batch_size))


def split_batch(global_batch: int, processes: int, per_device: int | None) -> tuple[int, int]:
    """(examples at once on one device, accumulation steps) whose product over all processes is the global batch.

    Raises ConfigError that lists the values that would do.
    """
    if global_batch % processes:
        near = sorted({max(1, global_batch // processes) * processes, (global_batch // processes + 1) * processes})
        raise ConfigError(
            f"training.global_batch_size: {global_batch} examples cannot be spread evenly over {processes} processes; "
            f"near values that can: {', '.join(map(str, near))}."
        )
    share = global_batch // processes
    divisors = [n for n in range(1, share + 1) if share % n == 0]
    if per_device is None:
        size = max(n for n in divisors if n <= DEFAULT_DEVICE_BATCH)
    elif per_device >= share:
        size = share
    elif per_device in divisors:
        size = per_device
    else:
        raise ConfigError(
            f"training.per_device_train_batch_size: {per_device} does not divide the {share} examples that each of "
            f"{processes} processes takes of global_batch_size {global_batch}; values that do: {', '.join(map(str, divisors))}."
        )
    return size, share // size


def _trainer(
    config: RunConfig,
    model: Any,
    tokens: Any,
    tokenizer: Any,
    scratch: Path,
    history: list[dict[str, Any]],
    quiet: bool,
) -> Any:
    """SFTTrainer for causal language modelling, Trainer for classification, over ready-made tokens."""
    training = config.training
    size, accumulation = split_batch(
        training.global_batch_size, int(os.environ.get("WORLD_SIZE", "1")), training.per_device_train_batch_size
    )
    settings: dict[str, Any] = {
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "run_name": scratch.name,
        "save_strategy": "no",
        "logging_strategy": "steps",
        "logging_steps": 1,
        "disable_tqdm": quiet or not sys.stderr.isatty(),
        **training.arguments,
        "output_dir": str(scratch),
        "seed": config.seed,
        "data_seed": config.seed,
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": accumulation,
        "remove_unused_columns": False,
        "logging_nan_inf_filter": False,
        "include_num_input_tokens_seen": "non_padding",
    }
    if training.optim in OPTIMIZERS_OF_LORA:
        model = model.to(best_device())
        settings |= {"optim": "adamw_torch", "optim_args": None}
    make = _classification_trainer if config.task_type != "causal_lm" else _response_trainer
    trainer_class, arguments = make(settings)
    trainer = trainer_class(
        model=model,
        args=arguments,
        train_dataset=tokens,
        data_collator=_collate(config, tokenizer),
        processing_class=tokenizer,
        callbacks=[_keep_history(history)],
        optimizers=(lora_optimizer(model, config), None),
    )
    if hasattr(getattr(model, "base_model", None), "update_and_allocate"):
        trainer.add_callback(_reallocate_ranks())
    if quiet or not sys.stderr.isatty():
        from transformers import PrinterCallback

        trainer.remove_callback(PrinterCallback)
    return trainer


def _classification_trainer(settings: dict[str, Any]) -> tuple[Any, Any]:
    from transformers import Trainer, TrainingArguments

    return Trainer, _arguments(TrainingArguments, settings)


def _response_trainer(settings: dict[str, Any]) -> tuple[Any, Any]:
    from trl import SFTConfig, SFTTrainer

    ready = {"dataset_kwargs": {"skip_prepare_dataset": True}, "max_length": None, "packing": False}
    return SFTTrainer, _arguments(SFTConfig, {**settings, **ready})


def _arguments(arguments_class: Any, settings: dict[str, Any]) -> Any:
    try:
        return arguments_class(**settings)
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"training: transformers refuses these settings: {error}") from error


def _collate(config: RunConfig, tokenizer: Any) -> Any:
    """What makes a batch of the task's rows."""
    return (
        _collate_labelled(tokenizer) if config.task_type != "causal_lm" else _collate_responses(tokenizer.pad_token_id)
    )


def _collate_responses(pad_token_id: int) -> Any:
    """Rows of input_ids and supervised spans -> input_ids, attention_mask, labels [B, T], padded on the right."""
    import torch

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        longest = max(len(row["input_ids"]) for row in rows)
        input_ids = torch.full((len(rows), longest), pad_token_id, dtype=torch.long)
        attention = torch.zeros((len(rows), longest), dtype=torch.long)
        labels = torch.full((len(rows), longest), -100, dtype=torch.long)
        for i, row in enumerate(rows):
            ids = torch.tensor(row["input_ids"])
            input_ids[i, : len(ids)] = ids
            attention[i, : len(ids)] = 1
            for start, end in zip(row["spans"][::2], row["spans"][1::2], strict=True):
                labels[i, start:end] = ids[start:end]
        return {"input_ids": input_ids, "attention_mask": attention, "labels": labels}

    return collate


def _collate_labelled(tokenizer: Any) -> Any:
    """Rows of input_ids, token_type_ids and label -> padded [B, T] and labels [B]."""
    from transformers import DataCollatorWithPadding

    pad = DataCollatorWithPadding(tokenizer)

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = pad(rows)
        batch["labels"] = batch.pop("label") if "label" in batch else batch["labels"]
        return dict(batch)

    return collate


def _keep_history(history: list[dict[str, Any]]) -> Any:
    """A callback that keeps each logged step, and stops at a loss that is not finite."""
    from transformers import TrainerCallback

    class History(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
            if not logs or "loss" not in logs:
                return
            if not math.isfinite(logs["loss"]):
                raise TrainingError(
                    f"the loss became {logs['loss']} at step {state.global_step}: training stopped and nothing was kept. "
                    "Try a lower training.learning_rate, longer warmup_steps, or dtype bfloat16 instead of float16."
                )
            wanted = ("loss", "grad_norm", "learning_rate", "epoch", "mean_token_accuracy")
            history.append({"step": state.global_step, **{k: float(logs[k]) for k in wanted if k in logs}})

    return History()


def _reallocate_ranks() -> Any:
    """A callback for methods that move rank between layers (AdaLoRA, AdaMSS), while the gradients are still there."""
    from transformers import TrainerCallback

    class Reallocate(TrainerCallback):
        def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            model.base_model.update_and_allocate(state.global_step + 1)

    return Reallocate()


def _check_finite(model: Any) -> None:
    import torch

    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not torch.isfinite(parameter).all():
            raise TrainingError(f"training ended with weights that are not finite ({name}); nothing was kept.")


def _warnings(config: RunConfig) -> list[str]:
    name = config.model.name_or_path
    if not name.startswith("builtin:") and not Path(name).expanduser().is_dir() and config.model.revision is None:
        return [f"the revision of model {name} is not pinned (model.revision)"]
    return []

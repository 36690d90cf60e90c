"""All that one run's training needs, brought together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lora_ns.config import RunConfig
from lora_ns.integrity import intact
from lora_ns.methods import count_parameters, initial_factors
from lora_ns.models import best_device, check_positions, load_tokenizer
from lora_ns.processes import ALONE, Processes
from lora_ns.store import Store
from lora_ns.trackers import EVENTS, is_tracked, keep_events
from lora_ns.training.batches import RunBatches, Share
from lora_ns.training.collate import collate_of
from lora_ns.training.dropout import quicken_dropout
from lora_ns.training.elementwise import quicken_elementwise
from lora_ns.training.interruption import Interruption
from lora_ns.training.loss import loss_of
from lora_ns.training.lowrank import quicken
from lora_ns.training.rows import TokenRows
from lora_ns.training.sizes import count_steps, split_batch
from lora_ns.training.start import starting_model


@dataclass(frozen=True)
class PreparedRun:
    """One run before its first step."""

    trainer: Any
    """lora_ns.training.trainer.RunTrainer."""
    rows: TokenRows
    batches: RunBatches
    initial: dict[str, Any] | None
    """What `lora_ns.methods.initial_factors` gave."""
    parameters: dict[str, int]
    """trainable, total."""


def prepare(
    config: RunConfig,
    store: Store,
    interruption: Interruption,
    *,
    processes: Processes = ALONE,
    per_device: int | None = None,
    quiet: bool = False,
) -> PreparedRun:
    """Model, rows and loop of a run whose tokens are there.

    per_device: at most so many rows at once on a device.  Raises ConfigError where settings do not go together.
    """
    from lora_ns.training.arguments import arguments_of
    from lora_ns.training.trainer import RunTrainer

    size, accumulation = split_batch(config.training.global_batch_size, processes.count, per_device)
    intact(store.tokens(config))
    scratch = store.scratch(store.run_name(config))
    arguments = arguments_of(config, scratch, size=size, accumulation=accumulation, quiet=quiet)
    rows = TokenRows(store.tokens(config) / "train.arrow")
    collate = collate_of(config, load_tokenizer(config.model, store))
    model = starting_model(config, store, rows, collate, count_steps(config, len(rows)))
    check_positions(model, max(rows.lengths, default=0), config)
    initial = initial_factors(model, config)
    if processes.count == 1 and config.training.shortcuts:
        if best_device() == "cpu":
            quicken_elementwise(model)
        if config.peft.method == "lora":
            quicken(model)
            quicken_dropout(model)
    batches = RunBatches(
        rows.lengths,
        config.training.global_batch_size,
        Share(size, processes.count, processes.rank),
        seed=config.seed,
        strategy=config.training.train_sampling_strategy,
    )
    trainer = RunTrainer(config, model, arguments, rows, batches, collate, loss_of(config, model), interruption)
    if is_tracked(config):
        keep_events(trainer.callback_handler.callbacks, store.root / EVENTS / scratch.name)
    trainable, total = count_parameters(model)  # an optimiser may have frozen a part (LoRA-FA)
    return PreparedRun(trainer, rows, batches, initial, {"trainable": trainable, "total": total})

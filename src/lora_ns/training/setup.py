"""Set up a training: model with its PEFT method, collator, loss.  A run alone, a member of a group and the step that
`lora-ns plan` profiles all use `set_up`, so their set-ups cannot differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_ns.config import RunConfig
from lora_ns.config.trackers import EVENTS, is_tracked, keep_events
from lora_ns.data.batch_sampler import RunBatches, Share
from lora_ns.data.collator import Collate, collate_of
from lora_ns.data.token_dataset import TokenRows
from lora_ns.data.tokenizer import load_tokenizer
from lora_ns.models.adapter import apply_method, count_parameters, initial_factors
from lora_ns.models.base_model import best_device, check_positions, load_base, make_deterministic, weights_folder
from lora_ns.models.lora_init import Calibration
from lora_ns.store.integrity import load_verified
from lora_ns.store.processes import ALONE, Processes
from lora_ns.store.run import Run
from lora_ns.training.batch_size import count_steps, split_batch
from lora_ns.training.loss import loss_of
from lora_ns.training.padding_free import reads_flat, without_padding
from lora_ns.training.signals import Interruption


@dataclass(frozen=True)
class Setup:
    """Model and collator before the first step."""

    model: Any
    """The base model with the PEFT method applied and initialised."""
    collate: Collate
    """Makes the batches, padding-free if the model can read such batches."""
    padding_free: bool
    initial: dict[str, Any] | None
    """Result of `lora_ns.models.adapter.initial_factors`."""
    parameters: dict[str, int]
    """Parameter counts: trainable, total."""

    def loss(self, config: RunConfig) -> Any:
        """The loss function.  It also prepares the model for padding-free batches."""
        return loss_of(config, self.model, flat=self.padding_free)


def set_up(
    config: RunConfig,
    base: Any,
    collate: Collate,
    steps: int,
    *,
    calibration: Calibration | None = None,
    base_weights: Path | None = None,
) -> Setup:
    """Apply the method to a base model and choose its collator.

    base: is changed.  collate: result of `collate_of`.  steps: optimiser steps of the run.  Other arguments: see `apply_method`.
    """
    model = apply_method(base, config, calibration=calibration, base_weights=base_weights, steps=steps)
    padding_free = reads_flat(model, config)
    trainable, total = count_parameters(model)
    return Setup(
        model=model,
        collate=without_padding(collate) if padding_free else collate,
        padding_free=padding_free,
        initial=initial_factors(model, config),
        parameters={"trainable": trainable, "total": total},
    )


def set_up_run(run: Run, rows: Sequence[dict[str, Any]], collate: Collate, steps: int, base: Any = None) -> Setup:
    """The set-up of a run.  Some methods initialise their weights from the run's own rows.

    base: result of `load_base`, is changed.  None: the base model is loaded here.  Other arguments: see `set_up`.
    """
    config = run.config
    make_deterministic(config.seed)
    base = load_base(run) if base is None else base
    make_deterministic(config.seed)  # loading may have drawn random numbers
    calibration, base_weights = None, None
    if config.peft.calibration_rows is not None:
        base = base.to(best_device())
        calibration = Calibration(rows, collate, config.peft.calibration_rows, config.seed)
    if config.peft.fields.get("init_lora_weights") == "loftq" and config.model.quantization == "4bit":
        base_weights = weights_folder(config.model, run.store)
    return set_up(config, base, collate, steps, calibration=calibration, base_weights=base_weights)


@dataclass(frozen=True)
class PreparedRun:
    """A run before its first step."""

    trainer: Any
    """lora_ns.training.trainer.RunTrainer."""
    rows: TokenRows
    batches: RunBatches
    initial: dict[str, Any] | None
    parameters: dict[str, int]


def prepare(
    run: Run, interruption: Interruption, *, processes: Processes = ALONE, per_device: int | None = None, quiet: bool = False
) -> PreparedRun:
    """Model, rows and trainer of a run.  Its tokens must be finished.

    per_device: maximum rows of a batch on one device.  Raises ConfigError if settings do not fit together.
    """
    from lora_ns.training.arguments import arguments_of
    from lora_ns.training.trainer import RunTrainer

    config = run.config
    size, accumulation = split_batch(config.training.global_batch_size, processes.count, per_device)
    arguments = arguments_of(config, run.scratch, size=size, accumulation=accumulation, quiet=quiet)
    rows, collate = rows_and_collate(run)
    setup = set_up_run(run, rows, collate, count_steps(config, len(rows)))
    check_positions(setup.model, max(rows.lengths, default=0), config)
    share = Share(size, processes.count, processes.rank)
    batches = run_batches(config, rows, share)
    trainer = RunTrainer(config, setup.model, arguments, rows, batches, setup.collate, setup.loss(config), interruption)
    if is_tracked(config):
        keep_events(trainer.callback_handler.callbacks, run.store.root / EVENTS / run.name)
    trainable, total = count_parameters(setup.model)  # the optimiser may have frozen parameters (LoRA-FA)
    return PreparedRun(trainer, rows, batches, setup.initial, {"trainable": trainable, "total": total})


def rows_and_collate(run: Run) -> tuple[TokenRows, Collate]:
    """A run's verified tokens, and the collator for padded batches."""
    load_verified(run.tokens)
    tokenizer = load_tokenizer(run.config.model, run.store)
    return TokenRows(run.tokens / "train.arrow"), collate_of(run.config, tokenizer)


def run_batches(config: RunConfig, rows: TokenRows, share: Share) -> RunBatches:
    """The batches of a run in order.  share: this process's part of each batch."""
    training = config.training
    return RunBatches(
        rows.lengths, training.global_batch_size, share, seed=config.seed, strategy=training.train_sampling_strategy
    )

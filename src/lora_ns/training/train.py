"""Train one adapter from a base model, a PEFT method and tokens.  WRITES results/adapters/<run>

The folder contains PEFT's own files (all weights for method `full`, only the record for `none`), history.jsonl with one line
a step, and record.json.  Checkpoints are in results/scratch/<run> until the adapter is finished.
"""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lora_ns.config import RunConfig
from lora_ns.data.batch_sampler import Rows, order_digest
from lora_ns.errors import TrainingError
from lora_ns.models.adapter import apply_method, count_parameters
from lora_ns.models.base_model import load_base, make_deterministic
from lora_ns.models.machine import check_machine
from lora_ns.models.save_adapter import save_trained
from lora_ns.store import record
from lora_ns.store.artifact import atomic_artifact, is_finished
from lora_ns.store.processes import Processes
from lora_ns.store.progress import report_progress
from lora_ns.store.run import Run
from lora_ns.training.batch_size import count_steps
from lora_ns.training.checkpoints import step_of
from lora_ns.training.out_of_memory import OutOfMemory, release, smaller
from lora_ns.training.run_lock import run_lock
from lora_ns.training.setup import PreparedRun, prepare
from lora_ns.training.signals import Interruption, defer_signals

HISTORY = "history.jsonl"
RANK_STRIDE = 1_000_003
"""Distance between the dropout seeds of two processes.  Seeds in configs are small numbers."""


def train(run: Run, *, quiet: bool = False) -> Path:
    """Train a run's adapter unless it is finished.  Returns its folder.

    Every process of a distributed run calls this, and the first process writes.  Raises ConfigError if model, method and
    settings do not fit together, TrainingError for a loss that is not finite, Busy if another process trains this run,
    Interrupted on SIGTERM or SIGINT.
    """
    target = run.adapter
    if is_finished(target):
        return target
    check_machine(run.config)
    if run.config.peft.method == "none":
        return _count_only(run)
    processes, meter, scratch = Processes.here(), record.Meter(), run.scratch
    with defer_signals() as interruption, ExitStack() as held:
        if processes.is_first:
            held.enter_context(run_lock(scratch))
        if processes.count == 1 and is_finished(target):
            return target  # another process finished it between the first check and the lock
        with ExitStack() as made:
            folder, notes = made.enter_context(atomic_artifact(target)) if processes.is_first else (scratch, {})
            facts = _train_into(folder, run, meter, processes, interruption, quiet)
            notes |= described(run, meter, facts)
        if processes.is_first:
            shutil.rmtree(scratch, ignore_errors=True)
    processes.meet()  # the other processes return only once the adapter is in place
    return target


def _count_only(run: Run) -> Path:
    """Write the record of method `none`: parameter counts, no weights."""
    meter = record.Meter()
    with atomic_artifact(run.adapter) as (_, notes):
        with meter.part("loading"):
            make_deterministic(run.config.seed)
            trainable, total = count_parameters(apply_method(load_base(run), run.config))
        facts = {"parameters": {"trainable": trainable, "total": total}, "steps": 0, "training": None}
        notes |= described(run, meter, facts)
    return run.adapter


def described(run: Run, meter: record.Meter, facts: dict[str, Any]) -> dict[str, Any]:
    """The record of a training.  facts: fields of the record, with `circumstances` for those that may vary."""
    described = record.describe(
        "train",
        run.digest,
        run.config.model_dump(exclude={"evaluation", "merge"}),
        inputs={"tokens": run.tokens.name, "model": json.dumps(run.model_identity)},
        run=run.name,
        warnings=_warnings(run.config),
        meter=meter,
        **{key: value for key, value in facts.items() if key != "circumstances"},
    )
    described["circumstances"] |= facts.get("circumstances", {})
    return described


def _train_into(
    folder: Path, run: Run, meter: record.Meter, processes: Processes, interruption: Interruption, quiet: bool
) -> dict[str, Any]:
    """Train and save into the folder.  Returns the training's fields of the record."""
    config = run.config
    per_device, notes = config.training.per_device_train_batch_size, []
    while True:
        try:
            with meter.part("loading"):
                ready = prepare(run, interruption, processes=processes, per_device=per_device, quiet=quiet)
                checkpoint = ready.trainer.resume_point()
                if checkpoint is None:
                    ready.trainer.probe()
            with meter.part("training"):
                make_deterministic(config.seed + RANK_STRIDE * processes.rank)  # seeds dropout
                _fit(ready, run, checkpoint)
            break
        except OutOfMemory:
            size = ready.batches.share.size
        # outside the except block: the exception still references the model
        per_device = smaller(size)
        notes.append(f"memory ran out with {size} rows at once on a device; {per_device} were taken instead")
        del ready
        release()
    state = ready.trainer.state
    if state.global_step < state.max_steps:
        kept = f"step {state.global_step} of {state.max_steps} is kept as a checkpoint"
        raise interruption.raised(kept if ready.trainer.can_resume else "AdaMSS with use_asa begins anew; nothing is kept")
    with meter.part("saving"):
        save_adapter(ready, folder, processes)
    order = list(ready.batches.steps(state.global_step))
    resumed = None if checkpoint is None else Path(checkpoint).name
    size, accumulation = ready.batches.share.size, ready.trainer.args.gradient_accumulation_steps
    how = {"rows_at_once": size, "accumulation": accumulation, "memory": notes, "resumed_from": resumed}
    return facts_of(ready.parameters, ready.trainer.history, order, ready.rows.lengths, how | ready.trainer.ways)


def _fit(ready: PreparedRun, run: Run, checkpoint: str | None) -> None:
    """Train, and write the progress file meanwhile."""
    steps, begun = count_steps(run.config, len(ready.rows)), 0 if checkpoint is None else step_of(Path(checkpoint))
    with report_progress(run.store, run.name, "train", steps, begun) as ready.trainer.report:
        ready.trainer.fit(checkpoint)


def save_adapter(ready: PreparedRun, folder: Path, processes: Processes) -> None:
    """Save weights and history.  All processes take part if the weights are sharded over them."""
    weights = ready.trainer.whole_weights()
    if not processes.is_first:
        return
    model = ready.trainer.plain_model()
    _check_finite(model)
    save_trained(model, folder, ready.initial, weights)
    lines = [json.dumps(line, allow_nan=False) + "\n" for line in ready.trainer.history]
    (folder / HISTORY).write_text("".join(lines), encoding="utf-8")


def facts_of(
    parameters: dict[str, int],
    history: Sequence[Mapping[str, Any]],
    order: Sequence[Rows],
    lengths: Any,
    circumstances: dict[str, Any],
) -> dict[str, Any]:
    """Fields of the record that a training alone and a training in a group have in common.

    history: one entry a step.  order: the rows of each step.  lengths: tokens of every row.  circumstances: values that may
    differ when the run is trained again.
    """
    losses = [line["loss"] for line in history]
    return {
        "parameters": parameters,
        "steps": len(order),
        "training": {
            "final_loss": losses[-1],
            "mean_loss": math.fsum(losses) / len(losses),
            "tokens_seen": int(sum(lengths[batch].sum() for batch in order)),
            "epochs": history[-1]["epoch"],
            "order_sha256": order_digest(order),
        },
        "circumstances": circumstances,
    }


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

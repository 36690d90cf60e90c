"""transformers' Trainer with the project's batches, loss and checkpoints, and a clean stop on a signal."""

import json
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled

from lora_ns.config import RunConfig
from lora_ns.config.method_constraints import OPTIMIZERS_OF_LORA
from lora_ns.data.batch_sampler import RunBatches
from lora_ns.data.collator import Collate
from lora_ns.errors import TrainingError
from lora_ns.models import adaptive_rank
from lora_ns.models.optimizers import lora_optimizer
from lora_ns.store.progress import Report, silent
from lora_ns.training import checkpoints
from lora_ns.training.loss import CausalLoss, LabelLoss
from lora_ns.training.out_of_memory import OutOfMemory, is_out_of_memory
from lora_ns.training.signals import Interruption

HISTORY = "history.jsonl"


class CheckpointingTrainer(Trainer):
    """transformers' Trainer with checkpoints that are written whole, sealed, and verified before they are used."""

    scratch: Path
    """Folder of the checkpoints."""
    history: list[dict[str, Any]]
    """One line a step, stored with every checkpoint."""

    def plain_model(self) -> Any:
        """The model without the wrappers of distributed training."""
        return self.accelerator.unwrap_model(self.model)

    @property
    def can_resume(self) -> bool:
        """Whether checkpoints of this model can be resumed."""
        return adaptive_rank.can_resume(self.plain_model())

    def resume_point(self) -> str | None:
        """The newest verified checkpoint, whose history is loaded.  None: start from the beginning."""
        folder = checkpoints.newest(self.scratch) if self.is_world_process_zero() else None
        folder = _of_rank_zero(folder, self.args.world_size)
        if folder is None:
            return None
        lines = (folder / HISTORY).read_text(encoding="utf-8").splitlines()
        self.history[:] = [json.loads(line) for line in lines]
        return str(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if adaptive_rank.is_kept_here(self.plain_model()):
            adaptive_rank.restore(self.plain_model(), Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _get_output_dir(self, trial: Any = None) -> str:
        return str(checkpoints.saving_place(self.scratch))

    def _save_checkpoint(self, model: Any, trial: Any = None) -> None:
        if not self.can_resume:
            return  # an interrupted run starts again, because resuming would change it
        made = checkpoints.saving_place(self.scratch) / f"checkpoint-{self.state.global_step}"
        with checkpoints.writing(self.scratch):
            if self.is_world_process_zero():
                shutil.rmtree(made.parent, ignore_errors=True)
                made.mkdir(parents=True)
            self.accelerator.wait_for_everyone()
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.is_world_process_zero():
                lines = [json.dumps(line, allow_nan=False) + "\n" for line in self.history]
                (made / HISTORY).write_text("".join(lines), encoding="utf-8")
                adaptive_rank.save(self.plain_model(), made)
                checkpoints.seal(made, self.scratch)
        self.accelerator.wait_for_everyone()


class RunTrainer(CheckpointingTrainer):
    """One run's training over its batches."""

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        config: RunConfig,
        model: Any,
        arguments: TrainingArguments,
        rows: Sequence[dict[str, Any]],
        batches: RunBatches,
        collate: Collate,
        loss: CausalLoss | LabelLoss,
        interruption: Interruption,
    ):
        self.scratch = Path(str(arguments.output_dir))
        self.batches = batches
        self.history = []
        self.report: Report = silent
        """Called after each step."""
        self._losses = loss
        self._judged: list[Any] = []
        is_lora_own = config.training.optim in OPTIMIZERS_OF_LORA
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=rows,  # type: ignore[arg-type]
            data_collator=collate,
            callbacks=[_KeepHistory(self), _Pauses(self, interruption)],
            optimizers=(lora_optimizer(model.to(arguments.device), config) if is_lora_own else None, None),  # type: ignore[arg-type]
        )
        if arguments.activation_checkpointing:
            model.activation_checkpointing_enable()  # the Trainer does this in train(), which is after the probe
        if adaptive_rank.moves_rank(model):
            self.add_callback(adaptive_rank.MovesRank())
        if arguments.disable_tqdm:
            self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader:
        return DataLoader(
            self.train_dataset,  # type: ignore[arg-type]
            batch_sampler=self.batches,  # type: ignore[arg-type]
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory and torch.cuda.is_available(),
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            generator=torch.Generator().manual_seed(self.args.seed),  # otherwise each epoch would draw from dropout's generator
        )

    def _run_epoch(self, **named: Any) -> None:  # type: ignore[override]
        self.batches.epoch = named["epoch"]
        super()._run_epoch(**named)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: Any) -> Any:
        """Divisor of the loss of one optimiser step: supervised tokens (or rows) over all micro-batches and processes."""
        items = sum(self._losses.count(share) for share in batch_samples).to(device)
        return self.accelerator.gather(items).sum() if self.args.world_size > 1 else items

    def compute_loss(  # type: ignore[override]
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """This micro-batch's part of the mean loss over all micro-batches and processes."""
        losses = self._losses(model, inputs)
        counted = self._losses.count(inputs).to(losses.values.device)
        if losses.correct is not None:
            self._judged.append(torch.stack([losses.correct.sum(), counted]))
        total = losses.values.sum()
        if (penalty := adaptive_rank.orthogonality(self.plain_model())) is not None:
            total = total + penalty * counted  # summed over micro-batches and processes it counts once
        return total / num_items_in_batch * self.args.world_size  # processes average their gradients

    def floating_point_ops(self, inputs: Any) -> int:
        """Returns 0: counting would walk over all parameters at every step."""
        return 0

    def accuracy(self) -> dict[str, float]:
        """Accuracy of the tokens (or classes) since the last call, by metric name."""
        judged, self._judged = self._judged, []
        if not judged:
            return {}
        correct, counted = self.accelerator.reduce(torch.stack(judged).sum(0)).tolist()
        return {self._losses.accuracy: correct / counted} if counted else {}

    def probe(self) -> None:
        """One forward and backward pass over the longest rows, without side effects.  Raises OutOfMemory."""
        assert self.model is not None
        if is_deepspeed_zero3_enabled():
            return  # weights are sharded until the engine gathers them
        batch = self.data_collator([self.train_dataset[i] for i in self.batches.longest()])  # type: ignore[index, arg-type]
        batch = self._prepare_inputs(batch)
        items = self._losses.count(batch)
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            try:
                self.model.train()
                with self.accelerator.autocast():
                    loss = self.compute_loss(self.model, batch, num_items_in_batch=items)
                loss.backward()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                raise OutOfMemory from error
            finally:
                self._judged = []
                self.model.zero_grad(set_to_none=True)

    def fit(self, checkpoint: str | None) -> None:
        """Train to the end or until a signal.  Raises OutOfMemory if a smaller batch can be tried."""
        try:
            self.train(resume_from_checkpoint=checkpoint)
        except Exception as error:
            if self.args.world_size > 1 or not is_out_of_memory(error):
                raise
            raise OutOfMemory from error

    def whole_weights(self) -> dict[str, Any] | None:
        """The sharded weights gathered on the first process.  None if every process has all weights."""
        if not (self.is_deepspeed_enabled or self.is_fsdp_enabled):
            return None
        return self.accelerator.get_state_dict(self.model_wrapped)

    @property
    def ways(self) -> dict[str, str]:
        """How the loss is computed (fused, compact or whole) and how rows are batched (flat or padded)."""
        return {"loss": self._losses.kind, "rows": self._losses.rows}


def _of_rank_zero(value: Any, processes: int) -> Any:
    """The first process's value, on every process."""
    if processes == 1:
        return value
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]


class _KeepHistory(TrainerCallback):
    """Stores every logged step.  Raises TrainingError for a loss that is not finite."""

    def __init__(self, trainer: RunTrainer):
        self.trainer = trainer

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        accuracy = self.trainer.accuracy()
        if not math.isfinite(logs["loss"]):
            raise TrainingError(
                f"the loss became {logs['loss']} at step {state.global_step}: training stopped and nothing was kept but the "
                "checkpoints before. Try a lower training.learning_rate, longer warmup_steps, or dtype bfloat16 instead of "
                "float16."
            )
        figures = {key: float(logs[key]) for key in _LOGGED if key in logs}
        self.trainer.history.append({"step": state.global_step, **figures, **accuracy})
        self.trainer.report(state.global_step, figures["loss"])


_LOGGED = ("loss", "grad_norm", "learning_rate", "epoch")


class _Pauses(TrainerCallback):
    """Saves a checkpoint at intervals.  On a signal it saves one at once and stops the training."""

    def __init__(self, trainer: RunTrainer, interruption: Interruption):
        self.trainer, self.interruption = trainer, interruption
        self._saved = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        stated = args.save_strategy != "no"
        due = not stated and time.monotonic() - self._saved >= checkpoints.EVERY_SECONDS
        due, told = self._agreed(due, bool(self.interruption))
        if told and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True
        elif due and state.global_step < state.max_steps:
            control.should_save = True
        elif state.global_step >= state.max_steps:
            control.should_save = False  # the adapter itself is saved next

    def _agreed(self, due: bool, told: bool) -> tuple[bool, bool]:
        """Return the same decision on every process.  The first process's clock decides, or a signal to any process."""
        if self.trainer.args.world_size == 1:
            return due, told
        import torch.distributed as group

        flags = torch.tensor([due and group.get_rank() == 0, told], dtype=torch.int32, device=self.trainer.args.device)
        group.all_reduce(flags, op=group.ReduceOp.MAX)
        return bool(flags[0]), bool(flags[1])

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._saved = time.monotonic()

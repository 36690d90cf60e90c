"""Training loop of a group: each step takes one batch of every member through the shared base model, then one update."""

import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lora_ns.data.batch_sampler import count_shares
from lora_ns.data.collator import Batch
from lora_ns.data.token_dataset import TokenRows
from lora_ns.errors import TrainingError
from lora_ns.training import checkpoints
from lora_ns.training.loss import CausalLoss, LabelLoss, loss_of, sums_by_owner
from lora_ns.training.multi_adapter.adamw import MembersAdamW
from lora_ns.training.multi_adapter.layers import OwnModules, SharedLinear
from lora_ns.training.multi_adapter.layout import CannotGroup, Layout
from lora_ns.training.multi_adapter.members import Member, layers_of
from lora_ns.training.out_of_memory import OutOfMemory, is_out_of_memory
from lora_ns.training.signals import Interruption

STATE = "state.pt"
STATE_FORM = 2
"""Version of the checkpoint's layout.  A checkpoint of another version is not used."""

LARGEST_PASS = 2048
"""Largest number of tokens in one pass on a CPU.  More tokens no longer fit its caches."""


class MultiAdapterLoop:
    """Trains members jointly on a shared base model.

    size: rows of each member per forward pass.  scratch: folder of the checkpoints.
    """

    def __init__(self, base: Any, members: Sequence[Member], rows: TokenRows, *, size: int, scratch: Path, arguments: Any):
        """base: on its device, is changed.  arguments: TrainingArguments of the first member."""
        self.members = {member.number: member for member in members}
        self.rows, self.size, self.scratch = rows, size, scratch
        self.base, self.arguments, self.step = base, arguments, 0
        if len({member.setup.padding_free for member in members}) > 1:
            raise CannotGroup("some of the methods need padding")
        self.layout = Layout(flat=members[0].setup.padding_free)
        _refuse_dropout(base)
        for member in members:
            self.layout.seed(member.number, member.run.config.seed)
        for name in layers_of(members):
            parts = {member.number: member.parts[name] for member in members if name in member.parts}
            _replace(base, name, SharedLinear(base.get_submodule(name), parts, self.layout))
        for name in dict.fromkeys(name for member in members for name in member.heads):
            _replace(base, name, OwnModules({member.number: member.heads[name] for member in members}, self.layout))
        self.loss: CausalLoss | LabelLoss = loss_of(members[0].run.config, base, flat=self.layout.flat)
        self.optimizer = MembersAdamW(
            {member.number: member.decays for member in members},
            betas=(arguments.adam_beta1, arguments.adam_beta2),
            epsilon=arguments.adam_epsilon,
        )
        base.train()
        if arguments.gradient_checkpointing:
            base.gradient_checkpointing_enable(arguments.gradient_checkpointing_kwargs or {"use_reentrant": False})
            base.enable_input_require_grads()

    def run(self, interruption: Interruption) -> None:
        """Train until the last step.  Raises Interrupted after saving a checkpoint, OutOfMemory, and a step's other errors.

        A member with a non-finite loss is dropped, with the reason in `failure`.  The others continue.
        """
        steps = max(member.steps for member in self.members.values())
        saved = time.monotonic()
        while self.step < steps and self.living:
            try:
                self._take_step()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                raise OutOfMemory from error
            if self.step < steps and (interruption or time.monotonic() - saved >= checkpoints.EVERY_SECONDS):
                self.save()
                saved = time.monotonic()
                if interruption:
                    raise interruption.raised(f"step {self.step} of {steps} is kept as a checkpoint")

    @property
    def living(self) -> list[Member]:
        """Members that have not failed."""
        return [member for member in self.members.values() if member.failure is None]

    def _take_step(self) -> None:
        living = self.living
        shares = [self._shares(member) for member in living]
        items = torch.tensor([float(sum(map(self.loss.count, of_member))) for of_member in shares])
        items = items.to(self.base.device)
        losses = torch.zeros(len(living), device=self.base.device)
        judged = torch.zeros(len(living), device=self.base.device)
        for batches in zip(*shares, strict=True):
            for places in self._passes(batches):
                members = [living[place].number for place in places]
                found, right = self._pass(members, [batches[place] for place in places])
                (found / items[places]).sum().backward()
                losses[places] += found.detach() / items[places]
                judged[places] += right
        self.step += 1
        norms = {member.number: self.optimizer.clip(member.number, member.largest_norm) for member in living}
        rates = {member.number: member.rates[self.step - 1] for member in living}
        self.optimizer.step(rates)
        self._note(living, losses.tolist(), (judged / items).tolist(), norms, rates)

    def _shares(self, member: Member) -> list[Batch]:
        batch = member.order[self.step]
        return [
            member.setup.collate([self.rows[row] for row in batch[i : i + self.size]]) for i in range(0, len(batch), self.size)
        ]

    def _passes(self, batches: Sequence[Batch]) -> list[list[int]]:
        """Positions of the members whose batches share a pass."""
        if self.base.device.type != "cpu":
            return [list(range(len(batches)))]
        return in_passes([batch["input_ids"].numel() for batch in batches])

    def _pass(self, members: list[int], batches: Sequence[Batch]) -> tuple[torch.Tensor, torch.Tensor]:
        """(sum of losses, number of correct predictions) of each member."""
        inputs, owners = self.layout.join(members, batches, self.base.device)
        with torch.autocast(self.base.device.type, torch.bfloat16, enabled=bool(self.arguments.bf16)):
            return sums_by_owner(self.loss(self.base, inputs), owners, len(members))

    def _note(
        self, living: list[Member], losses: list[float], right: list[float], norms: dict[int, float], rates: dict[int, float]
    ) -> None:
        epoch = _epoch(self.step, len(self.rows), living[0].run.config.training.global_batch_size, self.size)
        for member, loss, share in zip(living, losses, right, strict=True):
            if not math.isfinite(loss):
                member.failure = TrainingError(
                    f"the loss became {loss} at step {self.step}: training stopped and nothing was kept. Try a lower "
                    "training.learning_rate, longer warmup_steps, or dtype bfloat16 instead of float16."
                )
                self.optimizer.drop(member.number)
                continue
            figures = {
                "step": self.step,
                "loss": loss,
                "grad_norm": norms[member.number],
                "learning_rate": rates[member.number],
                "epoch": epoch,
            }
            judged = {} if member.run.config.task_type == "regression" else {self.loss.accuracy: share}
            member.history.append({**figures, **judged})
            member.report(self.step, loss)

    def save(self) -> None:
        """Write a checkpoint of all members."""
        made = checkpoints.saving_place(self.scratch) / f"checkpoint-{self.step}"
        state = {
            "form": STATE_FORM,
            "step": self.step,
            "optimizer": self.optimizer.state(),
            "streams": self.layout.streams,
            "members": {member.number: member.state() for member in self.members.values()},
        }
        with checkpoints.writing(self.scratch):
            shutil.rmtree(made.parent, ignore_errors=True)
            made.mkdir(parents=True)
            torch.save(state, made / STATE)
            checkpoints.seal(made, self.scratch)

    def resume(self) -> str | None:
        """Load the newest intact checkpoint.  Returns its name, or None."""
        folder = checkpoints.newest(self.scratch)
        if folder is None:
            return None
        state = torch.load(folder / STATE, map_location=self.base.device, weights_only=True)
        if state.get("form") != STATE_FORM:
            return None
        self.step = state["step"]
        for number, kept in state["members"].items():
            if self.members[number].restore(kept) is not None:
                self.optimizer.drop(number)
        self.optimizer.restore(state["optimizer"])
        self.layout.restore({number: _on_cpu(stream) for number, stream in state["streams"].items()})
        return folder.name


def in_passes(tokens: Sequence[int]) -> list[list[int]]:
    """Group members into passes of at most LARGEST_PASS tokens, or of one member.  tokens: tokens of each member."""
    passes: list[list[int]] = []
    room = 0
    for place, count in enumerate(tokens):
        if count > room or not passes:
            passes.append([])
            room = LARGEST_PASS
        passes[-1].append(place)
        room -= count
    return passes


def _epoch(step: int, rows: int, batch: int, size: int) -> float:
    """Epochs after a step, counted as transformers does: in micro-batches of at most `size` rows."""
    done, steps = divmod(step, -(-rows // batch))
    return done + steps * -(-batch // size) / count_shares(rows, batch, size)


def _on_cpu(stream: Any) -> Any:
    return tuple(part.cpu() for part in stream) if isinstance(stream, (tuple, list)) else stream.cpu()


def _replace(base: Any, name: str, module: torch.nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(base.get_submodule(parent), child, module)


def _refuse_dropout(base: Any) -> None:
    """Refuse a base model with dropout of its own: it would be drawn once for all members."""
    layers = [name for name, module in base.named_modules() if isinstance(module, torch.nn.Dropout) and module.p > 0]
    stated = [key for key, value in base.config.to_dict().items() if _is_dropout(key) and isinstance(value, float) and value]
    if layers or stated:
        raise CannotGroup(f"the base model itself has dropout ({', '.join([*stated, *layers][:3])})")


def _is_dropout(key: str) -> bool:
    """Whether a config field is dropout inside the base model.  A classifier head's dropout is a layer of its own."""
    return ("dropout" in key or key.endswith("_pdrop")) and "classifier" not in key

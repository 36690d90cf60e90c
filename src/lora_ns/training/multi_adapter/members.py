"""A run as a member of a group: initial weights, batches, learning rates, and how it is saved.

PEFT makes each member's start on the shared base, exactly as it does for the run alone; then its factors are taken off
again, and the base is left as it was.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from lora_ns.config.method_constraints import takes_out_of_base
from lora_ns.data.batch_sampler import Rows, Share
from lora_ns.data.collator import Collate
from lora_ns.data.token_dataset import TokenRows
from lora_ns.errors import TrainingError
from lora_ns.models.save_adapter import save_trained, write_weights
from lora_ns.store.progress import Report, silent
from lora_ns.store.run import Run
from lora_ns.training.batch_size import count_steps
from lora_ns.training.multi_adapter.layers import LowRank
from lora_ns.training.multi_adapter.layout import CannotGroup
from lora_ns.training.setup import Setup, run_batches, set_up_run


@dataclass
class Member:
    """One run of a group."""

    number: int
    run: Run
    steps: int
    rates: list[float]
    """The learning rate of each step."""
    largest_norm: float
    order: list[Rows]
    """Rows of each step's global batch."""
    parts: dict[str, LowRank]
    """Layer of the base model -> this member's low-rank factors."""
    heads: dict[str, torch.nn.Module]
    """Layer of the base model -> this member's own trained copy."""
    decays: list[tuple[torch.nn.Parameter, float]]
    """Every trained parameter and its weight decay."""
    saved_as: dict[str, torch.Tensor]
    """Parameter name in PEFT's file -> parameter."""
    setup: Setup
    history: list[dict[str, Any]] = field(default_factory=list)
    failure: TrainingError | None = None
    report: Report = silent
    """Called after each step."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint of the group holds of this member."""
        return {
            "parameters": [parameter.detach() for parameter, _ in self.decays],
            "history": json.dumps(self.history),
            "failure": None if self.failure is None else str(self.failure),
        }

    def restore(self, state: dict[str, Any]) -> TrainingError | None:
        """Load the state of a checkpoint.  Returns the error of a member that had failed."""
        self.history[:] = json.loads(state["history"])
        if state["failure"] is not None:
            self.failure = TrainingError(state["failure"])
            return self.failure
        with torch.no_grad():
            for (parameter, _), value in zip(self.decays, state["parameters"], strict=True):
                parameter.copy_(value)
        return None

    def save(self, started: Path, folder: Path) -> None:
        """Save the trained adapter.  started: folder with the adapter's files before training."""
        for name, parameter in self.saved_as.items():
            if not torch.isfinite(parameter).all():
                raise TrainingError(f"training ended with weights that are not finite ({name}); nothing was kept.")
        for path in started.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        write_weights(folder, {name: p.detach().cpu() for name, p in self.saved_as.items()}, self.setup.initial)
        lines = [json.dumps(line, allow_nan=False) + "\n" for line in self.history]
        (folder / "history.jsonl").write_text("".join(lines), encoding="utf-8")


def join(number: int, run: Run, base: Any, rows: TokenRows, collate: Collate, arguments: Any, started: Path) -> Member:
    """Return the run as member `number`.  started: an empty folder for the initial adapter files.

    base: the shared base model, unchanged after the call.
    """
    config = run.config
    steps = count_steps(config, len(rows))
    shared = (
        base if config.task_type == "causal_lm" else None
    )  # a classifier head is initialised while loading, from the member's own seed
    takes_out = shared is not None and takes_out_of_base(config.peft.fields.get("init_lora_weights"))
    taken_from = _weights_of(base) if takes_out else {}
    setup = set_up_run(run, rows, collate, steps, base=shared)
    model = setup.model
    save_trained(model, started)
    parts = _parts(model, setup.initial)
    heads = _heads(model)
    member = Member(
        number=number,
        run=run,
        steps=steps,
        rates=_rates(arguments, steps),
        largest_norm=config.training.max_grad_norm,
        order=list(run_batches(config, rows, Share(config.training.global_batch_size)).steps(steps)),
        parts=parts,
        heads=heads,
        decays=parameters_with_decay(model, config.training.weight_decay),
        saved_as=_names(model),
        setup=replace(setup, model=None),
    )
    model.unload()
    with torch.no_grad():
        for name, weight in taken_from.items():
            base.get_parameter(name).copy_(weight)
    return member


def _weights_of(base: Any) -> dict[str, torch.Tensor]:
    """Copies of the weights that the initialisation changes (PiSSA, OLoRA)."""
    return {
        f"{name}.weight": module.weight.detach().clone()
        for name, module in base.named_modules()
        if isinstance(module, torch.nn.Linear)
    }


def _parts(model: Any, initial: dict[str, Any] | None) -> dict[str, LowRank]:
    from peft.tuners.lora.layer import LoraLayer

    parts: dict[str, LowRank] = {}
    prefix = "base_model.model."
    for name, found in model.named_modules():
        layer: Any = found
        if not isinstance(found, LoraLayer) or "default" not in layer.lora_A:
            continue
        taken = None
        if initial is not None:
            taken = (initial[f"{name}.lora_A.weight"].clone(), initial[f"{name}.lora_B.weight"].clone())
        dropout = layer.lora_dropout["default"]
        magnitude = layer.lora_magnitude_vector["default"].weight if len(layer.lora_magnitude_vector) else None
        parts[name.removeprefix(prefix)] = LowRank(
            a=layer.lora_A["default"].weight,
            b=layer.lora_B["default"].weight,
            scaling=float(layer.scaling["default"]),
            dropout=float(getattr(dropout, "p", 0.0)),
            magnitude=magnitude,
            taken=taken,
        )
    return parts


def _heads(model: Any) -> dict[str, torch.nn.Module]:
    from peft.utils import ModulesToSaveWrapper

    return {
        name.removeprefix("base_model.model."): module.modules_to_save["default"]
        for name, module in model.named_modules()
        if isinstance(module, ModulesToSaveWrapper)
    }


def parameters_with_decay(model: Any, decay: float) -> list[tuple[torch.nn.Parameter, float]]:
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not decay:
        return [(p, 0.0) for _, p in trained]
    from transformers import Trainer  # its import takes a third of a second

    decaying = set(Trainer.get_decay_parameter_names(None, model))  # type: ignore[arg-type]
    return [(p, decay if name in decaying else 0.0) for name, p in trained]


def _names(model: Any) -> dict[str, torch.Tensor]:
    """Parameter name in PEFT's file -> the parameter object."""
    from peft import get_peft_model_state_dict

    trained = {p.data_ptr(): p for p in model.parameters() if p.requires_grad}
    state = get_peft_model_state_dict(model)
    missing = [name for name, tensor in state.items() if tensor.data_ptr() not in trained]
    if missing:  # a weight that is tied to another layer's
        raise CannotGroup(f"PEFT saves what is not trained ({', '.join(missing[:3])})")
    return {name: trained[tensor.data_ptr()] for name, tensor in state.items()}


def _rates(arguments: Any, steps: int) -> list[float]:
    """The learning rate of each step, from transformers' schedule."""
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=arguments.learning_rate)
    schedule = get_scheduler(
        arguments.lr_scheduler_type,
        optimizer=optimizer,
        num_warmup_steps=arguments.get_warmup_steps(steps),
        num_training_steps=steps,
        scheduler_specific_kwargs=arguments.lr_scheduler_kwargs,
    )
    rates = []
    for _ in range(steps):
        rates.append(float(schedule.get_last_lr()[0]))
        optimizer.step()
        schedule.step()
    return rates


def layers_of(members: Sequence[Member]) -> list[str]:
    """Replace every layer of the base model that a member trains."""
    return list(dict.fromkeys(name for member in members for name in member.parts))

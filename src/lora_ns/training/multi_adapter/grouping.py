"""Group the runs that share a process, before anything starts.  This depends only on the experiment and needs no torch.

Runs of one frozen base model that differ in seed, rank, learning rate and the like are trained jointly.  Short runs of a
small base model are trained one after another: importing torch takes longer than such a run.  Finished runs do not change the
groups, so a job that is retried or moved to another machine has the same runs.
"""

import json
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import Any

from lora_ns.config import OUTSIDE_DIGEST, RunConfig
from lora_ns.config.trackers import is_tracked
from lora_ns.store.run import Run

PEFT_FIELDS = frozenset(
    """
    r lora_alpha lora_dropout target_modules exclude_modules use_rslora use_dora init_lora_weights rank_pattern alpha_pattern
    layers_to_transform layers_pattern bias modules_to_save eva_config corda_config lora_ga_config calibration_rows
    """.split()
)
"""LoRA settings that may differ between members."""

OWN_TRAINING = frozenset("learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps weight_decay max_grad_norm".split())
"""Training settings that may differ between members."""

SHARED_TRAINING = frozenset(
    """
    global_batch_size num_train_epochs max_steps train_sampling_strategy optim bf16 gradient_checkpointing
    gradient_checkpointing_kwargs label_smoothing_factor adam_beta1 adam_beta2 adam_epsilon per_device_train_batch_size
    """.split()
)
"""Training settings that all members of a group share."""

SCHEDULES = frozenset(
    """
    linear cosine cosine_with_restarts polynomial constant constant_with_warmup inverse_sqrt cosine_with_min_lr
    warmup_stable_decay
    """.split()
)
"""Learning rate schedules that depend on the step only."""

METHOD_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused")


def why_alone(config: RunConfig) -> str | None:
    """Why a run cannot be a member of a group.  None if it can."""
    peft, training = config.peft, config.training
    if peft.method != "lora":
        return f"peft.method {peft.method}"
    other = sorted({key for key, value in peft.model_dump().items() if _is_said(value)} - PEFT_FIELDS - {"method"})
    if other:
        return f"peft.{other[0]}"
    if peft.fields.get("bias", "none") != "none":
        return "peft.bias"
    if config.task_type == "causal_lm" and peft.fields.get("modules_to_save"):
        return "peft.modules_to_save"
    if training.optim not in METHOD_OPTIMIZERS:
        return f"training.optim {training.optim}"
    if training.lr_scheduler_type not in SCHEDULES:
        return f"training.lr_scheduler_type {training.lr_scheduler_type}"
    if training.arguments.get("gradient_checkpointing") and peft.fields.get("lora_dropout"):
        return "training.gradient_checkpointing with peft.lora_dropout"
    if is_tracked(config):
        return "training.report_to"
    stated = {key for key, value in training.model_dump().items() if _is_said(value)}
    rest = sorted(stated - SHARED_TRAINING - OWN_TRAINING - OUTSIDE_DIGEST)
    return f"training.{rest[0]}" if rest else None


def _is_said(value: Any) -> bool:
    return value not in (None, False, "", [], {})


def _key_of(run: Run) -> str:
    """What members of one group share, as text: base model, tokens, task and shape of the steps."""
    training = run.config.training.model_dump()
    return json.dumps(
        {
            "tokens": run.tokens.name,
            "model": run.config.model.model_dump(),
            "task_type": run.config.task_type,
            "training": {key: training.get(key) for key in sorted(SHARED_TRAINING)},
        },
        sort_keys=True,
    )


def groups_of(runs: Sequence[Run], largest: int) -> list[list[Run]]:
    """Return the runs in groups of at most `largest` that can be trained jointly.  Other runs get a group of their own.

    Runs with the same seed are grouped first: they have the same rows in each step, so their joint batch has little padding.
    """
    together: dict[str, list[Run]] = {}
    groups: list[list[Run]] = []
    for run in runs:
        if largest < 2 or why_alone(run.config) is not None:
            groups.append([run])
        else:
            together.setdefault(_key_of(run), []).append(run)
    for members in together.values():
        groups += evenly(sorted(members, key=lambda run: run.config.seed), count_of(members, largest))
    return groups


def count_of(members: Sequence[Any], largest: int | Fraction) -> int:
    """Number of parts with at most `largest` members each."""
    return int(-(-len(members) // largest))


def evenly(members: Sequence[Run], count: int) -> list[list[Run]]:
    """Split the members in order into `count` parts.  Sizes differ by at most one, larger parts first."""
    each, more = divmod(len(members), count)
    ends = list(accumulate(each + (number < more) for number in range(count)))
    return [list(members[start:end]) for start, end in pairwise([0, *ends])]

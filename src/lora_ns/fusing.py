"""Which runs can be trained at once over one frozen base: decided from their configs alone, without torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from lora_ns.config import OUTSIDE_DIGEST, RunConfig
from lora_ns.store import Store, exists
from lora_ns.trackers import is_tracked

PEFT_FIELDS = frozenset(
    """
    r lora_alpha lora_dropout target_modules exclude_modules use_rslora use_dora init_lora_weights rank_pattern alpha_pattern
    layers_to_transform layers_pattern bias modules_to_save eva_config corda_config lora_ga_config calibration_rows
    """.split()
)
"""Settings of method lora that a sweep takes each member's own of."""

OWN_TRAINING = frozenset(
    "learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps weight_decay max_grad_norm".split()
)
"""Training settings that members may differ in."""

SHARED_TRAINING = frozenset(
    """
    global_batch_size num_train_epochs max_steps train_sampling_strategy optim bf16 gradient_checkpointing
    gradient_checkpointing_kwargs label_smoothing_factor adam_beta1 adam_beta2 adam_epsilon per_device_train_batch_size
    """.split()
)
"""Training settings that members have in common."""

SCHEDULES = frozenset(
    """
    linear cosine cosine_with_restarts polynomial constant constant_with_warmup inverse_sqrt cosine_with_min_lr
    warmup_stable_decay
    """.split()
)
"""Schedules that hang on the step alone."""

MAX_MEMBERS = 8
"""Runs that are trained at once where nothing else is said."""

METHOD_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused")


def why_alone(config: RunConfig) -> str | None:
    """Why a run is trained by itself; None where it can be a member of a sweep."""
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


def key_of(config: RunConfig, store: Store) -> str:
    """What members of one sweep have in common, as text: base, tokens, task and shape of the steps."""
    training = config.training.model_dump()
    return json.dumps(
        {
            "tokens": store.tokens(config).name,
            "model": config.model.model_dump(),
            "task_type": config.task_type,
            "training": {key: training.get(key) for key in sorted(SHARED_TRAINING)},
        },
        sort_keys=True,
    )


def groups_of(configs: Sequence[RunConfig], store: Store, largest: int) -> list[list[RunConfig]]:
    """The configs in groups that can each be trained at once, of at most so many; runs that cannot are by themselves.

    Runs of one seed take the same rows at the same time, so that little of their joint batch is padding: they go together.
    """
    together: dict[str, list[RunConfig]] = {}
    groups: list[list[RunConfig]] = []
    for config in configs:
        if largest < 2 or why_alone(config) is not None:
            groups.append([config])
        else:
            together.setdefault(key_of(config, store), []).append(config)
    for members in together.values():
        groups += evenly(sorted(members, key=lambda config: config.seed), -(-len(members) // largest))
    return groups


def evenly(configs: Sequence[RunConfig], count: int) -> list[list[RunConfig]]:
    """The configs in so many parts, in order, whose sizes differ by one at most, larger ones first."""
    each, more = divmod(len(configs), count)
    ends = list(accumulate(each + (number < more) for number in range(count)))
    return [list(configs[start:end]) for start, end in pairwise([0, *ends])]


BEGUN = "runs.json"
"""In the scratch folder of runs that are trained at once: their names."""


def begun_groups(configs: Sequence[RunConfig], store: Store, largest: int) -> list[list[RunConfig]]:
    """Groups of at most so many of the configs whose training at once was begun and broken off.

    What was begun together is gone on with together, else its checkpoint would be of no use; with members whose adapters
    are there by now only where there is a checkpoint.
    """
    waiting = {store.run_name(config): config for config in configs}
    begun = []
    for file in sorted(store.scratch("").glob(f"sweep-*/{BEGUN}")):
        try:
            names = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        made = [exists(store.adapter(name)) for name in names]
        is_left = not any(made) or (not all(made) and any(file.parent.glob("checkpoint-*")))
        if is_left and len(names) <= largest and all(name in waiting for name in names):
            begun.append([waiting.pop(name) for name in names])
    return begun

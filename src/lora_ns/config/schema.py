"""Schema of a task config.  Field names are Hugging Face's where it has one."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lora_ns.config.base import Section
from lora_ns.config.dataset import DatasetConfig
from lora_ns.config.evaluation import EvaluationConfig
from lora_ns.config.launch import LaunchConfig, Topology
from lora_ns.config.library_fields import described, types_of

NOT_SETTINGS = frozenset(
    ["task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"]
)
"""Fields that PEFT fills in by itself. They may be in a PEFT file but are no settings here."""

TaskType = Literal["causal_lm", "classification", "regression"]


class ModelConfig(Section):
    """The base model."""

    name_or_path: str = Field(min_length=1)
    """A hub name, a local folder, or `builtin:<name>`."""
    revision: str | None = None
    """The commit of a hub model; without it the result cannot be made again for sure, and the tables say so."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the base model's weights."""
    quantization: Literal["none", "4bit", "8bit"] = "none"
    """The base in 4 bits (nf4, as QLoRA) or 8, by bitsandbytes, where memory is short."""
    attn_implementation: str | None = None
    """As transformers has it (`sdpa`, `eager`, `flash_attention_2`); None: its own choice."""
    trust_remote_code: bool = False
    """Runs code that comes with a model; only for a model that you trust by name."""


OUR_PEFT_FIELDS: dict[str, Any] = {"calibration_rows": int}
"""Keys of the `peft` section (method lora) that are ours, not PEFT's."""


class PeftSection(BaseModel):
    """The method, and the fields of its PEFT config class as they are."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, use_attribute_docstrings=True)

    method: str = "lora"
    """Any of PEFT's methods, `none` (the base model as it is) or `full` (all weights)."""

    @property
    def fields(self) -> dict[str, Any]:
        """The stated fields of the PEFT config class."""
        return {key: value for key, value in (self.model_extra or {}).items() if key not in OUR_PEFT_FIELDS}

    @property
    def calibration_rows(self) -> int | None:
        """Number of training rows read by a data-driven initialisation; None if not stated."""
        return (self.model_extra or {}).get("calibration_rows")


class TrainingConfig(BaseModel):
    """global_batch_size, and any field of transformers.TrainingArguments."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, use_attribute_docstrings=True)

    global_batch_size: int = Field(default=32, gt=0)
    """Examples of one optimiser step, over all devices and accumulation."""
    per_device_train_batch_size: int | None = Field(default=None, gt=0)
    """At most so many examples at once on one device; outside every digest."""
    num_train_epochs: float = Field(default=3.0, gt=0)
    """Passes over the training rows, where max_steps is not given."""
    max_steps: int = -1
    """Optimiser steps; -1: as many as num_train_epochs takes."""
    learning_rate: float = Field(default=2e-4, gt=0)
    """The greatest of the schedule.  By itself 2e-4 for generation, 3e-4 for classification and regression."""
    lr_scheduler_type: str = "cosine"
    """As transformers has it: cosine, linear, constant_with_warmup …"""
    warmup_steps: float = Field(default=0.05, ge=0)
    """A share of all steps where below 1."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Of the trained weights."""
    max_grad_norm: float = Field(default=1.0, ge=0)
    """Gradients are clipped to this norm; 0: never."""
    train_sampling_strategy: Literal["group_by_length", "random", "sequential"] = "group_by_length"
    """Which rows make a batch: of like length out of fifty batches' worth of shuffled rows, so that little of it is padding;
    any; or in the order of the data."""
    optim: str = "adamw_torch"
    """As transformers has it (adamw_torch, paged_adamw_8bit …), or LoRA's own: loraplus, lora_fa, riemannian."""

    @property
    def arguments(self) -> dict[str, Any]:
        """All fields for transformers.TrainingArguments."""
        ours = {"global_batch_size", "per_device_train_batch_size"}
        return {key: value for key, value in self.model_dump().items() if key not in ours}


class MergedAdapter(Section):
    """One of several adapters that are merged together."""

    adapter: str
    """A run's name, or a folder that holds a PEFT adapter of the same base."""
    weight: float = 1.0
    """What its update is multiplied by."""
    sha256: str | None = None
    """Of a folder's weights; found by `lora-ns merge`.  A run's name says its content already."""


class MergeConfig(Section):
    """How an adapter, or several, are folded into their base."""

    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """None: the base model's."""
    tolerance: float | None = Field(default=None, gt=0)
    """Greatest difference of a logit between merged model and base + adapter, relative to the greatest logit.  None: as
    much as rounding to the merged model's dtype may do; for a quantised base the difference is measured and reported."""
    adapters: list[MergedAdapter] = []
    """Several adapters instead of the run's own."""
    combination: Literal["linear", "ties", "dare_linear", "dare_ties", "magnitude_prune"] = "linear"
    """How several updates of the same weight become one: their weighted sum; TIES (Yadav et al. 2023, arXiv 2306.01708);
    DARE (Yu et al. 2023, arXiv 2311.03099); or the sum of what is greatest in each."""
    density: float | None = Field(default=None, gt=0, le=1)
    """Share of each update that TIES, DARE and pruning keep."""
    majority_sign: Literal["total", "frequency"] = "total"
    """TIES: the sign that weighs more, or the one that more adapters have."""


class RunConfig(Section):
    """One configuration, complete: it runs alone."""

    task_name: str = Field(min_length=1)
    """Names the results."""
    task_type: TaskType
    """What the model does: write text, choose a class, or say a number."""
    model: ModelConfig
    method_name: str | None = None
    """The method's name in paths and tables; peft.method where it is not given."""
    peft: PeftSection = PeftSection()
    dataset: DatasetConfig
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    merge: MergeConfig = MergeConfig()
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of the model's and the adapter's initialisation, the order of the data, and dropout."""
    launch: LaunchConfig = Field(default=LaunchConfig(), exclude=True)
    """What it runs on; in no digest, run file or record's config: a run is the same on a laptop and on sixteen GPUs."""

    @property
    def method(self) -> str:
        """The method's name in paths and tables."""
        return self.method_name or self.peft.method

    @property
    def needs_gpu(self) -> bool:
        """Whether training needs a GPU. The project's own `builtin:` models train on a CPU in minutes."""
        return not self.model.name_or_path.startswith("builtin:")

    @property
    def topology(self) -> Topology:
        """Nodes, GPUs and processes of training.  Method `none` takes one process, since nothing is trained."""
        if self.peft.method == "none":
            return Topology(1, 0, 1)
        return self.launch.topology(needs_gpu=self.needs_gpu)


ALIASES = {
    "peft": {"lora_r": "r", "type": "method", "peft_type": "method", "num_prefix_tokens": "num_virtual_tokens"},
    "model": {"torch_dtype": "dtype", "name": "name_or_path", "model_name_or_path": "name_or_path"},
    "dataset": {"max_train_samples": "max_samples", "config_name": "subset", "test_split": "eval_split"},
    "training": {
        "num_epochs": "num_train_epochs",
        "batch_size": "global_batch_size",
        "lr": "learning_rate",
        "activation_checkpointing": "gradient_checkpointing",
        "activation_checkpointing_kwargs": "gradient_checkpointing_kwargs",
    },
}
"""Key names of other tools -> our key names."""

OWNED = {
    "output_dir": "artefacts lie where their digest says",
    "seed": "use the top-level `seed`",
    "data_seed": "use the top-level `seed`",
    "resume_from_checkpoint": "an interrupted run resumes by itself",
    "full_determinism": "runs are deterministic as they are",
    "push_to_hub": "nothing is uploaded",
    "do_train": "use `lora-ns train`",
    "do_eval": "use `lora-ns evaluate`",
    "do_predict": "use `lora-ns infer`",
    "eval_strategy": "nothing is evaluated while training; `lora-ns evaluate` does it afterwards",
    "use_cpu": "the device is found by itself",
    "remove_unused_columns": "the token columns are fixed",
    "eval_on_start": "nothing is evaluated while training; `lora-ns evaluate` does it afterwards",
    "save_only_model": "an interrupted run goes on from its checkpoint, optimizer and schedule included",
    "ignore_data_skip": "an interrupted run goes on with the rows that come next",
    "dataloader_drop_last": "the last batch of an epoch is trained on, however small",
    "shortcuts": "it is gone: rounding is all that is left to differ, so there is nothing to switch; leave it out",
    "load_best_model_at_end": "settings are chosen on the validation split by `tune:` in an experiment",
}
"""Training arguments that a user may not set -> what to do instead."""

OUTSIDE_DIGEST = frozenset(
    """
    per_device_train_batch_size per_device_eval_batch_size report_to run_name project disable_tqdm log_level
    log_level_replica log_on_each_node logging_strategy logging_steps logging_first_step logging_nan_inf_filter
    save_strategy save_steps save_total_limit enable_jit_checkpoint eval_steps
    eval_delay eval_accumulation_steps dataloader_num_workers dataloader_pin_memory
    dataloader_persistent_workers dataloader_prefetch_factor dataloader_multiprocessing_context
    dataloader_in_order skip_memory_metrics include_num_input_tokens_seen torch_empty_cache_steps debug
    deepspeed fsdp fsdp_config ddp_backend ddp_timeout ddp_bucket_cap_mb ddp_broadcast_buffers
    ddp_find_unused_parameters local_rank accelerator_config parallelism_config trackio_space_id
    trackio_bucket_id trackio_static_space_id
    """.split()
)
"""Training settings for logging, storage, devices and speed. They do not change what a run computes."""

METHODS_WITHOUT_PEFT = {"none": "the base model as it is", "full": "all weights are trained"}


def known_methods() -> list[str]:
    """Return every value of peft.method."""
    return [*METHODS_WITHOUT_PEFT, *sorted(described("peft"))]


def method_fields(method: str) -> dict[str, Any]:
    """Return setting -> type for a method."""
    if method in METHODS_WITHOUT_PEFT:
        return {}
    fields = types_of(described("peft")[method])
    fields = {name: kind for name, kind in fields.items() if name not in NOT_SETTINGS}
    return fields | (OUR_PEFT_FIELDS if method == "lora" else {})


def training_fields() -> dict[str, Any]:
    """Return key -> type for the `training` section."""
    ours = {name: field.annotation for name, field in TrainingConfig.model_fields.items()}
    return {**types_of(described("transformers")["TrainingArguments"]), **ours}

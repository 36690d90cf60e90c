"""Settings of method, base model and training that cannot go together, each with the reason; and what follows from them.

What stands here was tried with the installed PEFT (tests/models/test_adapter.py holds it to that), so that a run that cannot
work is refused before anything is fetched.
"""

from collections.abc import Mapping
from typing import Any

from lora_ns.config.library_fields import described
from lora_ns.config.schema import METHODS_WITHOUT_PEFT, RunConfig, method_fields
from lora_ns.config.yaml_io import nearest

CACHE_METHODS = ("prefix_tuning", "cartridge")
"""Methods that pass their trained vectors through the KV cache."""

NO_QUANTIZATION = frozenset(
    """
    adamss deft delora frod glora hra loha lokr osf peanut psoft supertuning tinylora trainable_tokens unilora xlora
    """.split()
)
"""Methods that need unquantised base weights, or have no effect on quantised ones."""

CANNOT_MERGE = {
    "adaption_prompt": "it adds a gated prompt inside the attention, which is no change of weights",
    "lily": "the adapters of all layers share weights that a router mixes anew for every input",
    "poly": "its skills are mixed by task at every call; PEFT has no merge for it",
    "shadow": "it follows the input through the layers, which is no change of weights",
    "xlora": "it mixes adapters anew for every input",
}
"""Methods that PEFT cannot merge into the base model, besides those that add to the input or the KV cache."""

DATA_DRIVEN = ("eva", "corda", "lora_ga")
"""Values of peft.init_lora_weights that read batches of the training data first."""

OPTIMIZERS_OF_LORA = ("lora_fa", "loraplus", "riemannian")
"""Values of training.optim from PEFT, in addition to those of transformers."""

DEFAULT_CALIBRATION_ROWS = 64


def takes_out_of_base(init: Any) -> bool:
    """Whether peft.init_lora_weights moves a part of the base weights into the adapter (PiSSA, OLoRA, CorDA, LoRA-GA)."""
    return isinstance(init, str) and (init in ("olora", "corda", "lora_ga") or init.startswith("pissa"))


def learns_a_prompt(method: str) -> bool:
    """Whether the method trains virtual tokens, not weights."""
    return method not in METHODS_WITHOUT_PEFT and "num_virtual_tokens" in method_fields(method)


def saves_head(method: str) -> bool:
    """Whether the adapter also contains a trained classification head."""
    return method in METHODS_WITHOUT_PEFT or "modules_to_save" in method_fields(method)


def why_not_merged(method: str) -> str | None:
    """Return why a method's adapter cannot be merged into its base model; None if it can."""
    if method == "none":
        return "nothing was trained"
    if method in CANNOT_MERGE:
        return CANNOT_MERGE[method]
    if learns_a_prompt(method):
        return "it adds to the input or the attention cache, not to the weights of the base model"
    return None


def impossible_runs(config: RunConfig) -> list[str]:
    """Return every incompatible pair of model, peft and training settings, as `key path: reason`."""
    return [
        *_range_problems(config),
        *_method_problems(config),
        *_quantization_problems(config),
        *_init_problems(config),
        *_optim_problems(config),
        *_schedule_problems(config),
    ]


def _range_problems(config: RunConfig) -> list[str]:
    """Return the numbers out of range. PEFT and transformers would refuse them later, or misread them."""
    problems = []
    if config.training.max_steps < 1 and config.training.max_steps != -1:
        problems.append(
            f"training.max_steps: expected 1 or more, or -1 for as many as num_train_epochs takes, found "
            f"{config.training.max_steps}."
        )
    if config.training.arguments.get("save_strategy") == "best":
        problems.append(
            "training.save_strategy: best would need a score while training; write steps, epoch or no. Settings are chosen on "
            "the validation split by `tune:` in an experiment."
        )
    workers = config.training.arguments.get("dataloader_num_workers") or 0
    if workers < 0:
        problems.append(f"training.dataloader_num_workers: expected 0 or more, found {workers}.")
    for key, value in config.peft.fields.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if key == "r" and is_number and value < 1 and config.peft.method != "oft":  # OFT's 0: as oft_block_size says
            problems.append(f"peft.r: expected 1 or more, found {value}.")
        if key.endswith("dropout") and is_number and not 0 <= value <= 1:
            problems.append(f"peft.{key}: expected a share from 0 to 1, found {value}.")
    return problems


def _method_problems(config: RunConfig) -> list[str]:
    method, fields, problems = config.peft.method, config.peft.fields, []
    if method in CACHE_METHODS and config.training.arguments.get("gradient_checkpointing"):
        problems.append(
            f"peft.method {method} with training.gradient_checkpointing: the prefix is handed over in the key-value "
            "cache, which checkpointing switches off; set gradient_checkpointing: false."
        )
    if config.task_type != "causal_lm" and not saves_head(method):
        problems.append(
            f"peft.method {method} with task_type {config.task_type}: its adapter cannot hold the trained head "
            "(PEFT gives it no modules_to_save), so the saved model would answer at random."
        )
    if config.task_type != "causal_lm" and method == "cpt":
        problems.append(f"peft.method cpt with task_type {config.task_type}: PEFT has it for causal_lm alone.")
    if method == "cpt":
        kinds = fields.get("cpt_tokens_type_mask") or [1]
        if max(kinds) % 4:
            problems.append(
                "peft.cpt_tokens_type_mask: its highest number must be a multiple of 4 (the answer of the last example), "
                "else PEFT counts no token of the run's own answers and the loss is not a number."
            )
    if method == "full" and config.model.dtype == "float16" and config.training.arguments.get("fp16"):
        problems.append("peft.method full with model.dtype float16 and training.fp16: fp16 scales float32 weights only.")
    if config.training.arguments.get("bf16") and config.training.arguments.get("fp16"):
        problems.append("training.bf16 with training.fp16: choose one.")
    return problems


def _quantization_problems(config: RunConfig) -> list[str]:
    quantization, method, fields = config.model.quantization, config.peft.method, config.peft.fields
    if quantization == "none":
        return []
    where = f"with model.quantization {quantization}"
    if method == "full":
        return [f"peft.method full {where}: quantised weights cannot be trained; use a PEFT method."]
    problems = []
    if method in NO_QUANTIZATION:
        problems.append(f"peft.method {method} {where}: PEFT's {method} cannot read quantised weights.")
    if fields.get("use_dora") and quantization == "8bit":
        problems.append(
            f"peft.use_dora {where}: DoRA needs the length of every weight column at each step, which PEFT cannot read "
            "back from 8-bit weights; use 4bit or none."
        )
    if takes_out_of_base(fields.get("init_lora_weights")):
        problems.append(
            f"peft.init_lora_weights {fields['init_lora_weights']} {where}: it takes a part out of the base's weights, "
            "which quantised weights lose to rounding; initialise by eva or loftq, or leave the base unquantised."
        )
    return problems


def _init_problems(config: RunConfig) -> list[str]:
    fields, problems = config.peft.fields, []
    init = fields.get("init_lora_weights")
    takes_out = takes_out_of_base(init)
    rows = config.peft.calibration_rows
    if rows is not None and init not in DATA_DRIVEN:
        problems.append(f"peft.calibration_rows: only init_lora_weights {', '.join(DATA_DRIVEN)} look at data.")
    if rows is not None and rows <= 0:
        problems.append(f"peft.calibration_rows: expected more than 0, found {rows}.")
    if takes_out and fields.get("use_dora"):
        problems.append(
            f"peft.init_lora_weights {init} with peft.use_dora: the trained adapter could only be put on a base from "
            "which the same part was taken out; PEFT cannot turn it into an adapter of the base as it is."
        )
    patterns = fields.get("rank_pattern") or fields.get("alpha_pattern")
    if takes_out and fields.get("use_rslora") and patterns:
        problems.append(
            f"peft.init_lora_weights {init} with use_rslora and a rank_pattern or alpha_pattern: each layer is scaled "
            "by the root of its own rank, so the trained adapter is none of the base as it is."
        )
    if init == "loftq" and config.model.quantization == "8bit":
        problems.append("peft.init_lora_weights loftq with model.quantization 8bit: LoftQ makes up for 4-bit rounding.")
    if init == "loftq" and config.model.quantization == "4bit":
        stated: Any = fields.get("loftq_config") or {}
        if isinstance(stated, Mapping) and (stated.get("loftq_iter", 1) != 1 or stated.get("loftq_bits", 4) != 4):
            problems.append(
                "peft.loftq_config with model.quantization 4bit: the base stays as bitsandbytes quantises it, so that the "
                "adapter fits any copy of it: loftq_bits 4 and loftq_iter 1."
            )
    return problems


def optimizers() -> list[str]:
    """Return every value of training.optim: those of transformers and those of PEFT."""
    return [*described("transformers")["OptimizerNames"], *OPTIMIZERS_OF_LORA]


def _schedule_problems(config: RunConfig) -> list[str]:
    schedule, known = config.training.lr_scheduler_type, described("transformers")["SchedulerType"]
    if schedule in known:
        return []
    return [
        f"training.lr_scheduler_type: there is no schedule {schedule!r}.{nearest(schedule, known)} Known: {', '.join(known)}."
    ]


def _optim_problems(config: RunConfig) -> list[str]:
    optim = config.training.optim
    if optim not in optimizers():
        return [f"training.optim: there is no optimizer {optim!r}.{nearest(optim, optimizers())}"]
    if optim in OPTIMIZERS_OF_LORA and config.peft.method != "lora":
        return [f"training.optim {optim} with peft.method {config.peft.method}: it treats LoRA's two matrices apart."]
    if optim in ("lora_fa", "riemannian") and config.peft.fields.get("use_dora"):
        return [f"training.optim {optim} with peft.use_dora: it is worked out for LoRA's product alone."]
    return []

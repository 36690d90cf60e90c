"""Recommended settings: defaults for missing settings, and warnings for unusual ones.

The recommendations: rank 8 and alpha 16 for small data, rank 16 to 32 and alpha 32 to 64 for large; every linear layer
(Dettmers et al. 2023, arXiv 2305.14314, section 4); a learning rate of 1e-4 to 2e-4 for generation and 3e-4 to 5e-4 for
classification; a cosine schedule with warm-up.  They hold for LoRA on models of the usual sizes.
"""

from collections.abc import Mapping
from typing import Any

from lora_ns.config.method_constraints import DATA_DRIVEN, DEFAULT_CALIBRATION_ROWS, takes_out_of_base
from lora_ns.config.schema import RunConfig

SMALL_DATA_ROWS = 10_000
LEARNING_RATES = {"causal_lm": (1e-4, 2e-4), "classification": (3e-4, 5e-4), "regression": (3e-4, 5e-4)}
"""Usual learning rates of LoRA, by task type."""
FULL_RATES = (5e-6, 1e-4)
"""Usual learning rates of full fine-tuning."""
OTHER_RATES = (1e-4, 1e-1)
"""Usual learning rates of methods with few parameters (VeRA, (IA)³, prompts), far above LoRA's."""
SMALL_MODELS = 10
"""Factor on the highest usual rate for models under a million parameters, such as the project's own."""
FAR = 100
OTHER_SCALES = ("lora_fa", "loraplus", "riemannian", "adafactor", "sgd", "adagrad", "rmsprop")
"""Optimisers whose learning rates differ from AdamW's."""
DEFAULT_LEARNING_RATE = {"causal_lm": 2e-4, "classification": 3e-4, "regression": 3e-4}
DEFAULT_RANK = 8


def with_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the raw config with defaults for LoRA's settings and the learning rate filled in."""
    result = dict(given)
    peft = result.get("peft", {"method": "lora"})
    if isinstance(peft, Mapping) and peft.get("method", "lora") == "lora":
        result["peft"] = _lora_with_defaults(peft)
    training, task_type = result.get("training", {}), result.get("task_type")
    if isinstance(training, Mapping) and "learning_rate" not in training and task_type in DEFAULT_LEARNING_RATE:
        result["training"] = {**training, "learning_rate": DEFAULT_LEARNING_RATE[str(task_type)]}
    return result


def _lora_with_defaults(peft: Mapping[str, Any]) -> dict[str, Any]:
    rank = peft.get("r", DEFAULT_RANK)
    defaults: dict[str, Any] = {"method": "lora", "r": rank, "target_modules": "all-linear"}
    if isinstance(rank, int):
        defaults["lora_alpha"] = usual_alpha(rank, peft.get("init_lora_weights"))
    if peft.get("init_lora_weights") in DATA_DRIVEN:
        defaults["calibration_rows"] = DEFAULT_CALIBRATION_ROWS
    return {**defaults, **peft}


def usual_alpha(rank: int, init: Any) -> int:
    """Return the usual alpha: twice the rank, or the rank if A and B start as a part of the base weights (scale 1)."""
    return rank if takes_out_of_base(init) and init != "lora_ga" else 2 * rank


def departures(config: RunConfig) -> list[str]:
    """Return the unusual settings of a config, as `key path: value, and the usual value`."""
    if config.peft.method in ("none", "full"):
        return _of_schedule(config) if config.peft.method == "full" else []
    found = [*_of_schedule(config)]
    if config.peft.method == "lora":
        found += [*_of_lora(config), *_of_learning_rate(config)]
    return found


def _of_lora(config: RunConfig) -> list[str]:
    fields, found = config.peft.fields, []
    rank, alpha = fields.get("r", DEFAULT_RANK), fields.get("lora_alpha", 2 * DEFAULT_RANK)
    rows = training_rows(config)
    if rows is not None and rows < SMALL_DATA_ROWS and rank > 16:
        found.append(f"peft.r: {rank} for {rows} rows; for small data 8 is usual, with lora_alpha 16.")
    if rows is not None and rows >= SMALL_DATA_ROWS and not 16 <= rank <= 32:
        found.append(f"peft.r: {rank} for {rows} rows; for large data 16 to 32 is usual, with lora_alpha 32 to 64.")
    usual = usual_alpha(rank, fields.get("init_lora_weights"))
    if not fields.get("use_rslora") and alpha != usual:
        found.append(f"peft.lora_alpha: {alpha} with r {rank}; {usual} is usual.")
    if fields.get("target_modules") != "all-linear" and not fields.get("target_parameters"):
        found.append(f"peft.target_modules: {fields.get('target_modules') or 'not all'}; all-linear usually does best.")
    return found


def _of_learning_rate(config: RunConfig) -> list[str]:
    if config.model.name_or_path.startswith("builtin:") or config.training.optim in OTHER_SCALES:
        return []  # models a thousand times smaller, and optimisers that scale the gradient, need other rates
    low, high = LEARNING_RATES[config.task_type]
    rate = config.training.learning_rate
    if low <= rate <= high:
        return []
    return [f"training.learning_rate: {rate:g} for {config.task_type}; with LoRA {low:g} to {high:g} is usual."]


def far_off(config: RunConfig) -> list[str]:
    """A learning rate that is a hundred times off what its method is used with: a slip of the pen, most likely."""
    if config.peft.method == "none" or config.training.optim in OTHER_SCALES:
        return []
    low, high = _usual_rates(config)
    rate = config.training.learning_rate
    if low / FAR <= rate <= high * FAR:
        return []
    way = "above" if rate > high else "below"
    return [
        f"training.learning_rate: {rate:g} is more than {FAR} times {way} what {config.peft.method} is trained with "
        f"({low:g} to {high:g}); is the exponent right?"
    ]


def _usual_rates(config: RunConfig) -> tuple[float, float]:
    """Return the (lowest, highest) usual learning rate of the config's method."""
    method = config.peft.method
    low, high = {"lora": LEARNING_RATES[config.task_type], "full": FULL_RATES}.get(method, OTHER_RATES)
    return (low, high * SMALL_MODELS) if config.model.name_or_path.startswith("builtin:") else (low, high)


def _of_schedule(config: RunConfig) -> list[str]:
    found = []
    if config.training.lr_scheduler_type != "cosine":
        found.append(f"training.lr_scheduler_type: {config.training.lr_scheduler_type}; cosine is usual.")
    if config.training.warmup_steps == 0 and not config.training.arguments.get("warmup_ratio"):
        found.append("training.warmup_steps: 0; a warm-up over a twentieth of the steps (0.05) is usual.")
    return found


def training_rows(config: RunConfig) -> int | None:
    """Return an upper bound on the number of training rows, if the config states one; else None."""
    data = config.dataset
    known = [data.max_samples, data.options.get("num_train")]
    counts = [count for count in known if isinstance(count, int)]
    return min(counts) if counts else None

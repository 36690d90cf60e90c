"""A run's `peft` section as a config of PEFT's own class, and whether that class accepts it."""

import json
from importlib.metadata import version
from typing import Any

from lora_ns.config import RunConfig
from lora_ns.config.library_fields import cache_folder, keep
from lora_ns.errors import ConfigError
from lora_ns.store.digests import digest_of


def build_peft_config(config: RunConfig, *, steps: int | None = None) -> Any:
    """Return the PEFT config object for the `peft` section.  Raises ConfigError with PEFT's reason."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftType

    config_class: Any = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(config.peft.method.upper())]
    method, fields = config.peft.method, config.peft.fields
    if method == "adalora" and fields.get("total_step") is None and steps is not None:
        # its schedule, laid over the run: a tenth of the steps at full rank, the last third at the final ranks
        fields = {"tinit": steps // 10, "tfinal": max(1, steps // 3), **fields, "total_step": steps}
    if method == "xlora" and fields.get("adapters"):
        # PEFT numbers the experts as it loads them, and later looks for them under these numbers
        fields["adapters"] = {str(number): path for number, path in enumerate(dict(fields["adapters"]).values())}
    try:
        return config_class(task_type=TASK_TYPES[config.task_type], **fields)
    except (ValueError, TypeError, ImportError, NotImplementedError, AttributeError) as error:
        raise ConfigError(f"peft: {config_class.__name__} refuses these settings: {reason_of(error)}") from error


def check_peft_config(config: RunConfig) -> None:
    """Raises ConfigError if `build_peft_config` would.

    The verdict is saved in the user's cache folder, so the next call does not import PEFT.
    """
    path = cache_folder() / f"peft-{version('peft')}-verdicts.json"
    key = digest_of({"task_type": config.task_type, "peft": config.peft.model_dump()})
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    if key not in known:
        known[key] = None
        try:
            build_peft_config(config, steps=1000)  # whatever the run has, the schedule laid over them is a possible one
        except ConfigError as error:
            known[key] = str(error)
        keep(path, known)
    if known[key] is not None:
        raise ConfigError(known[key])


TASK_TYPES = {"causal_lm": "CAUSAL_LM", "classification": "SEQ_CLS", "regression": "SEQ_CLS"}
"""Config task type -> PEFT task type."""


def reason_of(error: BaseException) -> str:
    """The first line of an error's message, or its class name if the message is empty."""
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__

"""PEFT's own adapter_config.json, as published or as saved beside an adapter, as the fields of a `peft` section."""

import json
from pathlib import Path
from typing import Any

from lora_ns.config.schema import NOT_SETTINGS, known_methods, method_fields
from lora_ns.errors import ConfigError

FACTS_OF_THE_BASE = ("token_dim", "num_layers", "num_attention_heads", "num_transformer_submodules")
"""What prompt methods note of the model they were made for; PEFT reads it off the model where it is not stated."""

LORA_DEFAULTS: dict[str, Any] = {"r": 8, "lora_alpha": 8, "target_modules": None}
"""What PEFT takes where a file does not say; stated, so that no other default comes in."""


def read_adapter_config(path: Path) -> dict[str, Any]:
    """`method` and its fields.  Left out: what says nothing (null; a key that this PEFT does not know, and is empty).

    Raises ConfigError where the file is none of PEFT's.
    """
    try:
        content = dict(json.loads(path.read_text(encoding="utf-8-sig")))
        method = str(content.pop("peft_type")).lower()
    except KeyError:
        raise ConfigError(f"{path} is not a PEFT adapter_config.json: it names no peft_type.") from None
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} is not a PEFT adapter_config.json: {error}.") from None
    known = method_fields(method) if method in known_methods() else {}
    fields = {
        key: value
        for key, value in content.items()
        if value is not None and key not in (*NOT_SETTINGS, *FACTS_OF_THE_BASE) and (key in known or value)
    }
    return {"method": method, **(LORA_DEFAULTS if method == "lora" else {}), **fields}

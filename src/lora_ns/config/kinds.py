"""Recognises the kind of a YAML file by its keys."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lora_ns.errors import ConfigError

Kind = Literal["task config", "method file", "experiment file", "evaluation file"]

HOLDS: dict[Kind, str] = {
    "task config": "task_name, task_type, model, dataset",
    "method file": "peft",
    "experiment file": "name, tasks, methods",
    "evaluation file": "benchmark, dataset, generation",
}
"""Characteristic keys of each kind."""


def kind_of(content: Mapping[str, Any]) -> Kind:
    """Return the likely kind of the file; task config by default."""
    if "task_name" in content or ("dataset" in content and "benchmark" not in content):
        return "task config"
    if "tasks" in content or "methods" in content:
        return "experiment file"
    if "benchmark" in content:
        return "evaluation file"
    return "method file" if "peft" in content else "task config"


def refuse_other_kinds(content: Mapping[str, Any], wanted: Kind, path: Path) -> None:
    """Raise ConfigError if the file is of another kind than `wanted`."""
    found = kind_of(content)
    if found == wanted or (wanted != "task config" and found == "task config" and "task_name" not in content):
        return  # the later check reports each missing key
    article = {"task config": "a", "method file": "a"}
    raise ConfigError(
        f"{path}: is {article.get(found, 'an')} {found}, and {article.get(wanted, 'an')} {wanted} is wanted here: one "
        f"that holds {HOLDS[wanted]}."
    )

"""A config of another tool, read key by key, so that no key is lost without a word; and ours, written from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from lora_ns.config import check, expand_dotted, merge, write_yaml
from lora_ns.config.library_fields import described
from lora_ns.config.method_constraints import optimizers
from lora_ns.config.schema import OUTSIDE_DIGEST, OWNED, TrainingConfig, training_fields
from lora_ns.config.text_files import replace_text
from lora_ns.errors import ConfigError

Value = TypeVar("Value")
_EMPTY: tuple[Any, ...] = (None, "", [], {})
_KINDS: dict[type, str] = {int: "a whole number", float: "a number", str: "text", bool: "true or false", dict: "keys and values"}


@dataclass
class ForeignConfig:
    """The content of another tool's config file.  An empty key counts as missing."""

    stated: Mapping[str, Any]
    within: str = ""
    """Key path of this part in the file, such as `datasets[0].`."""
    notes: list[str] = field(default_factory=list)
    """Remarks on the import, shared by all parts of a file."""
    _read: set[str] = field(default_factory=set)

    def part(self, stated: Mapping[str, Any], within: str) -> ForeignConfig:
        """Return a section of the file. It shares this part's list of remarks."""
        return ForeignConfig(stated, self.within + within, self.notes)

    def has(self, key: str) -> bool:
        """Whether the key has a non-empty value."""
        return self.stated.get(key) not in _EMPTY

    def take(self, key: str, kind: type[Value], default: Value) -> Value:
        """Return the key's value, of type `kind` (int, float, str, bool, dict).  Raises ConfigError for another type."""
        self._read.add(key)
        if not self.has(key):
            return default
        value = self.stated[key]
        wanted = (int, float) if kind is float else (kind,)
        if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
            raise ConfigError(f"{self.within}{key}: expected {_KINDS[kind]}, found {value!r}.")
        return cast(Value, float(cast(Any, value)) if kind is float else value)

    def value(self, key: str) -> Any:
        """Return the key's value unchecked; None if the key is missing or empty."""
        self._read.add(key)
        return self.stated.get(key) if self.has(key) else None

    def words(self, key: str) -> list[str]:
        """Return a list of names. The file may have a list or comma-separated text.  Raises ConfigError otherwise."""
        value = self.value(key)
        parts = value.split(",") if isinstance(value, str) else value or []
        if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
            raise ConfigError(f"{self.within}{key}: expected names, found {value!r}.")
        return [part.strip() for part in parts if part.strip()]

    def note(self, text: str) -> None:
        """Add a remark, unless it is there already."""
        if text not in self.notes:
            self.notes.append(text)

    def left(self) -> list[str]:
        """Return the keys with a value that were not read."""
        return [str(key) for key in self.stated if key not in self._read and self.has(key)]

    def note_left(self, watching: Iterable[str] = ()) -> None:
        """Add remarks on unread keys: one line for all keys that cannot change the result, one line for each other key."""
        known = {*OUTSIDE_DIGEST, *OWNED, *watching}
        left = self.left()
        idle = [key for key in left if key in known]
        if idle:
            self.note(
                f"{', '.join(self.within + key for key in idle)}: left out; they say how a run is watched, stored, sped up "
                "or spread over devices, not what it computes."
            )
        for key in left:
            if key not in known:
                self.note(f"{self.within}{key}: {self.stated[key]!r} has no counterpart here and was left out.")


def optimizer(theirs: ForeignConfig, key: str, default: str) -> str:
    """Return `training.optim`. An optimiser that the installed transformers lacks becomes adamw_torch, with a remark."""
    name = theirs.take(key, str, default)
    if name in optimizers():
        return name
    theirs.note(f"{key}: {name} is no optimizer of the installed transformers; adamw_torch stands in its place.")
    return "adamw_torch"


def schedule(theirs: ForeignConfig, key: str, default: str) -> str:
    """Return `training.lr_scheduler_type`. A schedule that transformers lacks becomes cosine, with a remark."""
    name = theirs.take(key, str, default)
    if name in described("transformers")["SchedulerType"]:
        return name
    theirs.note(f"{key}: {name} is no schedule of the installed transformers; cosine stands in its place.")
    return "cosine"


def lora_plus(theirs: ForeignConfig, training: dict[str, Any]) -> None:
    """Set `training` to LoRA+ where the file has its ratio. Here it is an optimiser, there an option of any optimiser."""
    ratio, embedding = theirs.value("loraplus_lr_ratio"), theirs.value("loraplus_lr_embedding")
    if ratio is None:
        return
    said = {"loraplus_lr_ratio": ratio, "loraplus_lr_embedding": embedding}
    training["optim_args"] = ",".join(f"{key}={value}" for key, value in said.items() if value is not None)
    if not training["optim"].startswith("adamw_torch"):
        theirs.note(f"loraplus_lr_ratio: LoRA+ runs with AdamW here; {training['optim']} was left out.")
    training["optim"] = "loraplus"


def copy_same_named(theirs: ForeignConfig) -> dict[str, Any]:
    """Keys that are fields of transformers.TrainingArguments there and here, taken as they are."""
    typed = set(TrainingConfig.model_fields)
    fields = [key for key in theirs.left() if key in training_fields() and key not in typed]
    return {key: theirs.value(key) for key in fields if key not in OUTSIDE_DIGEST and key not in OWNED}


def batch(theirs: ForeignConfig, per_device: int, accumulation: int) -> dict[str, Any]:
    """Return the batch sizes for one device, with a remark."""
    total = per_device * accumulation
    theirs.note(
        f"training.global_batch_size: {total} is {per_device} a device times {accumulation} of accumulation, as on one "
        "device; trained on N, theirs was N times that."
    )
    return {"global_batch_size": total, "per_device_train_batch_size": per_device}


def checked(ours: Mapping[str, Any], overrides: Mapping[str, Any], theirs: ForeignConfig, source: Path) -> dict[str, Any]:
    """Return our config with the overrides merged in, after checking it.

    Raises ConfigError with every error, every remark and a hint at the remedy.
    """
    content = merge(ours, expand_dotted(overrides))
    try:
        check(content, f"{source}, as our config", folder=source.parent)
    except ConfigError as error:
        raise ConfigError(
            [
                *error.problems,
                *(f"{source}: {note}" for note in theirs.notes),
                "Settings of ours after the file win over what it says: lora-ns import … FILE dataset.format=alpaca",
            ]
        ) from None
    return content


def write(content: Mapping[str, Any], path: Path, head: Iterable[str], *, force: bool) -> None:
    """Write our config to a file, with `head` as comments above it.  Raises ConfigError if the file exists, unless force."""
    if path.exists() and not force:
        raise ConfigError(f"{path} is there already; --force writes over it, --output names another.")
    replace_text(path, "".join(f"# {line}\n" for line in head) + write_yaml(content))

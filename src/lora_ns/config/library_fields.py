"""What PEFT, transformers and accelerate accept, as JSON files keyed by version.  Importing them takes seconds; checking a
config must not.

The files of the locked versions are a part of the package (`python -m lora_ns.config.library_fields` writes them, as
`make schemas` does).  Another version is imported once, and its file kept in the user's cache folder.
"""

import json
import os
import types
import typing
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import Strict

SHIPPED = Path(__file__).parent / "fields"
_PLAIN: dict[str, Any] = {t.__name__: t for t in (bool, int, float, str, list, dict, tuple, set)} | {"None": None}


def cache_folder() -> Path:
    """Where the user keeps what may be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lora-ns"


@cache
def described(package: str) -> dict[str, Any]:
    """What `_COLLECTED` says of the installed package."""
    file = f"{package}-{version(package)}.json"
    for folder in (SHIPPED, cache_folder()):
        with suppress(OSError, ValueError):
            return json.loads((folder / file).read_text(encoding="utf-8"))
    found = _COLLECTED[package]()
    keep(cache_folder() / file, found)
    return found


def keep(path: Path, content: Any) -> None:
    """Writes JSON whole or not at all; a folder that cannot be written is left as it is."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        scratch.replace(path)


def _peft() -> dict[str, Any]:
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    return {str(kind.value).lower(): _fields(config) for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}


def _transformers() -> dict[str, Any]:
    from transformers import SchedulerType, TrainingArguments
    from transformers.training_args import OptimizerNames

    return {
        "TrainingArguments": _fields(TrainingArguments),
        "SchedulerType": [kind.value for kind in SchedulerType],
        "OptimizerNames": [kind.value for kind in OptimizerNames],
    }


def _accelerate() -> dict[str, Any]:
    from accelerate.commands.config.config_args import ClusterConfig

    return {"ClusterConfig": _fields(ClusterConfig)}


_COLLECTED: dict[str, Callable[[], dict[str, Any]]] = {"peft": _peft, "transformers": _transformers, "accelerate": _accelerate}


def _fields(settings: Any) -> dict[str, Any]:
    """Name -> type of a dataclass's fields, as `type_of` reads it."""
    hints = typing.get_type_hints(settings)
    return {name: _told(hints[name]) for name in settings.__dataclass_fields__}


def _told(kind: Any) -> Any:
    """A type as JSON; `any` for one that only its library knows."""
    if kind in (None, type(None)):
        return "None"
    if isinstance(kind, type) and get_origin(kind) is None:
        return kind.__name__ if kind.__name__ in _PLAIN and kind.__module__ == "builtins" else "any"
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:  # a pattern may stand among the values (`pissa_niter_[number of iters]`)
        return "str" if any("[" in str(value) for value in inner) else {"literal": list(inner)}
    if origin in (Union, types.UnionType):
        # in one order: Python gives a union's members in that of the first like it in the process
        return {"union": sorted(map(_told, inner), key=str)}
    if origin in (list, dict, tuple, set):
        return {origin.__name__: ["..." if one is ... else _told(one) for one in inner]}
    return "any"


def type_of(told: Any) -> Any:
    """The type that pydantic checks a value against; Any for `any`.  YAML writes a tuple as a list."""
    if isinstance(told, str):
        return Annotated[tuple, Strict(False)] if told == "tuple" else _PLAIN.get(told, Any)
    ((kind, inner),) = told.items()
    if kind == "literal":
        return Literal[tuple(inner)]
    parts = tuple(... if one == "..." else type_of(one) for one in inner)
    if kind == "union":
        return Union[parts]  # noqa: UP007
    made = _PLAIN[kind][parts]
    return Annotated[made, Strict(False)] if kind == "tuple" else made


def types_of(fields: dict[str, Any]) -> dict[str, Any]:
    """Name -> type."""
    return {name: type_of(told) for name, told in fields.items()}


def main() -> None:
    """Writes the files of the installed versions, in place of those of others."""
    for old in SHIPPED.glob("*.json"):
        old.unlink()
    for package, collected in _COLLECTED.items():
        keep(SHIPPED / f"{package}-{version(package)}.json", collected())


if __name__ == "__main__":
    main()

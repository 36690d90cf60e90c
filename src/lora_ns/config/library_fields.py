"""Setting names and types of PEFT, transformers and accelerate, as one JSON file per version.

Importing these libraries takes seconds, too long for checking a config.  The files of the locked versions are part of the
package (written by `make schemas` or `python -m lora_ns.config.library_fields`).  Any other version is imported once, and
its file is saved in the user's cache folder.
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
    """Return the user's cache folder for lora-ns."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lora-ns"


@cache
def described(package: str) -> dict[str, Any]:
    """Return the setting types of the installed package: from the shipped file, the cache, or the package itself."""
    file = f"{package}-{version(package)}.json"
    for folder in (SHIPPED, cache_folder()):
        with suppress(OSError, ValueError):
            return json.loads((folder / file).read_text(encoding="utf-8"))
    found = _COLLECTED[package]()
    keep(cache_folder() / file, found)
    return found


def keep(path: Path, content: Any) -> None:
    """Write a JSON file atomically. A write error is ignored."""
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
    """Return field name -> type of a dataclass, in the JSON form that `type_of` reads."""
    hints = typing.get_type_hints(settings)
    return {name: _told(hints[name]) for name in settings.__dataclass_fields__}


def _told(kind: Any) -> Any:
    """Return a type as JSON; `any` for a type defined by the library."""
    if kind in (None, type(None)):
        return "None"
    if isinstance(kind, type) and get_origin(kind) is None:
        return kind.__name__ if kind.__name__ in _PLAIN and kind.__module__ == "builtins" else "any"
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:  # PEFT has a pattern among the values (`pissa_niter_[number of iters]`)
        return "str" if any("[" in str(value) for value in inner) else {"literal": list(inner)}
    if origin in (Union, types.UnionType):
        # sorted: Python caches unions, so the order is that of the first equal union in the process
        return {"union": sorted(map(_told, inner), key=str)}
    if origin in (list, dict, tuple, set):
        return {origin.__name__: ["..." if one is ... else _told(one) for one in inner]}
    return "any"


def type_of(told: Any) -> Any:
    """Return the type for pydantic; Any for `any`.  Tuples are not strict, since YAML writes them as lists."""
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
    """Return name -> type for pydantic."""
    return {name: type_of(told) for name, told in fields.items()}


def main() -> None:
    """Write the files of the installed versions and delete those of other versions."""
    for old in SHIPPED.glob("*.json"):
        old.unlink()
    for package, collected in _COLLECTED.items():
        keep(SHIPPED / f"{package}-{version(package)}.json", collected())


if __name__ == "__main__":
    main()

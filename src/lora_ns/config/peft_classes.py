"""PEFT's own config classes, run from their source without PEFT: importing it brings torch, which takes seconds.

What such a class checks when it is built no type says, so it has to run.  It looks at its own fields only: of what its
module imports, PEFT's names are taken from PEFT's source in the same way, the standard library's are real, and every
other package is a stand-in.  A class that asks a stand-in anything can be judged by PEFT itself alone (`NeedsPeft`).
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Sequence
from functools import cache
from importlib.util import resolve_name
from types import SimpleNamespace
from typing import Any

from lora_ns.config.installed import package_folder, peft_registrations

REAL = sys.stdlib_module_names | {"packaging"}
"""Packages that are imported as they are."""


class NeedsPeft(Exception):
    """Only PEFT itself, imported, can say."""


class _StandIn:
    """For anything that is not imported: may be named and called; says nothing."""

    def __init__(self, package: str):
        self._package = package

    def __getattr__(self, name: str) -> _StandIn:
        if name == "__version__":
            raise NeedsPeft
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_: Any, **__: Any) -> _StandIn:
        return self

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        """Another package's base class adds no setting; one of PEFT's may."""
        return (_Unknown,) if self._package == "peft" else ()

    def __or__(self, other: Any) -> Any:
        return Any

    __ror__ = __or__
    __hash__ = object.__hash__

    def _refuse(self, *_: Any) -> Any:
        raise NeedsPeft

    __bool__ = __eq__ = __contains__ = __iter__ = __len__ = __getitem__ = __instancecheck__ = _refuse


class _Unknown:
    """A class of which a part is missing: it cannot be built."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        raise NeedsPeft


def config_class(method: str) -> Any:
    """The config class of a PEFT method.  Raises NeedsPeft where its module cannot be run so."""
    try:
        return _member(*peft_registrations()[method])
    except Exception as error:  # of another release, whose modules do more than these
        raise NeedsPeft(method) from error


def _member(module: str, name: str) -> Any:
    """A name of one of PEFT's modules, from wherever the module has it."""
    for node in _source(module).body:
        if isinstance(node, ast.ImportFrom) and any(name == (alias.asname or alias.name) for alias in node.names):
            package = module if _is_package(module) else module.rpartition(".")[0]
            origin = resolve_name("." * node.level + (node.module or ""), package)
            if origin.split(".")[0] != "peft":
                break
            return _member(origin, next(a.name for a in node.names if name == (a.asname or a.name)))
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and _assigns(node, name):
            return node.value.value  # PEFT's version, for which the whole package need not run
    return _run(module)[name]


def _assigns(node: ast.Assign, name: str) -> bool:
    return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)


@cache
def _member_or_stand_in(module: str, name: str) -> Any:
    try:
        return _member(module, name)
    except Exception:  # a module of tensors, not of settings
        return _StandIn("peft")


def _is_package(module: str) -> bool:
    return (package_folder("peft").parent.joinpath(*module.split(".")) / "__init__.py").is_file()


@cache
def _source(module: str) -> ast.Module:
    place = package_folder("peft").parent.joinpath(*module.split("."))
    path = place / "__init__.py" if _is_package(module) else place.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def _run(module: str) -> dict[str, Any]:
    """The module's names, after running it with our imports."""
    package = module if _is_package(module) else module.rpartition(".")[0]
    names: dict[str, Any] = {
        "__name__": __name__,  # dataclasses look a class's module up among those imported
        "__package__": package,
        "__builtins__": {**vars(builtins), "__import__": _import},
    }
    exec(compile(_source(module), module, "exec"), names)
    return names


def _import(
    name: str, names: dict[str, Any] | None = None, _: Any = None, wanted: Sequence[str] | None = None, level: int = 0
) -> Any:
    """What an import statement of PEFT's gets."""
    full = resolve_name("." * level + name, names["__package__"]) if level and names else name
    package = full.split(".")[0]
    if package in REAL:
        return builtins.__import__(name, names, None, wanted or (), level)
    if package == "peft" and wanted:
        return SimpleNamespace(**{each: _member_or_stand_in(full, each) for each in wanted})
    return _StandIn(package)

"""What the installed PEFT and transformers accept, read from their source without importing them.

Importing them takes seconds; checking a config must not.  Their settings are dataclasses with annotated fields, so
the names and types stand in the source for `ast` to read: a new release brings its new methods and fields along
without a line here.  Whatever a class checks in `__post_init__` is left to the stage that builds it.
"""

from __future__ import annotations

import ast
import re
import typing
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from pydantic import Strict

NOT_SETTINGS = frozenset(
    ["task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"]
)
"""Fields that PEFT fills in by itself; a PEFT file may hold them, a config need not."""


def package_folder(package: str) -> Path:
    """Where the package lies.  Raises ModuleNotFoundError where it does not."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed")
    return Path(spec.origin).parent


def _annotated_fields(node: ast.ClassDef) -> dict[str, str]:
    return {
        line.target.id: ast.unparse(line.annotation)
        for line in node.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    }


def _with_bases(name: str, class_of: Callable[[str], ast.ClassDef | None]) -> dict[str, str]:
    """Fields of the class and of its bases, the class's own last, as a dataclass collects them."""
    node = class_of(name)
    if node is None:
        return {}
    fields: dict[str, str] = {}
    for base in reversed(node.bases):
        if isinstance(base, ast.Name):
            fields |= _with_bases(base.id, class_of)
    return fields | _annotated_fields(node)


class _Annotations(dict):
    """Names that an annotation may use; one we do not know stands for anything."""

    def __missing__(self, name: str) -> Any:
        return typing.Any


class _TupleOrList:
    """Stands for a tuple, which YAML writes as a list."""

    def __getitem__(self, values: Any) -> Any:
        return Annotated[tuple[values], Strict(False)]


class _AnyString:
    """Stands for a Literal one of whose values is a pattern."""

    def __getitem__(self, values: Any) -> type:
        return str


@cache
def _type_of(annotation: str) -> Any:
    """The annotation as a type; Any where it names what cannot be had without importing."""
    names = _Annotations({name: getattr(typing, name) for name in typing.__all__})
    names |= {t.__name__: t for t in (bool, int, float, str, list, dict, tuple, set)} | {"None": None}
    if "[number of" in annotation:  # a pattern stands among the literals (`pissa_niter_[number of iters]`)
        names["Literal"] = _AnyString()
    if "tuple[" in annotation:
        names["tuple"] = _TupleOrList()
    try:
        return eval(ast.unparse(ast.parse(annotation.strip("'\""), mode="eval")), {"__builtins__": {}}, names)
    except Exception:
        return typing.Any


@cache
def peft_fields(method: str) -> dict[str, Any]:
    """The fields of a method's config class by name, as types.  Raises KeyError for what the installed PEFT does not have."""
    _, config_class = peft_registrations()[method]
    return {field: _type_of(note) for field, note in _with_bases(config_class, _peft_class).items()}


def _peft_class(name: str) -> ast.ClassDef | None:
    """PEFT's config class of that name; a file is parsed only where a class of it is asked for."""
    path = _peft_class_files().get(name)
    return None if path is None else _classes_in(path).get(name)


@cache
def _peft_class_files() -> dict[str, Path]:
    """Class name -> the file that it stands in."""
    folder = package_folder("peft")
    tuners = folder / "tuners"
    paths = [folder / "config.py", *sorted(tuners.glob("*.py")), *sorted(tuners.glob("*/*.py"))]
    return {
        name: path
        for path in paths
        if path.name.endswith(("config.py", "_utils.py"))
        for name in re.findall(r"^class (\w+)", path.read_text(encoding="utf-8"), re.M)
    }


@cache
def _classes_in(path: Path) -> dict[str, ast.ClassDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


@cache
def peft_registrations() -> dict[str, tuple[str, str]]:
    """Method name -> (module that registers it, name of its config class there)."""
    registered: dict[str, tuple[str, str]] = {}
    for path in sorted((package_folder("peft") / "tuners").glob("*/__init__.py")):
        text = path.read_text(encoding="utf-8")
        if "register_peft_method(" in text:
            module = f"peft.tuners.{path.parent.name}"
            registered |= {method: (module, name) for method, name in _registrations(ast.parse(text)).items()}
    return registered


def _registrations(tree: ast.Module) -> dict[str, str]:
    """The `name=` and `config_cls=` of each register_peft_method call."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "register_peft_method":
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            name, config_class = given.get("name"), given.get("config_cls")
            if isinstance(name, ast.Constant) and isinstance(config_class, ast.Name):
                found[str(name.value)] = config_class.id
    return found


@cache
def class_fields(package: str, file: str, name: str) -> dict[str, Any]:
    """The annotated fields of a class of a package's file by name, as types."""
    classes = _classes_in(package_folder(package) / file)
    return {field: _type_of(note) for field, note in _with_bases(name, classes.get).items()}


def training_arguments() -> dict[str, Any]:
    """Fields of transformers.TrainingArguments by name, as types."""
    return class_fields("transformers", "training_args.py", "TrainingArguments")


@cache
def enum_values(file: str, name: str) -> tuple[str, ...]:
    """The values of an enumeration of transformers, read from the source of that file."""
    members = _classes_in(package_folder("transformers") / file)[name]
    assigned = [line.value for line in members.body if isinstance(line, ast.Assign)]
    return tuple(str(value.value) for value in assigned if isinstance(value, ast.Constant))

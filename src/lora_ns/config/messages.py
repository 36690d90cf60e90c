"""Turns pydantic's validation errors into one line per key path: what was expected, what was found."""

import datetime
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from lora_ns.config.yaml_io import nearest

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "keys and values",
    "model_type": "keys and values",
    "model_attributes_type": "keys and values",
}
"""Pydantic's error type -> expected value in a file."""

LONGEST_SHOWN = 80


def lines_of(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return the error messages, in general one per key path.  model: the validated class, for its known keys."""
    faults: dict[str, list[Any]] = {}
    for fault in error.errors():
        faults.setdefault(_path(fault["loc"]), []).append(fault)
    lines = []
    for path, found in faults.items():
        wrong_type = all(fault["type"] in _EXPECTED for fault in found)
        if wrong_type and any(other.startswith(f"{path}.") for other in faults):
            continue  # another branch of a union; the matching branch has its own errors
        if wrong_type:
            lines.append(f"{path}: expected {_expected(found)}, found {shown(found[0]['input'])}{_hint(found)}.")
        else:
            lines += [_line(path, fault, model) for fault in found if fault["type"] not in _EXPECTED]
    return lines


def _line(path: str, fault: Any, model: type[BaseModel]) -> str:
    kind, context = fault["type"], fault.get("ctx") or {}
    if kind == "extra_forbidden":
        return f"{path}: there is no such key.{nearest(str(fault['loc'][-1]), keys_at(model, fault['loc'][:-1]))}"
    if kind == "missing":
        return f"{path}: is missing."
    if kind == "value_error":
        return f"{path}: {str(context['error']).rstrip('.')}.".removeprefix(": ")
    if kind in ("too_short", "too_long", "string_too_short"):
        bound = context.get("min_length") or context.get("max_length")
        most = "at most" if kind == "too_long" else "at least"
        unit = "letter" if kind.startswith("string") else "entry" if bound == 1 else "entries"
        return f"{path}: expected {most} {bound} {unit}, found {shown(fault['input'])}."
    if kind == "string_pattern_mismatch":
        return f"{path}: expected letters, digits, `_`, `.` and `-`, the first a letter or digit, found {shown(fault['input'])}."
    said = fault["msg"].replace("Input should be", "expected")
    return f"{path}: {said}, found {shown(fault['input'])}.{_nearest_choice(fault)}"


def _expected(faults: Sequence[Any]) -> str:
    kinds = list(dict.fromkeys(_EXPECTED[fault["type"]] for fault in faults))
    return " or ".join([", ".join(kinds[:-1]), kinds[-1]] if len(kinds) > 1 else kinds)


def _hint(faults: Sequence[Any]) -> str:
    """Return a hint where YAML read unquoted text as a boolean, number or date."""
    value = faults[0]["input"]
    if not any(fault["type"] == "string_type" for fault in faults):
        return ""
    if isinstance(value, bool):
        return " (YAML reads yes, no, on and off as true and false: put it in quotes)"
    if isinstance(value, (int, float, datetime.date)):
        return " (in quotes it is text)"
    return ""


def _nearest_choice(fault: Any) -> str:
    """Return a hint at the nearest of the allowed words, or an empty string."""
    value = fault["input"]
    if fault["type"] != "literal_error" or not isinstance(value, str):
        return ""
    return nearest(value, fault["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", "))


def shown(value: Any) -> str:
    """Return a value as written in the file, shortened."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime.date):
        return str(value)
    text = repr(value) if not isinstance(value, Mapping) else f"keys and values ({', '.join(map(str, value)) or 'none'})"
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 2] + " …"


def _path(location: Iterable[Any]) -> str:
    """Return the key path of an error location, without the union branches that pydantic adds to it."""
    return ".".join(str(part) for part in location if not _is_branch(part))


def _is_branch(part: Any) -> bool:
    return isinstance(part, str) and (part in {"str", "int", "float"} or "[" in part or part.startswith("function-"))


def keys_at(model: Any, location: Iterable[Any]) -> list[str]:
    """Return the keys that the model has at a location."""
    for part in location:
        if hasattr(model, "model_fields") and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation)
    return list(getattr(model, "model_fields", {}))


def _model_in(annotation: Any) -> Any:
    """Return the model class in a type: the type itself, or a type argument such as a list's entry."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for a in typing.get_args(annotation) if (m := _model_in(a)) is not None), None)


def some_of(model: type[BaseModel], given: dict[str, Any], what: str, **needed: Any) -> dict[str, Any]:
    """Return the given subset of a section's fields, after checking each.  Raises ValueError.

    what: the word for a field in messages.  needed: values of required fields that are not in `given`."""
    known = model.model_fields
    if unknown := [key for key in given if key not in known]:
        raise ValueError("; ".join(f"there is no {what} {key!r}.{nearest(key, known)}" for key in unknown))
    try:
        model.model_validate({**needed, **given})
    except ValidationError as error:
        raise ValueError("; ".join(lines_of(error, model))) from None
    return given

"""Loads config files and overrides into a checked RunConfig. All errors are reported at once."""

import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic import ConfigDict as PydanticConfig

from lora_ns.config import schema
from lora_ns.config.adapter_config import read_adapter_config
from lora_ns.config.constraints import impossible, settled, with_held_out
from lora_ns.config.kinds import refuse_other_kinds
from lora_ns.config.messages import lines_of, shown
from lora_ns.config.recommendations import with_defaults
from lora_ns.config.schema import RunConfig
from lora_ns.config.yaml_io import expand_dotted, merge, nearest, read_mapping
from lora_ns.errors import ConfigError

LAYER_SECTIONS = ("method_name", "peft", "training", "model", "launch")
"""Top-level keys that a method file may contain."""


def load_config(path: Path, overrides: Mapping[str, Any] | None = None, method: Path | None = None) -> RunConfig:
    """Return the checked task config at `path`, with the method file and then the overrides merged into it.

    Raises ConfigError with every error, one line each with file and key path.
    """
    raw = read_task(path)
    if method is not None:
        raw = with_method(raw, read_method(method))
    return check(merge(raw, expand_dotted(overrides or {})), str(path), folder=path.parent)


def read_task(path: Path) -> dict[str, Any]:
    """Return the unchecked content of a task config.  Raises ConfigError for a file of another kind."""
    raw = read_mapping(path)
    refuse_other_kinds(raw, "task config", path)
    return _map_templates(raw, lambda name, where: _beside(name, path.parent))


def _beside(name: str, folder: Path) -> str:
    return str(folder / name) if not Path(name).is_file() and (folder / name).is_file() else name


def _map_templates(raw: dict[str, Any], change: Callable[[str, str], str]) -> dict[str, Any]:
    """Return the config with every `chat_template: FILE.jinja` (data set, held_out, benchmarks) passed through `change`.

    change: (file name, key path) -> new value.
    """

    def changed(holder: Any, where: str) -> Any:
        data = holder.get("dataset") if isinstance(holder, Mapping) else None
        name = data.get("chat_template") if isinstance(data, Mapping) else None
        if not isinstance(data, Mapping) or not isinstance(name, str) or not name.endswith(".jinja"):
            return holder
        return {**holder, "dataset": {**data, "chat_template": change(name, f"{where}dataset.chat_template")}}

    def all_changed(entries: list[Any], where: str) -> list[Any]:
        return [changed(entry, f"{where}.{i}.") for i, entry in enumerate(entries)]

    raw, asked = changed(raw, ""), raw.get("evaluation")
    data = raw.get("dataset")
    if isinstance(data, Mapping) and isinstance(data.get("held_out"), list):
        raw = {**raw, "dataset": {**data, "held_out": all_changed(data["held_out"], "dataset.held_out")}}
    if isinstance(asked, Mapping) and isinstance(asked.get("benchmarks"), list):
        benchmarks = all_changed(asked["benchmarks"], "evaluation.benchmarks")
        raw = {**raw, "evaluation": {**asked, "benchmarks": benchmarks}}
    return raw


def read_method(path: Path) -> dict[str, Any]:
    """Return the content of a method file: `peft` and the other sections it sets.  Raises ConfigError for other keys."""
    raw = read_mapping(path)
    refuse_other_kinds(raw, "method file", path)
    unknown = [key for key in raw if key not in LAYER_SECTIONS]
    if unknown:
        raise ConfigError(
            [f"{path}: {key}: a method file holds {', '.join(LAYER_SECTIONS)}.{nearest(key, LAYER_SECTIONS)}" for key in unknown]
        )
    if "peft" not in raw:
        raise ConfigError(f"{path}: the `peft` section is missing.")
    peft = raw["peft"]
    if isinstance(peft, dict) and (path.parent / str(peft.get("adapter_config"))).is_file():
        raw["peft"] = {**peft, "adapter_config": str(path.parent / peft["adapter_config"])}
    return {"method_name": path.stem, **raw}


def with_method(task: Mapping[str, Any], method: Mapping[str, Any]) -> dict[str, Any]:
    """Return the task config with its `peft` section replaced by the method's, and the method's other settings merged in."""
    return merge({key: value for key, value in task.items() if key != "peft"}, method)


def check(raw: Mapping[str, Any], where: str, folder: Path = Path()) -> RunConfig:
    """Return a raw mapping as a RunConfig.  Raises ConfigError with every error."""
    problems: list[str] = []
    given = _with_our_names(raw, problems)
    given = with_defaults(_with_adapter_config(given, folder, problems))
    given = _with_chat_template(given, folder, problems)
    given = _with_global_batch(given, problems)
    problems += _peft_problems(given.get("peft"))
    problems += _training_problems(given.get("training"))
    problems += [f"{path}: expected a finite number, found {value}." for path, value in _not_finite(given)]
    config = None
    try:
        config = RunConfig.model_validate(_coerced(given))
    except ValidationError as error:
        problems += lines_of(error, RunConfig)
    if config is not None:
        problems += impossible(config)
    if problems:
        raise ConfigError([f"{where}: {problem}" for problem in dict.fromkeys(problems)])
    assert config is not None
    return with_held_out(config.model_copy(update={"dataset": settled(config.dataset)}))


def _not_finite(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Yield key path and value of every infinite or NaN number. Digests cannot contain them."""
    if isinstance(value, float) and not math.isfinite(value):
        yield path, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _not_finite(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _not_finite(inner, f"{path}.{place}")


def _with_our_names(raw: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """Return the config with aliases replaced by our key names. Giving both is an error."""
    result = {str(key): value for key, value in raw.items()}
    for section, aliases in schema.ALIASES.items():
        given = result.get(section)
        if not isinstance(given, Mapping):
            continue
        renamed: dict[str, Any] = {}
        for key, value in given.items():
            name = aliases.get(key, str(key))
            if name in renamed or (name != key and name in given):
                problems.append(f"{section}.{key}: {name!r} says the same and is given too.")
            renamed[name] = value
        result[section] = renamed
    peft = result.get("peft")
    if isinstance(peft, Mapping) and isinstance(peft.get("method"), str):
        result["peft"] = {**peft, "method": peft["method"].lower().replace("-", "_")}
    return result


def _with_adapter_config(given: dict[str, Any], folder: Path, problems: list[str]) -> dict[str, Any]:
    """Return the config with `peft.adapter_config: FILE` replaced by that file's fields. Explicit keys take precedence."""
    peft = given.get("peft")
    if not isinstance(peft, Mapping) or "adapter_config" not in peft:
        return given
    stated = {key: value for key, value in peft.items() if key != "adapter_config"}
    name = peft["adapter_config"]
    path = next((p for p in (Path(str(name)), folder / str(name)) if p.is_file()), None)
    if path is None:
        problems.append(f"peft.adapter_config: there is no file {name!r} (looked here and beside the config).")
        return {**given, "peft": stated}
    try:
        fields = read_adapter_config(path)
    except ConfigError as error:
        problems += [f"peft.adapter_config: {problem}" for problem in error.problems]
        return {**given, "peft": stated}
    return {**given, "peft": {**fields, **stated}}


def _with_chat_template(given: dict[str, Any], folder: Path, problems: list[str]) -> dict[str, Any]:
    """Return the config with `chat_template: FILE.jinja` replaced by the file's text, so that the config is self-contained."""

    def text(name: str, where: str) -> str:
        path = Path(_beside(name, folder))
        if not path.is_file():
            problems.append(f"{where}: there is no file {name!r} (looked here and beside the config).")
            return "tokenizer"  # a valid placeholder, so that checking goes on and reports the other errors
        return path.read_text(encoding="utf-8-sig")

    return _map_templates(given, text)


def _with_global_batch(given: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """Return the config with accumulation steps x per-device batch replaced by the global batch size (one device)."""
    training = given.get("training")
    if not isinstance(training, Mapping) or "gradient_accumulation_steps" not in training:
        return given
    training = dict(training)
    steps = training.pop("gradient_accumulation_steps")
    per_device = training.get("per_device_train_batch_size")
    if "global_batch_size" in training or not isinstance(steps, int) or not isinstance(per_device, int):
        problems.append(
            "training.gradient_accumulation_steps: it is derived from training.global_batch_size; state "
            "global_batch_size alone, or per_device_train_batch_size and gradient_accumulation_steps as whole numbers."
        )
    else:
        training["global_batch_size"] = per_device * steps
    return {**given, "training": training}


def _peft_problems(peft: Any) -> list[str]:
    if not isinstance(peft, Mapping):
        return []
    method = peft.get("method", "lora")
    if method not in schema.known_methods():
        known = schema.known_methods()
        return [f"peft.method: there is no method {method!r}.{nearest(method, known)} Known: {', '.join(known)}."]
    fields = {key: value for key, value in peft.items() if key != "method"}
    if method in schema.METHODS_WITHOUT_PEFT and fields:
        meaning = schema.METHODS_WITHOUT_PEFT[method]
        return [f"peft.{key}: method {method!r} ({meaning}) has no settings." for key in fields]
    return _field_problems("peft", fields, schema.method_fields(method), f"a setting of method {method!r}")


def _training_problems(training: Any) -> list[str]:
    if not isinstance(training, Mapping):
        return []
    owned = [f"training.{key}: not to be set: {schema.OWNED[key]}." for key in training if key in schema.OWNED]
    rest = {key: value for key, value in training.items() if key not in schema.OWNED}
    typed = set(schema.TrainingConfig.model_fields)
    known = schema.training_fields()
    unknown = {key: value for key, value in rest.items() if key not in known}
    free = {key: value for key, value in rest.items() if key in known and key not in typed}
    what = "a field of transformers.TrainingArguments"
    return owned + _field_problems("training", unknown, known, what) + _field_problems("training", free, known, what)


def _field_problems(section: str, fields: Mapping[str, Any], known: Mapping[str, Any], what: str) -> list[str]:
    problems = []
    for key, value in fields.items():
        if key not in known:
            problems.append(f"{section}.{key}: not {what}.{nearest(key, known)}")
        elif value is not None and (fault := _type_fault(value, known[key])):
            problems.append(f"{section}.{key}: {fault}, found {shown(value)}.")
    return problems


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return TypeAdapter(kind)
    return TypeAdapter(kind, config=PydanticConfig(strict=True))


def _type_fault(value: Any, kind: Any) -> str | None:
    """Return "expected <type>" where the value has another type, else None."""
    try:
        _adapter(kind).validate_python(value)
    except ValidationError:
        return f"expected {type_name(kind)}"
    return None


def type_name(kind: Any) -> str:
    if kind is type(None):
        return "nothing"
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_name(a) for a in arguments if a is not type(None))
    if origin is typing.Literal:
        return "one of " + ", ".join(repr(a) for a in arguments)
    if origin is typing.Annotated:
        return type_name(arguments[0])
    if origin is tuple:
        return f"[{', '.join(type_name(a) for a in arguments)}]"  # as YAML writes it
    if arguments:
        return f"{origin.__name__} of {', '.join(type_name(a) for a in arguments)}"
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", dict: "keys and values"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))


def _coerced(given: dict[str, Any]) -> dict[str, Any]:
    """Return the config with integers converted to float where training and peft declare float: 1 and 1.0 are the same."""
    training, peft = given.get("training"), given.get("peft")
    if isinstance(training, Mapping):
        given = {**given, "training": _as_declared(training, schema.training_fields())}
    if isinstance(peft, Mapping) and peft.get("method", "lora") in schema.known_methods():
        given = {**given, "peft": _as_declared(peft, schema.method_fields(peft.get("method", "lora")))}
    return given


def _as_declared(fields: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    def one(key: str, value: Any) -> Any:
        wants_float = known.get(key) in (float, typing.Optional[float])  # noqa: UP045
        return float(value) if wants_float and type(value) is int else value

    return {key: one(key, value) for key, value in fields.items()}

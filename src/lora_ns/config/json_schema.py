"""JSON schemas of the project's YAML files. An editor uses them to complete keys and mark wrong ones.

This module generates configs/schema/*.json. The first line of each config names its schema:
`# yaml-language-server: $schema=schema/task.json`.  The schemas of method and experiment files refer to sections in
task.json.  `lora-ns validate` checks more: incompatible settings and missing files.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter

from lora_ns.config import (
    BenchmarkEntry,
    DatasetConfig,
    EvaluationConfig,
    GenerationConfig,
    MergeConfig,
    ModelConfig,
    RunConfig,
    TrainingConfig,
    known_methods,
    method_fields,
)
from lora_ns.config.dataset import HeldOut
from lora_ns.config.experiment_file import Entry, ExperimentFile, MethodEntry, SweepConfig
from lora_ns.config.launch import LaunchConfig
from lora_ns.config.method_constraints import optimizers
from lora_ns.config.schema import ALIASES, OWNED, MergedAdapter, training_fields

Schema = dict[str, Any]

_TEXTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
_EXTENDS = {**_TEXTS, "description": "A file, or several, from beside this one, which this one is laid over."}
_SECTIONS = ("model", "peft", "dataset", "training", "evaluation", "merge")


def task_schema(benchmarks: Sequence[str]) -> Schema:
    """Return the schema of a task config and of a run file.  benchmarks: all benchmark names."""
    own = _properties(RunConfig)
    keys = {**{name: part for name, part in own.items() if name not in _SECTIONS}, "extends": _EXTENDS}
    keys |= {name: {"$ref": f"#/$defs/{name}"} for name in _SECTIONS}
    needed = [{"required": ["task_name", "task_type", "model", "dataset"]}, {"required": ["extends"]}]
    return _file("Task config of lora-ns", keys, anyOf=needed) | {"$defs": _short(_definitions(sorted(benchmarks)))}


def method_schema(_: Sequence[str] = ()) -> Schema:
    """Return the schema of a method file."""
    keys = {"method_name": {"type": "string", "description": "Its name in paths and tables; the file's by itself."}}
    keys |= {name: {"$ref": f"task.json#/$defs/{name}"} for name in ("peft", "training", "model")}
    return _file("Method file of lora-ns", {**keys, "extends": _EXTENDS}, required=["peft"])


def experiment_schema(_: Sequence[str] = ()) -> Schema:
    """Return the schema of an experiment file."""
    keys = {**_properties(ExperimentFile), "extends": _EXTENDS}
    for name, entry in (("tasks", Entry), ("methods", MethodEntry)):
        known = _properties(entry) | ({"tune": _GRID} if entry is MethodEntry else {})
        described = {"type": "object", "properties": known, "required": ["config"], **_CLOSED}
        keys[name] |= {"items": {"anyOf": [{"type": "string"}, described]}}
    keys |= {"tune": {**_GRID, "description": keys["tune"]["description"]}}
    keys |= {"forgetting": {"$ref": "task.json#/$defs/dataset", "description": keys["forgetting"]["description"]}}
    return _file("Experiment file of lora-ns", keys, required=["name", "tasks", "methods"])


SCHEMAS: dict[str, Callable[[Sequence[str]], Schema]] = {
    "task": task_schema,
    "method": method_schema,
    "experiment": experiment_schema,
}

_WITHIN: dict[str, type[BaseModel]] = {kind.__name__: kind for kind in (HeldOut, LaunchConfig, SweepConfig)}
"""Nested sections, by class name."""

_CLOSED = {"additionalProperties": False}
_GRID = {
    "type": "object",
    "description": "Values to try of each setting.",
    "additionalProperties": {"anyOf": [{"type": "array", "minItems": 1}, {"type": "object"}]},
}


def _file(title: str, keys: Schema, **more: Any) -> Schema:
    """Return the schema of a whole file."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, "type": "object"}
    return _short({**head, "properties": keys, **_CLOSED, **more})


def _short(part: Any) -> Any:
    """Return the schema with `anyOf` of plain types shortened to a list of types, and every `anyOf` sorted.

    Sorting is needed because Python orders a nested Union's types as the first module that wrote them."""
    if isinstance(part, list):
        return [_short(inner) for inner in part]
    if not isinstance(part, dict):
        return part
    short = {key: _short(inner) for key, inner in part.items()}
    choice = short.get("anyOf")
    if not isinstance(choice, list):
        return short
    choice.sort(key=lambda one: (one == {"type": "null"}, json.dumps(one, sort_keys=True)))
    if all(set(one) == {"type"} and isinstance(one["type"], str) for one in choice):
        del short["anyOf"]
        short["type"] = list(dict.fromkeys(one["type"] for one in choice))
    return short


def _definitions(benchmarks: Sequence[str]) -> dict[str, Schema]:
    """Return the schemas of a task config's sections, by name."""
    entry = _object(BenchmarkEntry)
    entry["properties"] |= {
        "name": {"enum": benchmarks, "description": "Of the benchmark."},
        "dataset": {"$ref": "#/$defs/dataset"},
        "generation": {"$ref": "#/$defs/generation"},
    }
    evaluation = _object(EvaluationConfig)
    evaluation["properties"] |= {"generation": {"$ref": "#/$defs/generation"}}
    evaluation["properties"]["benchmarks"]["items"] = {"anyOf": [{"enum": benchmarks}, {"$ref": "#/$defs/benchmark"}]}
    merge = _object(MergeConfig)
    merge["properties"]["adapters"]["items"] = _object(MergedAdapter)
    return {
        "model": _with_aliases("model", _object(ModelConfig)),
        "peft": _peft(),
        "dataset": _dataset(),
        "training": _training(),
        "evaluation": evaluation,
        "merge": merge,
        "benchmark": {**entry, "required": ["name"]},
        "generation": _object(GenerationConfig),
    }


def _object(model: type[BaseModel]) -> Schema:
    """Return the schema of a section. No key is required, since an extended file may set it."""
    return {"type": "object", "description": model.__doc__, "properties": _properties(model), **_CLOSED}


def _properties(model: type[BaseModel]) -> dict[str, Schema]:
    """Return key -> schema with description."""
    found = {}
    for key, part in model.model_json_schema()["properties"].items():
        plain = {name: value for name, value in _inlined(part).items() if name != "title"}
        found[key] = {**plain, "description": " ".join(part.get("description", "").split())}
    return found


def _inlined(part: Any) -> Any:
    """Return a schema with the references to nested sections replaced by their schemas."""
    if isinstance(part, list):
        return [_inlined(inner) for inner in part]
    if not isinstance(part, dict):
        return part
    known = _WITHIN.get(str(part.get("$ref", "")).removeprefix("#/$defs/"))
    if known is not None:
        return {**{key: value for key, value in part.items() if key != "$ref"}, **_object(known)}
    return {key: _inlined(inner) for key, inner in part.items()}


def _dataset() -> Schema:
    section = _object(DatasetConfig)
    splits = dict.fromkeys(("train", "validation", "test"), _TEXTS)
    section["properties"]["name"]["anyOf"] = [*_TEXTS["anyOf"], {"type": "object", "properties": splits, **_CLOSED}]
    held_out = section["properties"]["held_out"]["anyOf"][0]["items"]
    held_out["properties"] |= {"dataset": {"$ref": "#/$defs/dataset"}}
    return _with_aliases("dataset", section)


def _training() -> Schema:
    """Return the schema of `training`: our keys and those of TrainingArguments that a user may set."""
    ours = _properties(TrainingConfig)
    theirs = {name: _of_type(kind) for name, kind in training_fields().items() if name not in (*ours, *OWNED)}
    ours["optim"] = {"enum": optimizers(), "description": ours["optim"]["description"]}
    keys = {**ours, **theirs, "gradient_accumulation_steps": {"type": "integer", "minimum": 1}}
    return _with_aliases("training", {"type": "object", "properties": keys, **_CLOSED})


def _peft() -> Schema:
    """Return the schema of `peft`: the method's name, and only that method's settings."""
    methods, aliases = known_methods(), {v: k for k, v in ALIASES["peft"].items() if v != "method"}
    cases = []
    for method in methods:
        fields = {name: _of_type(kind) for name, kind in method_fields(method).items()}
        fields |= {theirs: fields[ours] for ours, theirs in aliases.items() if ours in fields}
        named = {"properties": {"method": {"const": method}}, **({} if method == "lora" else {"required": ["method"]})}
        known = {"properties": {"method": True, "adapter_config": True, **fields}, **_CLOSED}
        cases.append({"if": named, "then": known})
    keys = {
        "method": {"enum": methods, "description": "Any of PEFT's methods, none (the base model) or full (all weights)."},
        "adapter_config": {"type": "string", "description": "PEFT's own adapter_config.json, read as it is."},
    }
    return {"type": "object", "description": "The method and its settings.", "properties": keys, "allOf": cases}


def _with_aliases(section: str, made: Schema) -> Schema:
    """Return the section's schema with the alias names added."""
    keys = made["properties"]
    for theirs, ours in ALIASES[section].items():
        keys[theirs] = {**{k: v for k, v in keys[ours].items() if k != "default"}, "description": f"The same as {ours}."}
    return made


def _of_type(kind: Any) -> Schema:
    """Return the schema of a type from PEFT's or transformers' source; {} if pydantic has none.  None means: not set."""
    try:
        made = TypeAdapter(kind).json_schema()
    except Exception:  # pydantic has no schema for some Python types
        return {}
    made.pop("title", None)
    return made if type(None) in get_args(kind) or not made else {"anyOf": [made, {"type": "null"}]}

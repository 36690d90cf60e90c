"""The reference, written from the code: config keys from the schema, verbs from the command line, benchmarks, methods.

`docs/conf.py` calls `write` at every build, so that nothing here can fall behind the code.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from lora_ns.benchmarks import TASK_TYPE_OF, Benchmark, benchmarks_by_module
from lora_ns.cli import app
from lora_ns.config import BenchmarkEntry, DatasetConfig, EvaluationConfig, GenerationConfig
from lora_ns.config.experiment_file import Entry, ExperimentFile, MethodEntry
from lora_ns.config.launch import LaunchConfig
from lora_ns.config.load import type_name
from lora_ns.config.schema import (
    ALIASES,
    OUTSIDE_DIGEST,
    OWNED,
    MergeConfig,
    MergedAdapter,
    ModelConfig,
    PeftSection,
    RunConfig,
    TrainingConfig,
    known_methods,
    method_fields,
    training_fields,
)


def write(folder: Path) -> None:
    """The pages of the reference, each only where it changed (Sphinx rereads what is newer)."""
    folder.mkdir(exist_ok=True)
    for name, lines in PAGES.items():
        path, text = folder / f"{name}.md", "\n".join(lines()) + "\n"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


# -- config keys -------------------------------------------------------------------------------------------------------


def task_config() -> Iterator[str]:
    """Every key of a task config, section by section."""
    yield "# Task config\n"
    yield (
        "Every key, as the schema has it.  A task config is complete and runs alone; "
        "[configs/template.yaml](../../configs/template.yaml) is one to copy, with comments.\n"
    )
    yield "## Top level\n"
    yield from keys(RunConfig, leave_out=("model", "peft", "dataset", "training", "launch", "evaluation", "merge"))
    for title, model in SECTIONS.items():
        yield f"## {title}\n"
        if model is not None:
            yield f"{inspect.getdoc(model)}\n"
            yield from keys(model)
        yield from MORE.get(title, lambda: iter(()))()
    yield "## Names from elsewhere\n"
    yield "Taken as ours, so that a config from elsewhere needs fewer changes:\n"
    for section, names in ALIASES.items():
        said = ", ".join(f"`{theirs}` for `{ours}`" for theirs, ours in names.items())
        yield f"- `{section}`: {said}"


def experiment_file() -> Iterator[str]:
    """Every key of an experiment file."""
    yield "# Experiment file\n"
    yield "What is compared: an experiment states what differs between its runs.\n"
    yield from keys(ExperimentFile)
    yield "## One of `tasks`\n"
    yield "A file's name, or:\n"
    yield from keys(Entry)
    yield "## One of `methods`\n"
    yield "A method file's name, or:\n"
    yield from keys(MethodEntry)


def keys(model: type[BaseModel], leave_out: tuple[str, ...] = ()) -> Iterator[str]:
    """A table of the model's fields: key, type, what holds where nothing is said, meaning."""
    yield "| key | takes | default | meaning |"
    yield "|---|---|---|---|"
    for name, info in model.model_fields.items():
        if name in leave_out:
            continue
        cells = (f"`{name}`", type_of(info), default_of(info), " ".join((info.description or "").split()))
        yield "| " + " | ".join(cell.replace("|", r"\|").replace("\n", " ") for cell in cells) + " |"
    yield ""


def type_of(info: FieldInfo) -> str:
    """A field's type in words; nested models and lists of them by what a file holds there."""
    return in_words(info.annotation).replace("'", "`")


def in_words(kind: Any) -> str:
    """A type as a reader of a config thinks of it."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return in_words(arguments[0])
    if origin is list:
        if isinstance(arguments[0], type) and issubclass(arguments[0], BaseModel):
            return f"a list of {', '.join(f'`{key}`' for key in arguments[0].model_fields)}"
        inside = in_words(arguments[0])
        return f"a list of {PLURALS.get(inside, inside)}"
    if origin is dict or (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return "keys and values"
    if origin in (Union, UnionType):
        return " or ".join(in_words(part) for part in arguments if part is not type(None))
    return "anything" if kind is Any else type_name(kind).removeprefix("one of ")


PLURALS = {"text": "texts", "a whole number": "whole numbers", "keys and values": "names, or entries as below"}


def default_of(info: FieldInfo) -> str:
    """What holds where a file says nothing."""
    default = info.default_factory() if info.default_factory else info.default  # type: ignore[call-arg]
    if default is PydanticUndefined:
        return "*to be given*"
    if isinstance(default, BaseModel):
        return "as below"
    words: dict[Any, str] = {None: "–", True: "`true`", False: "`false`"}
    if default is None or isinstance(default, bool):
        return words[default]
    return f"`{default}`" if default not in ([], {}, "") else "–"


def of_peft() -> Iterator[str]:
    yield (
        "The other keys are the fields of that method's own config class: [](methods.md).  `adapter_config: FILE` reads PEFT's "
        "own file.\n"
    )


def of_training() -> Iterator[str]:
    names = [name for name in training_fields() if name not in TrainingConfig.model_fields and name not in OWNED]
    yield "Any other field of `transformers.TrainingArguments` too, checked against the installed version:\n"
    yield ", ".join(f"`{name}`" for name in sorted(names)) + ".\n"
    yield "Not to be set, as something else sees to it:\n"
    yield from (f"- `{name}`: {reason}" for name, reason in OWNED.items())
    yield "\nOutside every digest, since they say how a run is watched, stored or spread over devices:\n"
    yield ", ".join(f"`{name}`" for name in sorted(OUTSIDE_DIGEST)) + ".\n"


SECTIONS: dict[str, type[BaseModel] | None] = {
    "model": ModelConfig,
    "peft": PeftSection,
    "dataset": DatasetConfig,
    "training": TrainingConfig,
    "launch": LaunchConfig,
    "evaluation": EvaluationConfig,
    "evaluation.benchmarks": BenchmarkEntry,
    "evaluation.generation": GenerationConfig,
    "merge": MergeConfig,
    "merge.adapters": MergedAdapter,
}
MORE = {"peft": of_peft, "training": of_training}


# -- methods and benchmarks --------------------------------------------------------------------------------------------


def methods() -> Iterator[str]:
    """Every method and its settings."""
    yield "# Settings of every method\n"
    yield (
        "The `peft` section of each method: the fields of PEFT's own config class, read from the installed PEFT.  What each "
        "method is, and which files are ready, stands in [](../methods.md).\n"
    )
    for name in known_methods():
        yield f"## {name}\n"
        fields = method_fields(name)
        yield from (f"- `{field}`: {type_name(kind)}" for field, kind in fields.items())
        yield "" if fields else "No settings.\n"


def benchmarks() -> Iterator[str]:
    """Every benchmark, what it asks and what it says."""
    yield "# Benchmarks\n"
    yield "Names for `evaluation.benchmarks`.  The first metric is the one that methods are compared by.\n"
    for module, specs in benchmarks_by_module().items():
        title, _, text = inspect.cleandoc(importlib.import_module(module).__doc__ or "").partition("\n")
        text = text.strip("\n")  # Markdown as it is: what is indented is shown as code
        yield f"## {title.rstrip('.')}\n\n{text}\n"
        yield "| benchmark | asks a model made for | by | metrics | settings |"
        yield "|---|---|---|---|---|"
        yield from map(_line_of, specs)
        yield ""


def _line_of(spec: Benchmark) -> str:
    metrics = [spec.main_metric, *(metric for metric in spec.metrics if metric != spec.main_metric)]
    settings = ", ".join(f"`{key}`" for key in spec.settings) or "–"
    return f"| `{spec.name}` | `{TASK_TYPE_OF[spec.kind]}` | {spec.kind} | {', '.join(metrics)} | {settings} |"


# -- verbs -------------------------------------------------------------------------------------------------------------


def commands() -> Iterator[str]:
    """Every verb with its arguments, options and example."""
    yield "# Commands\n"
    yield "Data on stdout, progress and messages on stderr; exit status 0 done, 1 failed, 2 wrong input.\n"
    verbs: Mapping[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name, verb in verbs.items():
        said, _, example = " ".join((verb.help or "").split()).partition("Example: ")
        yield f"## {name}\n\n{said.strip()}\n"
        if example:
            yield f"```text\n{example}\n```\n"
        yield from _parameters(verb)


def _parameters(verb: Any) -> Iterator[str]:
    shown = [parameter for parameter in verb.params if parameter.name != "help"]
    if not shown:
        return
    yield "| | default | meaning |"
    yield "|---|---|---|"
    for parameter in shown:
        is_option = parameter.opts[0].startswith("-")
        called = ", ".join(f"`{opt}`" for opt in parameter.opts) if is_option else f"`{parameter.name.upper()}`"
        default = "*to be given*" if parameter.required else _stated(parameter.default)
        yield f"| {called} | {default} | {(parameter.help or '').replace('|', chr(92) + '|')} |"
    yield ""


def _stated(default: Any) -> str:
    return "–" if default in (None, False, (), []) else f"`{default}`"


PAGES = {"config": task_config, "experiment": experiment_file, "methods": methods, "benchmarks": benchmarks, "commands": commands}

"""Incompatible settings of a config, each with the reason."""

import string
from functools import cache

from lora_ns.config.dataset import CHAT_FORMATS, DatasetConfig, HeldOut
from lora_ns.config.launch import is_sharded, launch_problems
from lora_ns.config.method_constraints import impossible_runs
from lora_ns.config.schema import RunConfig

CHAT_TEMPLATES = ("tokenizer", "tulu")
"""Values of dataset.chat_template other than a template's text."""


@cache
def template_columns(template: str) -> tuple[str, ...]:
    """Return the columns that a template names, in order.  Raises ValueError for an invalid template."""
    parts = [part for part in string.Formatter().parse(template) if part[1] is not None]
    names = [str(name) for _, name, _, _ in parts]
    for _, name, form, conversion in parts:
        if conversion not in (None, "r", "s", "a") or "{" in (form or ""):
            raise ValueError(f"{{{name}!{conversion or ''}:{form}}} is no way to write a column; {{{name}}} is")
    if any(not name.isidentifier() and not set(name).isdisjoint("[].!") for name in names) or "" in names:
        raise ValueError("a template names columns in braces, {like_this}; a brace itself is written twice: {{ }}")
    return tuple(dict.fromkeys(names))


def impossible(config: RunConfig) -> list[str]:
    """Return every incompatible pair of settings in a config, as `key path: reason`."""
    data = config.dataset
    problems = _source_problems(data)
    if config.task_type == "causal_lm":
        problems += format_problems(data)
    else:
        problems += _label_problems(config)
    problems += impossible_runs(config)
    problems += _launch_problems(config)
    return problems


def _launch_problems(config: RunConfig) -> list[str]:
    """Return the invalid launch settings, alone or together with the run's."""
    launch = config.launch
    problems = launch_problems(launch, config.topology, config.training.global_batch_size)
    if launch.config is None:
        return problems
    stated = [key for key in ("deepspeed", "fsdp", "fsdp_config") if config.training.arguments.get(key)]
    problems += [f"training.{key} with launch.config: the launch file says it; leave it out here." for key in stated]
    if config.model.quantization != "none" and is_sharded(launch.config):
        problems.append(
            f"model.quantization {config.model.quantization} with launch.config {launch.config}: it shards the weights, "
            "which quantised ones are not made for; take configs/launch/ddp.yaml or ZeRO-2."
        )
    return problems


def _source_problems(data: DatasetConfig) -> list[str]:
    if data.streaming and data.max_samples is None:
        return ["dataset.streaming: needs dataset.max_samples, the number of rows to read."]
    return []


def _label_problems(config: RunConfig) -> list[str]:
    """Return the problems of `dataset` for classification and regression, which read columns and a label."""
    data, problems = config.dataset, []
    if not data.text_columns:
        problems.append(f"dataset.text_columns: is missing; {config.task_type} reads one or two columns.")
    if config.task_type == "classification" and not data.labels:
        problems.append("dataset.labels: is missing; name the classes in the order of their numbers.")
    if config.task_type == "regression" and data.labels:
        problems.append("dataset.labels: regression predicts a number (dataset.label_column), not one of some classes.")
    for key in ("prompt_template", "response_template", "chat_template"):
        if getattr(data, key) is not None:
            problems.append(f"dataset.{key}: {config.task_type} reads dataset.text_columns as they are; leave it out.")
    if data.format != "plain":
        problems.append(f"dataset.format {data.format}: {config.task_type} reads columns, so its format is plain.")
    return problems


def format_problems(data: DatasetConfig, *, answered: bool = True) -> list[str]:
    """Return the problems of a causal_lm task's row format.  answered: whether completions are needed."""
    problems = []
    if data.format == "plain":
        problems += _template_problems(data, answered)
    else:
        problems += [
            f"dataset.{key}: format {data.format} has its own wording; leave it out, or use format plain."
            for key in ("prompt_template", "response_template")
            if getattr(data, key) is not None
        ]
    if data.format == "text" and data.chat_template is not None:
        problems.append("dataset.chat_template: format text is learned as it is; leave it out.")
    if data.format != "text" and data.text_columns is not None:
        problems.append("dataset.text_columns: belongs to classification, regression and format text.")
    if data.format == "text" and data.text_columns is not None and len(data.text_columns) != 1:
        problems.append("dataset.text_columns: format text reads one column.")
    template = data.chat_template
    if data.chat_template_options and template is None:
        problems.append("dataset.chat_template_options: there is no dataset.chat_template to be told of them.")
    if template is not None and template not in CHAT_TEMPLATES and "{" not in template:
        problems.append(f"dataset.chat_template: expected {', '.join(CHAT_TEMPLATES)} or a .jinja file, found {template!r}.")
    return problems


def _template_problems(data: DatasetConfig, answered: bool) -> list[str]:
    problems = []
    if data.response_template is None and answered:
        problems.append(
            "dataset.response_template: is missing; it says what the model learns to answer (rows of another shape than "
            "plain columns: set dataset.format to alpaca, sharegpt, messages or text)."
        )
    for key in ("prompt_template", "response_template"):
        template = getattr(data, key)
        if template is None:
            continue
        try:
            if not template_columns(template):
                problems.append(f"dataset.{key}: names no column; write one in braces, as in '{{question}}'.")
        except ValueError as error:
            problems.append(f"dataset.{key}: {error}.")
    if data.chat_template is not None and data.prompt_template is None:
        problems.append("dataset.prompt_template: is missing; with a chat template it is what the user says.")
    return problems


def with_held_out(config: RunConfig) -> RunConfig:
    """Return the config with dataset.held_out filled from the benchmarks whose rows must not be trained on.

    The adapter's digest then depends on these benchmarks only, not on further evaluation requests."""
    data, found = config.dataset, config.dataset.held_out
    if data.overlap == "report":
        found = None
    elif found is None:
        found = [
            HeldOut(benchmark=entry.name, dataset=entry.dataset, settings=entry.settings)
            for entry in config.evaluation.benchmarks
            if entry.dataset
        ]
    return config.model_copy(update={"dataset": data.model_copy(update={"held_out": found})})


def settled(data: DatasetConfig) -> DatasetConfig:
    """Return the section in normal form: implied values filled in, values without effect cleared."""
    changes: dict[str, object] = {}
    if not data.is_hub:
        changes |= {"subset": None, "revision": None, "streaming": False}
    if data.format in CHAT_FORMATS and data.chat_template is None:
        changes["chat_template"] = "tokenizer"
    if data.format == "text" and data.text_columns is None:
        changes["text_columns"] = ["text"]
    return data.model_copy(update=changes) if changes else data

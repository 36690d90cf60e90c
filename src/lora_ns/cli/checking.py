"""The verb that reads files and computes nothing: validate."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from lora_ns.cli.options import errors
from lora_ns.config import RunConfig, load_config, read_mapping
from lora_ns.config.launch import is_launch_file, launch_file_problems
from lora_ns.config.practice import departures
from lora_ns.engines import prepare_engines
from lora_ns.errors import ConfigError, LoraNsError
from lora_ns.experiment import load_experiment
from lora_ns.methods import check_peft_config
from lora_ns.store import Store, read_evaluation
from lora_ns.trackers import missing_trackers

app = typer.Typer()


@app.command()
def validate(files: Annotated[list[Path], typer.Argument(help="Configs, method files, experiments.")]) -> None:
    """Check files, all faults at once.  Example: lora-ns validate configs/*.yaml configs/experiments/demo.yaml"""
    problems: list[str] = []
    found: dict[Path, list[RunConfig]] = {}
    for file in files:
        try:
            found[file] = _validate(file)
        except ConfigError as error:
            problems += error.problems
        except LoraNsError as error:
            problems.append(f"{file}: {error}")
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    _check_with_peft(found)
    for line in _advice(found):
        errors.print(f"Note: {line}", markup=False, soft_wrap=True)
    typer.echo(f"{len(files)} file{'s are' if len(files) > 1 else ' is'} valid.")


def _validate(file: Path) -> list[RunConfig]:
    """The runs that the file describes, by what it holds: an experiment has tasks, a method file no task_name."""
    from lora_ns.config import check, read_method, with_method

    content = read_mapping(file)
    if "tasks" in content or "methods" in content:
        experiment = load_experiment(file)
        return [run.config for run in (*experiment.blueprint, *(trial.run for trial in experiment.trials))]
    elif "peft" in content and "dataset" not in content and "task_name" not in content:
        task = {"task_name": "any", "task_type": "causal_lm", "model": {"name_or_path": "any"}}
        data = {"dataset": {"name": "any", "response_template": "{any}"}}
        return [check(with_method(task | data, read_method(file)), str(file), folder=file.parent)]
    elif is_launch_file(content):
        if problems := launch_file_problems(str(file)):
            raise ConfigError(list(problems))
        return []
    elif "benchmark" in content and "generation" in content:
        read_evaluation(file)
        return []
    config, store = load_config(file), Store()
    store.run_name(config)
    for entry in config.evaluation.benchmarks:
        store.evaluation(config, entry)
    return [config]


def _advice(found: Mapping[Path, Sequence[RunConfig]]) -> Iterator[str]:
    """Where the valid configs of each file leave what is known to work; each remark once a file."""
    for file, configs in found.items():
        lines = (line for config in configs for line in (*departures(config), *missing_trackers(config)))
        for line in dict.fromkeys(lines):
            yield f"{file}: {line}"


def _check_with_peft(found: Mapping[Path, Sequence[RunConfig]]) -> None:
    """Builds each method's own config class, which checks what no type says.  Raises ConfigError with its reasons."""
    seen: dict[str, tuple[Path, RunConfig]] = {}
    for file, configs in found.items():
        for config in configs:
            if config.peft.method not in ("none", "full"):
                seen.setdefault(
                    json.dumps([config.task_type, config.peft.model_dump()], sort_keys=True), (file, config)
                )
    prepare_engines(*(config for _, config in seen.values()))
    problems = []
    for file, config in seen.values():
        try:
            check_peft_config(config)
        except ConfigError as error:
            problems += [f"{file}: {problem}" for problem in error.problems]
    if problems:
        raise ConfigError(problems)

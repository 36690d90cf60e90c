"""The commands for config files: validate, schema."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lora_ns.cli.options import errors
from lora_ns.config import RunConfig, check, load_config, read_mapping, read_method, with_method
from lora_ns.config.kinds import kind_of
from lora_ns.config.launch import is_launch_file, launch_file_problems
from lora_ns.config.recommendations import departures, far_off
from lora_ns.config.trackers import missing_trackers
from lora_ns.errors import ConfigError, InputError, LoraNsError
from lora_ns.experiment.study import load_experiment
from lora_ns.models.imports import prepare_imports
from lora_ns.models.peft_config import check_peft_config
from lora_ns.store.evaluation_file import read_evaluation
from lora_ns.store.paths import Store
from lora_ns.store.run import Run

app = typer.Typer()

PLAIN_LORA = {"r", "lora_alpha", "lora_dropout", "target_modules"}
"""LoRA settings that PEFT's config class does not check further, so its slow import is skipped."""


@dataclass(frozen=True)
class Described:
    """The runs that a valid file describes."""

    runs: Sequence[RunConfig] = ()
    trials: Sequence[RunConfig] = ()
    """Runs of a hyperparameter search; their settings may be far from the recommended ones."""
    is_part: bool = False
    """Whether the file is a method file only, so that there are no data and no model to check."""
    problems: Sequence[str] = ()
    """Faults of the file; the runs leave the faulty benchmarks out."""


@app.command()
def validate(
    files: Annotated[list[Path], typer.Argument(help="Configs, method files, experiments.", show_default=False)],
) -> None:
    """Check files, all faults at once, against the data and models that are here.  Example: lora-ns validate configs/*.yaml"""
    store = Store()
    problems: list[str] = []
    notes: list[str] = []
    found: dict[Path, Described] = {}
    for file in files:
        try:
            found[file] = _described(file, store)
        except ConfigError as error:
            problems += error.problems
        except LoraNsError as error:
            problems.append(f"{file}: {error}")
    problems += [problem for described in found.values() for problem in described.problems]
    problems += _refused_by_peft(found)
    for file, described in found.items():
        for text, is_fatal in _looked_ahead(described, store):
            (problems if is_fatal else notes).append(f"{file}: {text}")
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    for line in dict.fromkeys(notes):
        errors.print(f"Note: {line}", markup=False, soft_wrap=True)
    typer.echo(f"{len(files)} file{'s are' if len(files) > 1 else ' is'} valid.")


class Kind(StrEnum):
    """The kind of config file."""

    task = "task"
    method = "method"
    experiment = "experiment"


@app.command()
def schema(kind: Annotated[Kind, typer.Argument(help="Of which file.")] = Kind.task) -> None:
    """The JSON schema by which an editor completes a config.  Example: lora-ns schema task > configs/schema/task.json"""
    from lora_ns.benchmarks import all_benchmarks
    from lora_ns.config.json_schema import SCHEMAS

    typer.echo(json.dumps(SCHEMAS[kind](list(all_benchmarks())), indent=1, ensure_ascii=False))


def _described(file: Path, store: Store) -> Described:
    """Return the runs that the file describes.  Raises ConfigError with every fault."""
    content = read_mapping(file)
    kind = kind_of(content)
    if kind == "experiment file":
        experiment = load_experiment(file, store)
        return Described([run.config for run in experiment.planned_runs], [trial.run.config for trial in experiment.trials])
    if kind == "method file":
        task = {"task_name": "any", "task_type": "causal_lm", "model": {"name_or_path": "any"}}
        data = {"dataset": {"name": "any", "response_template": "{any}"}}
        return Described([check(with_method(task | data, read_method(file)), str(file), folder=file.parent)], is_part=True)
    if is_launch_file(content):
        if problems := launch_file_problems(str(file)):
            raise ConfigError(list(problems))
        return Described()
    if kind == "evaluation file":
        read_evaluation(file)
        return Described()
    return _described_task(file, load_config(file), store)


def _described_task(file: Path, config: RunConfig, store: Store) -> Described:
    """Return a task's run with its valid benchmarks only, so that its rows are checked even if a benchmark is faulty."""
    problems, asked, run = [], [], Run(config, store)
    for entry in config.evaluation.benchmarks:
        try:
            run.evaluation(entry)
            asked.append(entry)
        except ConfigError as error:
            problems += error.of(file).problems
        except InputError as error:
            problems.append(f"{file}: evaluation.benchmarks: {entry.name}: {error}")
    try:
        _ = run.name
    except ConfigError as error:
        raise ConfigError([*problems, *error.of(file).problems]) from None
    evaluation = config.evaluation.model_copy(update={"benchmarks": asked})
    return Described([config.model_copy(update={"evaluation": evaluation})], problems=problems)


def _refused_by_peft(found: Mapping[Path, Described]) -> list[str]:
    """Build each method's PEFT config class, which checks more than types, and return its error messages."""
    seen: dict[str, tuple[Path, RunConfig]] = {}
    for file, described in found.items():
        for config in (*described.runs, *described.trials):
            peft = config.peft
            if peft.method in ("none", "full") or (peft.method == "lora" and set(peft.fields) <= PLAIN_LORA):
                continue
            seen.setdefault(json.dumps([config.task_type, peft.model_dump()], sort_keys=True), (file, config))
    if not seen:
        return []
    prepare_imports(*(config for _, config in seen.values()))
    problems = []
    for file, config in seen.values():
        try:
            check_peft_config(config)
        except ConfigError as error:
            problems += [f"{file}: {problem}" for problem in error.problems]
    return problems


def _looked_ahead(described: Described, store: Store) -> Iterator[tuple[str, bool]]:
    """Yield (finding, whether a run would fail because of it) for a file's runs."""
    if described.runs and not described.is_part:
        from lora_ns.workflow.preflight import look_ahead

        prepare_imports(*described.runs)
        yield from ((finding.text, finding.fatal) for finding in look_ahead(described.runs, store))
    for config in described.runs:
        far = far_off(config)
        yield from ((line, not described.trials) for line in far)
        usual = () if far else departures(config)
        yield from ((line, False) for line in (*usual, *missing_trackers(config)))
    for config in described.trials:
        yield from ((line, False) for line in far_off(config))

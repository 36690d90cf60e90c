"""`lora-ns VERB`: argv to a stage.  Data on stdout, progress and messages on stderr; 0 done, 1 failed, 2 wrong input."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from lora_ns import cli_import, cli_models, cli_provenance, cli_scoring, cli_tables
from lora_ns.chain import make_adapter, make_tokens
from lora_ns.config import RunConfig, load_config, parse_overrides, read_mapping
from lora_ns.engines import prepare_engines
from lora_ns.errors import ConfigError, LoraNsError, TrainingError
from lora_ns.experiment import load_experiment
from lora_ns.failure import noting
from lora_ns.store import Evaluation, Store, exists, read_evaluation, read_record

app = typer.Typer(
    name="lora-ns",
    help="Which parameter-efficient fine-tuning method is better on your task, by how much, at what cost.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_models.app)
app.add_typer(cli_import.app)
app.add_typer(cli_provenance.app)
app.add_typer(cli_scoring.app)
app.add_typer(cli_tables.app)
errors = Console(stderr=True, highlight=False)

ConfigOption = Annotated[Path, typer.Option("--config", help="Task config or run file.", show_default=False)]
MethodOption = Annotated[Path | None, typer.Option("--method", help="Method file laid over the config.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="section.key=value …", show_default=False)]
ExperimentArgument = Annotated[Path, typer.Argument(help="Experiment file.", show_default=False)]


def _config(config: Path, method: Path | None, overrides: list[str] | None) -> RunConfig:
    return load_config(config, parse_overrides(overrides or []), method)


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
    cli_models.check_with_peft(found)
    for line in cli_models.advice(found):
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
    elif "benchmark" in content and "generation" in content:
        read_evaluation(file)
        return []
    config, store = load_config(file), Store()
    store.run_name(config)
    for entry in config.evaluation.benchmarks:
        store.evaluation(config, entry)
    return [config]


@app.command()
def plan(
    experiment: ExperimentArgument,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Every run of an experiment and what is there of it.  Example: lora-ns plan configs/experiments/demo.yaml"""
    store = Store()
    runs = load_experiment(experiment, store).runs
    lines: list[dict[str, Any]] = []
    for run in runs:
        scores = [store.score(run.name, evaluation.name).is_file() for evaluation in run.evaluations]
        trained = exists(store.adapter(run.name))
        state = "done" if scores and all(scores) else "trained" if trained else "missing"
        config = run.config
        lines.append(
            {"run": run.name, "task": config.task_name, "method": config.method, "seed": config.seed, "state": state}
        )
    if as_json:
        typer.echo(json.dumps(lines, indent=1))
        return
    table = Table("run", "state", box=None)
    for line in lines:
        table.add_row(line["run"], line["state"])
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    done = sum(line["state"] == "done" for line in lines)
    typer.echo(f"{len(lines)} runs: {done} done, {len(lines) - done} to do.")


@app.command()
def fetch(
    config: Annotated[Path | None, typer.Option("--config", help="Task config or run file.")] = None,
    evaluation: Annotated[Path | None, typer.Option("--evaluation", help="Evaluation file.")] = None,
    overrides: Overrides = None,
) -> None:
    """Get the rows of a config.  Example: lora-ns fetch --config configs/gsm8k.yaml"""
    from lora_ns.fetch import fetch as run_stage

    if (config is None) == (evaluation is None):
        raise ConfigError("fetch takes either --config or --evaluation.")
    store = Store()
    dataset = _config(config, None, overrides).dataset if config else read_evaluation(Path(str(evaluation))).dataset
    typer.echo(run_stage(dataset, store))


@app.command()
def pretrain(
    name: Annotated[str, typer.Argument(help="builtin:<name>", show_default=False)], quiet: QuietOption = False
) -> None:
    """Make one of the project's own base models.  Example: lora-ns pretrain builtin:tiny-llama"""
    from lora_ns.base_model import make_base_model

    typer.echo(make_base_model(name, Store(), quiet=quiet))


@app.command()
def tokenize(config: ConfigOption, overrides: Overrides = None, method: MethodOption = None) -> None:
    """Turn rows into tokens.  Example: lora-ns tokenize --config configs/gsm8k.yaml"""
    typer.echo(make_tokens(_config(config, method, overrides), Store()))


@app.command()
def train(
    config: ConfigOption,
    overrides: Overrides = None,
    method: MethodOption = None,
    trial: Annotated[
        bool, typer.Option("--trial", help="A loss that is not finite is a result, not a failure.")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Train one adapter.  Example: lora-ns train --config configs/gsm8k.yaml training.learning_rate=1e-4 seed=1"""
    settings, store = _config(config, method, overrides), Store()
    prepare_engines(settings)
    try:
        folder = make_adapter(settings, store, quiet=quiet)
        read_record(folder, diverged_too=trial)
    except TrainingError as error:
        if not trial:
            raise
        from lora_ns.trial import keep_divergence

        folder = keep_divergence(settings, store, str(error))
    typer.echo(folder)


@app.command()
def evaluate(
    config: ConfigOption,
    overrides: Overrides = None,
    method: MethodOption = None,
    evaluation: Annotated[
        Path | None, typer.Option("--evaluation", help="Evaluation file; else the config's own.")
    ] = None,
    rescore: Annotated[
        bool, typer.Option("--rescore", help="Judge kept predictions again, without generating.")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Score a config's adapter on its benchmarks.  Example: lora-ns evaluate --config configs/gsm8k.yaml seed=1"""
    from lora_ns.evaluate import evaluate as run_stage
    from lora_ns.fetch import fetch as fetch_rows
    from lora_ns.trial import score_divergence

    settings, store = _config(config, method, overrides), Store()
    prepare_engines(settings)
    requests: list[Evaluation] = (
        [read_evaluation(evaluation)]
        if evaluation
        else [store.evaluation(settings, entry) for entry in settings.evaluation.benchmarks]
    )
    if not requests:
        raise ConfigError(f"{config}: evaluation.benchmarks names nothing to evaluate.")
    make_adapter(settings, store, quiet=quiet)
    for request in requests:
        fetch_rows(request.dataset, store)
        store.write_evaluation_file(request)
        with noting(store, store.run_name(settings), "evaluate"):
            path = score_divergence(settings, request, store) or run_stage(
                settings, request, store, quiet=quiet, rescore=rescore
            )
        typer.echo(path)
        for name, value in json.loads(path.read_text())["metrics"].items():
            typer.echo(f"  {name}  {value:.4f}")


def main() -> None:
    """Runs a verb; a LoraNsError becomes one paragraph and its exit status."""
    try:
        app()
    except LoraNsError as error:
        label = "Wrong input" if error.exit_status == 2 else "Failed"
        errors.print(f"[bold red]{label}:[/bold red]", end=" ")
        errors.print(str(error), markup=False, soft_wrap=True)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        errors.print("Interrupted.")
        sys.exit(130)


if __name__ == "__main__":
    main()

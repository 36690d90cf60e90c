"""The commands that make artefacts: fetch, pretrain, tokenize, train, evaluate."""

import json
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ByteSize, TypeAdapter, ValidationError

from lora_ns.cli.options import ConfigOption, ConfigsOption, MarkerOption, MethodOption, Overrides, QuietOption, errors
from lora_ns.config import RunConfig, load_config, parse_overrides
from lora_ns.config.experiment_file import MAX_MEMBERS
from lora_ns.errors import Busy, ConfigError, EvaluationError, LoraNsError
from lora_ns.models.imports import keep_torch_away, prepare_imports
from lora_ns.store.evaluation_file import EvaluationRequest, read_checked_evaluation, read_evaluation
from lora_ns.store.model_files import folder_here
from lora_ns.store.paths import Store
from lora_ns.store.processes import Processes
from lora_ns.store.run import Run
from lora_ns.workflow.pipeline import make_adapters, make_base_model, make_scores, make_tokens

app = typer.Typer()


def _size(text: str) -> int:
    """Return the bytes of a size such as `16GiB`."""
    try:
        return TypeAdapter(ByteSize).validate_python(text)
    except ValidationError:
        raise typer.BadParameter(f"{text!r} is no size; write it as 16GiB or 500MB.") from None


def _config(config: Path, method: Path | None, overrides: list[str] | None) -> RunConfig:
    return load_config(config, parse_overrides(overrides or []), method)


@app.command()
def fetch(
    config: Annotated[Path | None, typer.Option("--config", help="Task config or run file.")] = None,
    evaluation: Annotated[Path | None, typer.Option("--evaluation", help="Evaluation file.")] = None,
    model: Annotated[bool, typer.Option("--model", help="A config's model of the hub instead of its rows.")] = False,
    overrides: Overrides = None,
) -> None:
    """Get the rows of a config, or its model.  Example: lora-ns fetch --config configs/gsm8k.yaml"""
    from lora_ns.data.fetch import fetch as run_stage
    from lora_ns.data.fetch import fetch_model

    if (config is None) == (evaluation is None):
        raise ConfigError("fetch takes either --config or --evaluation.")
    store = Store()
    if config and model:
        typer.echo(fetch_model(_config(config, None, overrides).model, store))
        return
    dataset = _config(config, None, overrides).dataset if config else read_evaluation(Path(str(evaluation))).dataset
    typer.echo(run_stage(dataset, store))


@app.command()
def pretrain(name: Annotated[str, typer.Argument(help="builtin:<name>", show_default=False)], quiet: QuietOption = False) -> None:
    """Make one of the project's own base models.  Example: lora-ns pretrain builtin:tiny-llama"""
    typer.echo(make_base_model(name, Store()))


@app.command()
def tokenize(config: ConfigOption, overrides: Overrides = None, method: MethodOption = None) -> None:
    """Turn rows into tokens.  Example: lora-ns tokenize --config configs/gsm8k.yaml"""
    run = Run(_config(config, method, overrides), Store())
    if folder_here(run.config.model, run.store) and not run.config.model.trust_remote_code:  # making a base model needs torch
        keep_torch_away()
    typer.echo(make_tokens(run))


@app.command()
def train(
    config: ConfigsOption,
    overrides: Overrides = None,
    method: MethodOption = None,
    trial: Annotated[bool, typer.Option("--trial", help="A loss that is not finite is a result, not a failure.")] = False,
    max_members: Annotated[
        int, typer.Option("--max-members", min=1, help="Of several runs, at most so many at once.")
    ] = MAX_MEMBERS,
    max_memory: Annotated[
        int | None,
        typer.Option(
            "--max-memory",
            parser=_size,
            metavar="SIZE",
            help="Of several runs, at most as many at once as are predicted to take so much, say 16GiB.",
        ),
    ] = None,
    marker: MarkerOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train an adapter, or several at once.  Example: lora-ns train --config configs/gsm8k.yaml seed=1"""
    store = Store()
    runs = [Run(_config(file, method, overrides), store) for file in config]
    prepare_imports(*(run.config for run in runs))
    failed: list[LoraNsError] = []

    def done(run: Run, outcome: Path | LoraNsError) -> None:
        if isinstance(outcome, LoraNsError):
            failed.append(outcome)
            if len(runs) > 1:
                errors.print(f"{run.name}: {outcome}", markup=False, soft_wrap=True)
        elif Processes.here().is_first:
            typer.echo(outcome)

    if len(runs) > 1:  # `lora-ns logs RUN` finds this log by the run's name
        errors.print("\n".join(["These runs share a process:", *(run.name for run in runs)]), soft_wrap=True)
    make_adapters(runs, done, trial=trial, max_members=max_members, max_memory=max_memory, quiet=quiet)
    if failed and len(runs) == 1:
        raise failed[0]
    summary = f"{len(failed)} of {len(runs)} runs failed; each says above why."
    if failed and (marker is None or any(isinstance(error, Busy) for error in failed)):
        raise LoraNsError(summary)
    if failed:
        errors.print(f"{summary} The others go on; whoever asks for these is told.")
    _mark(marker)


def _mark(marker: Path | None) -> None:
    if marker is not None:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()


@app.command()
def evaluate(
    config: ConfigsOption,
    overrides: Overrides = None,
    method: MethodOption = None,
    evaluation: Annotated[Path | None, typer.Option("--evaluation", help="Evaluation file; else each config's own.")] = None,
    rescore: Annotated[bool, typer.Option("--rescore", help="Judge kept predictions again, without generating.")] = False,
    marker: MarkerOption = None,
    quiet: QuietOption = False,
) -> None:
    """Score adapters on their benchmarks.  Example: lora-ns evaluate --config configs/gsm8k.yaml seed=1"""
    store = Store()
    runs = [Run(_config(path, method, overrides), store) for path in config]
    prepare_imports(*(run.config for run in runs))
    from lora_ns.evaluation.model_pool import BaseModelPool

    asked: dict[str, tuple[EvaluationRequest, list[Run]]] = {}
    for path, run in zip(config, runs, strict=True):
        requests = [read_checked_evaluation(evaluation, store)] if evaluation else run.evaluations
        if not requests:
            raise ConfigError(f"{path}: evaluation.benchmarks names nothing to evaluate.")
        for request in requests:
            asked.setdefault(request.name, (request, []))[1].append(run)
    bases, results = BaseModelPool(store), list[tuple[str, Path | Exception]]()
    for request, of_request in asked.values():
        made = make_scores(of_request, request, quiet=quiet, rescore=rescore, bases=bases, train=marker is None)
        results += made.items()
    if Processes.here().is_first:
        _say_scores(results)
    failed = [(run, error) for run, error in results if isinstance(error, Exception)]
    if len(results) == 1 and failed:
        raise failed[0][1]
    if failed:
        raise EvaluationError(f"{len(failed)} of {len(results)} scores could not be made.")
    _mark(marker)


def _say_scores(results: Sequence[tuple[str, Path | Exception]]) -> None:
    """Print each score file and its metrics; if there are several, also why a score failed."""
    for run, result in results:
        if isinstance(result, Exception):
            if len(results) > 1:
                foreign = not isinstance(result, LoraNsError)
                said = "".join(traceback.format_exception(result)) if foreign else str(result)
                errors.print(f"{run}: {said}", markup=False, soft_wrap=True)
            continue
        typer.echo(result)
        for name, value in json.loads(result.read_text())["metrics"].items():
            typer.echo(f"  {name}  {value:.4f}")

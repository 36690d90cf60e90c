"""The verbs that each make one artefact: fetch, pretrain, tokenize, train, evaluate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lora_ns.chain import make_adapter, make_tokens
from lora_ns.cli.options import ConfigOption, MethodOption, Overrides, QuietOption
from lora_ns.config import RunConfig, load_config, parse_overrides
from lora_ns.engines import prepare_engines
from lora_ns.errors import ConfigError, TrainingError
from lora_ns.failure import noting
from lora_ns.store import Evaluation, Store, read_evaluation, read_record

app = typer.Typer()


def _config(config: Path, method: Path | None, overrides: list[str] | None) -> RunConfig:
    return load_config(config, parse_overrides(overrides or []), method)


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

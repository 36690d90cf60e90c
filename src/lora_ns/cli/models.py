"""The commands for models and methods: merge, infer, methods."""

import json
import sys
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from lora_ns.cli.options import ConfigOption, MethodOption, Overrides, QuietOption, errors
from lora_ns.config import load_config, parse_overrides
from lora_ns.config import merge as overlay
from lora_ns.errors import ConfigError
from lora_ns.models.imports import prepare_imports
from lora_ns.store.paths import Store
from lora_ns.store.run import Run

app = typer.Typer()


@app.command()
def merge(
    config: ConfigOption,
    overrides: Overrides = None,
    method: MethodOption = None,
    adapters: Annotated[
        list[str] | None,
        typer.Option("--adapters", help="RUN or DIR[:WEIGHT], once each: merge these instead of the config's own."),
    ] = None,
    combination: Annotated[
        str | None, typer.Option("--combination", help="linear, ties, dare_linear, dare_ties or magnitude_prune.")
    ] = None,
    density: Annotated[float | None, typer.Option("--density", help="Share of each update that is kept.")] = None,
    output: Annotated[Path | None, typer.Option("--output", help="Another folder than results/merged/….")] = None,
    quiet: QuietOption = False,
) -> None:
    """Fold adapters into their base model.  Example: lora-ns merge --config configs/gsm8k.yaml --output ./merged"""
    from lora_ns.merging.merge import check_mergeable
    from lora_ns.merging.merge import merge as run_stage
    from lora_ns.workflow.pipeline import make_adapter, make_base

    stated: dict[str, Any] = {"combination": combination, "density": density}
    stated = {key: value for key, value in stated.items() if value is not None}
    if adapters:
        stated["adapters"] = [_weighted(word) for word in adapters]
    given = overlay(parse_overrides(overrides or []), {"merge": stated} if stated else {})
    run = Run(load_config(config, given, method), Store())
    check_mergeable(run.config)
    prepare_imports(run.config)
    if run.config.merge.adapters:
        make_base(run, quiet=quiet)
    else:
        make_adapter(run, quiet=quiet)
    folder = run_stage(run, output=output)
    _say_parity(json.loads((folder / "record.json").read_text())["parity"])
    typer.echo(folder)


def _weighted(word: str) -> dict[str, Any]:
    """Split `DIR:0.5` into adapter and weight; without a number after it, the colon belongs to the name."""
    name, colon, weight = word.rpartition(":")
    try:
        return {"adapter": name, "weight": float(weight)} if colon else {"adapter": word}
    except ValueError:
        return {"adapter": word}


def _say_parity(parity: Mapping[str, Any]) -> None:
    effect = parity.get("adapter_effect")
    scale = f"; the adapter itself moves one by up to {effect:.3g}" if effect else ""
    errors.print(
        f"Against {parity['against']}: a logit differs by up to {parity['max_logit_difference']:.3g} "
        f"(greatest {parity['max_logit']:.3g}{scale}); {parity['same_choice']:.1%} the same likeliest answers."
    )


@app.command()
def infer(
    config: ConfigOption,
    overrides: Overrides = None,
    method: MethodOption = None,
    adapter: Annotated[
        Path | None, typer.Option("--adapter", help="An adapter's or a whole model's folder; else the config's own adapter.")
    ] = None,
    base: Annotated[bool, typer.Option("--base", help="The base model as it is.")] = False,
    text: Annotated[
        list[str] | None, typer.Option("--text", help="What is asked; once for each column that the config reads.")
    ] = None,
    input_file: Annotated[Path | None, typer.Option("--input-file", help="Rows (.jsonl) or lines (.txt).")] = None,
    output_file: Annotated[Path | None, typer.Option("--output-file", help="Answers (.jsonl or .txt).")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="A conversation; /reset forgets it, /exit ends it.")] = False,
    system: Annotated[str | None, typer.Option("--system", help="What a conversation stands under.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="The text as it stands, without the run's template.")] = False,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, help="Rows at once.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Answer a file anew.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Ask a trained model.  Example: lora-ns infer --config configs/gsm8k.yaml --text "What is 25 * 4?" """
    from lora_ns.evaluation.infer import load_subject
    from lora_ns.workflow.pipeline import make_base

    ways = [bool(text), input_file is not None, chat]
    if sum(ways) != 1 or (input_file is None) != (output_file is None):
        raise ConfigError("infer takes one of --text, --chat, or --input-file with --output-file.")
    run = Run(load_config(config, parse_overrides(overrides or []), method), Store())
    prepare_imports(run.config)
    make_base(run, quiet=quiet)
    subject = load_subject(run, adapter=adapter, base=base, raw=raw)
    if text:
        _say(subject, text)
    elif chat:
        _chat(subject, system, quiet)
    else:
        assert input_file is not None and output_file is not None
        size = batch_size or run.config.evaluation.batch_size or 32
        _answer_file(subject, input_file, output_file, size, overwrite, quiet)


def _say(subject: Any, texts: list[str]) -> None:
    """Print one answer: streamed text, a regression value, or the classes sorted by probability."""
    from lora_ns.evaluation.infer import classify, prompt_from, row_of, texts_from
    from lora_ns.evaluation.repl import answer

    if subject.raw and len(texts) != 1:
        raise ConfigError("--raw takes one --text.")
    row = {"text": texts[0]} if subject.raw and subject.is_causal else row_of(texts, subject.config)
    if subject.is_causal:
        prompt = prompt_from(row, subject, "--text")
        answer(subject.model, subject.tokenizer, prompt, subject.generation, subject.chat, _write)
        _write("\n")
        return
    found = classify(subject, [texts_from(row, subject, "--text")])[0]
    if "value" in found:
        typer.echo(f"{found['value']:.6g}")
        return
    for label, probability in sorted(found["probabilities"].items(), key=lambda pair: -pair[1]):
        typer.echo(f"{label}  {probability:.4f}")


def _chat(subject: Any, system: str | None, quiet: bool) -> None:
    from lora_ns.data.chat_template import Chat
    from lora_ns.evaluation.repl import converse

    if not subject.is_causal:
        raise ConfigError(f"--chat: {subject.config.task_type} does not answer in text.")
    today = {"date": date.today().isoformat()}  # the real date: a chat is never recorded
    chat = subject.chat or Chat(subject.tokenizer, "tokenizer", today)
    converse(subject.model, subject.tokenizer, _lines(quiet), subject.generation, chat, _write, system)


def _lines(quiet: bool) -> Iterator[str]:
    """Yield the user's lines from stdin; on a terminal a `>` is printed to stderr first."""
    while True:
        if not quiet and sys.stdin.isatty():
            errors.print("[bold]>[/bold]", end=" ")
        line = sys.stdin.readline()
        if not line:
            return
        yield line


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _answer_file(subject: Any, source: Path, output: Path, batch_size: int, overwrite: bool, quiet: bool) -> None:
    from rich.progress import Progress

    from lora_ns.evaluation.infer import infer_file

    with Progress(console=errors, disable=quiet or not sys.stderr.isatty()) as bar:
        job = bar.add_task("answering", total=None)

        def advance(done: int, total: int) -> None:
            bar.update(job, advance=done, total=total)

        count = infer_file(subject, source, output, batch_size=batch_size, overwrite=overwrite, progress=advance)
    errors.print(f"{count} rows answered.")
    typer.echo(output)


@app.command()
def methods() -> None:
    """Every method that peft.method takes, and what it can do.  Example: lora-ns methods"""
    from lora_ns.config import known_methods, method_fields
    from lora_ns.config.method_constraints import NO_QUANTIZATION, saves_head, why_not_merged

    table = Table("method", "settings", "classification", "4 and 8 bit", "merge", box=None)
    for name in known_methods():
        quantised = name not in NO_QUANTIZATION and name != "full"
        marks = ["yes" if can else "no" for can in (saves_head(name), quantised, why_not_merged(name) is None)]
        table.add_row(name, str(len(method_fields(name))), *marks)
    Console(width=None if sys.stdout.isatty() else 100).print(table)

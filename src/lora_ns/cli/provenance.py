"""The commands for provenance: trace, verify, diff, doctor, archive."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from lora_ns.errors import ConfigError, DamagedError, LoraNsError
from lora_ns.store.paths import Store

app = typer.Typer()

JsonOption = Annotated[bool, typer.Option("--json", help="As JSON.")]


@app.command()
def trace(
    target: Annotated[str, typer.Argument(help="PATH, PATH:row,column or a run's name.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Where a number or file came from.  Example: lora-ns trace results/tables/demo/main.md:lora,gsm8k_flexible"""
    from lora_ns.provenance import as_text
    from lora_ns.provenance import trace as find

    found = find(target, Store())
    typer.echo(json.dumps(found, indent=1, ensure_ascii=False) if as_json else as_text(found))


@app.command()
def verify(
    targets: Annotated[
        list[str] | None, typer.Argument(help="Runs, experiment files, scores, or cells PATH:row,column.", show_default=False)
    ] = None,
    stored: Annotated[bool, typer.Option("--stored", help="Only the checksums of what lies here; makes nothing.")] = False,
    tolerance: Annotated[float, typer.Option(min=0, help="Greatest difference that counts as equal.")] = 1e-3,
    sample: Annotated[int | None, typer.Option(min=1, help="Only so many runs, drawn at random.")] = None,
    seed: Annotated[int, typer.Option(help="Of --sample.")] = 0,
    from_scratch: Annotated[bool, typer.Option("--from-scratch", help="Rows, tokens, base models too.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave results/scratch/verify-* for inspection.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make runs again in scratch and compare every bit.  Example: lora-ns verify configs/experiments/demo.yaml --sample 3"""
    if stored:
        _check_stored(as_json)
        return
    if not targets:
        raise ConfigError("verify takes runs, experiment files, scores or cells; or --stored.")
    from lora_ns.config import load_config
    from lora_ns.models.imports import prepare_imports
    from lora_ns.provenance.verify.targets import requests_of, verify_all

    store = Store()
    requests = requests_of(targets, store)
    if sample is not None and sample < len(requests.runs):
        requests = requests.only(random.Random(seed).sample(sorted(requests.runs), sample))
    prepare_imports(*(load_config(store.run_file(run)) for run in requests.runs if store.run_file(run).is_file()))
    states: Counter[str] = Counter()
    lines = []
    for verified in verify_all(requests, store, tolerance=tolerance, from_scratch=from_scratch, keep=keep):
        states[verified.state] += 1
        lines.append(verified.to_dict())
        if not as_json:
            _print_verified(verified)
    if as_json:
        typer.echo(json.dumps(lines, indent=1, ensure_ascii=False))
    counted = ", ".join(f"{count} {state}" for state, count in states.items())
    if set(states) - {"identical", "within"}:
        raise LoraNsError(f"{sum(states.values())} verified: {counted}.")
    typer.echo(f"{sum(states.values())} verified: {counted}.", err=as_json)


def _print_verified(verified: Any) -> None:
    typer.echo(f"{verified.state:<10} {verified.run}")
    for part in verified.parts:
        typer.echo(f"  {part.name:<12} {part.state}: {part.said}")
    for name, (then, now) in verified.environment.items():
        typer.echo(f"  {name}: {then} → {now}")


def _check_stored(as_json: bool) -> None:
    """Check every stored artefact and score against its record."""
    from lora_ns.provenance.verify.stored import checked

    found = {str(path): faults for path, faults in checked(Store())}
    bad = {path: faults for path, faults in found.items() if faults}
    if as_json:
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
    if bad:
        named = "\n".join(f"{path}: {'; '.join(faults)}" for path, faults in bad.items())
        raise DamagedError(
            f"{len(bad)} of {len(found)} artefacts are damaged:\n{named}\nNone of them is used. Bring them back (`git "
            "checkout`, `dvc checkout --force`), or remove them and they are made again."
        )
    if not as_json:
        typer.echo(f"{len(found)} artefacts are as their records say.")


@app.command()
def diff(
    first: Annotated[str, typer.Argument(help="A run: its name, the beginning of it, or a path of it.", show_default=False)],
    second: Annotated[str, typer.Argument(help="Another.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """What differs between two runs.  Example: lora-ns diff word_problems-tiny-llama-lora-s0 word_problems-tiny-llama-lora-s1"""
    from lora_ns.provenance.compare_runs import as_text, compare_runs

    found = compare_runs(first, second, Store())
    typer.echo(json.dumps(found, indent=1, ensure_ascii=False) if as_json else as_text(found))


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """What this machine has, and what is missing for which feature.  Example: lora-ns doctor"""
    from lora_ns.workflow.doctor import as_text, examine

    found = examine()
    typer.echo(json.dumps(found, indent=1, ensure_ascii=False) if as_json else as_text(found))
    if not found["ready"]:
        raise LoraNsError("this machine cannot run lora-ns as it is; see above.")


@app.command()
def archive(
    experiment: Annotated[Path, typer.Argument(help="Experiment file.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Folder to write; archive/<experiment> by default.")] = None,
    author: Annotated[list[str] | None, typer.Option(help="Who made it; may be given again.")] = None,
    licence: Annotated[str | None, typer.Option(help="An address, as of a Creative Commons licence, or words.")] = None,
) -> None:
    """One folder to deposit with a paper.  Example: lora-ns archive configs/experiments/demo.yaml --out archive/demo"""
    from lora_ns.provenance.archive import archive as write

    typer.echo(write(experiment, Store(), out, licence=licence, authors=author or ()))

"""The commands that import configs of other tools: import, import-peft-experiment."""

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lora_ns.cli.options import errors
from lora_ns.config import parse_overrides
from lora_ns.errors import ConfigError

app = typer.Typer()

OutputOption = Annotated[Path | None, typer.Option("--output", help="Where the config is written.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Write over an existing file.")]


class Tool(StrEnum):
    """The tool that the config belongs to."""

    axolotl = "axolotl"
    llamafactory = "llamafactory"


@app.command(name="import")
def import_config(
    tool: Annotated[Tool, typer.Argument(help="Whose config it is.", show_default=False)],
    file: Annotated[Path, typer.Argument(help="Their config.", show_default=False)],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="section.key=value … of ours, over what it says", show_default=False)
    ] = None,
    output: OutputOption = None,
    force: ForceOption = False,
) -> None:
    """Another tool's config as ours, and what of it could not be carried.  Example: lora-ns import axolotl qlora.yml"""
    from lora_ns.config.importers.axolotl import from_axolotl
    from lora_ns.config.importers.foreign_config import write
    from lora_ns.config.importers.llama_factory import from_llama_factory
    from lora_ns.config.naming import slug

    read = from_axolotl if tool is Tool.axolotl else from_llama_factory
    try:
        content, notes = read(file, parse_overrides(overrides or []))
    except ConfigError as error:
        raise error.of(file) from None
    path = output or Path("configs") / f"{slug(file.stem)}.yaml"
    write(content, path, [f"From {tool.value}: {file.name}.", *(f"- {note}" for note in notes)], force=force)
    _say(notes, path)


@app.command(name="import-peft-experiment")
def import_peft_experiment(
    folder: Annotated[Path, typer.Argument(help="Holds adapter_config.json and maybe training_params.json.")],
    output: OutputOption = None,
    task: Annotated[
        bool, typer.Option("--task", help="A whole MetaMathQA task config as in PEFT's suite, not a method file.")
    ] = False,
    force: ForceOption = False,
) -> None:
    """A folder of PEFT's method comparison as our config.  Example: lora-ns import-peft-experiment lora/rank32"""
    from lora_ns.config.importers.peft_comparison import import_experiment

    path, notes = import_experiment(folder, output, whole_task=task, force=force)
    _say(notes, path)


def _say(notes: Iterable[str], path: Path) -> None:
    for note in notes:
        errors.print(f"Note: {note}", markup=False, soft_wrap=True)
    typer.echo(path)

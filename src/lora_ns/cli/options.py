"""Options and arguments that several commands share, and the consoles for tables and messages."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

ConfigOption = Annotated[Path, typer.Option("--config", help="Task config or run file.", show_default=False)]
ConfigsOption = Annotated[
    list[Path], typer.Option("--config", help="Task config or run file; more than once for several.", show_default=False)
]
MarkerOption = Annotated[
    Path | None,
    typer.Option("--marker", help="A file that is made once every run is there, or has said why not.", show_default=False),
]
MethodOption = Annotated[Path | None, typer.Option("--method", help="Method file laid over the config.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="section.key=value …", show_default=False)]
ExperimentArgument = Annotated[Path, typer.Argument(help="Experiment file.", show_default=False)]


def console() -> Console:
    """Return the console for tables: as wide as the terminal or COLUMNS, else 160 columns."""
    return Console(width=None if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit() else 160)


errors = Console(stderr=True, highlight=False)
"""Console for messages, on stderr; data goes to stdout."""

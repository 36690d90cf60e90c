"""The command line `lora-ns COMMAND`.  Data goes to stdout, progress and messages to stderr.

Exit status: 0 done, 1 failed, 2 wrong input, 75 stopped by a signal with the work so far saved.
"""

import sys
from typing import Annotated

import typer

from lora_ns import __version__
from lora_ns.cli import checking, importing, models, planning, provenance, scoring, stages, tables, watching
from lora_ns.cli.options import errors
from lora_ns.errors import Interrupted, LoraNsError
from lora_ns.store.processes import Processes
from lora_ns.workflow.slurm import requeue

app = typer.Typer(name="lora-ns", no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lora-ns {__version__}")
        raise typer.Exit


@app.callback()
def lora_ns(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Which one this is.")] = False,
) -> None:
    """Which parameter-efficient fine-tuning method is better on your task, by how much, at what cost."""


for part in (checking, planning, watching, stages, models, tables, provenance, scoring, importing):
    app.add_typer(part.app)

LABELS = {2: "Wrong input", 75: "Stopped"}
"""Exit status -> first word of the error message; `Failed` for any other."""


def main() -> None:
    """Run a command; a LoraNsError becomes one paragraph on stderr and its exit status."""
    try:
        app()
    except LoraNsError as error:
        label = LABELS.get(error.exit_status, "Failed")
        errors.print(f"[bold red]{label}:[/bold red]", end=" ")
        errors.print(str(error), markup=False, soft_wrap=True)
        if isinstance(error, Interrupted) and Processes.here().is_first and requeue():
            errors.print("The SLURM job is in the queue again.")
        sys.exit(error.exit_status)
    except OSError as error:
        if error.filename is None:
            raise
        errors.print("[bold red]Failed:[/bold red]", end=" ")
        errors.print(f"{error.filename}: {error.strerror}.", markup=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        errors.print("Interrupted.")
        sys.exit(130)

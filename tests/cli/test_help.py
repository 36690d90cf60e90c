"""Help, completion, colours: the command line's manners."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from lora_ns import __version__
from lora_ns.cli import app

VERBS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_shows_one_example_and_explains_every_option(verb: str) -> None:
    shown = CliRunner().invoke(app, [verb, "--help"], terminal_width=200)
    assert shown.exit_code == 0
    assert " ".join(shown.stdout.split()).count("Example: lora-ns") == 1
    for parameter in VERBS[verb].params:
        assert getattr(parameter, "help", None), f"{verb} {parameter.name} has no help"


@pytest.mark.parametrize("verb", VERBS)
def test_the_example_of_a_verb_is_a_call_that_it_takes(verb: str) -> None:
    example = re.search(r"Example: lora-ns (.*)", VERBS[verb].help)
    assert example
    words = shlex.split(example[1].split(" > ")[0])
    assert words[0] == verb
    VERBS[verb].make_context(verb, words[1:])  # raises where a word is none of its options or of a wrong type


def test_the_version_is_said() -> None:
    shown = CliRunner().invoke(app, ["--version"])
    assert shown.exit_code == 0 and shown.stdout.strip() == f"lora-ns {__version__}"


def test_a_misspelt_verb_names_the_nearest() -> None:
    shown = CliRunner().invoke(app, ["trian"])
    assert shown.exit_code == 2 and "'train'" in shown.stderr


def in_process(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lora_ns", *words],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_the_shell_completes_verbs() -> None:
    program = "import sys; sys.argv[0] = 'lora-ns'; from lora_ns.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "_LORA_NS_COMPLETE": "complete_bash", "COMP_WORDS": "lora-ns val", "COMP_CWORD": "1"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["validate"], done.stderr


def test_no_color_leaves_colours_out(tmp_path: Path) -> None:
    colour = re.compile(r"\x1b\[[0-9;]*3[0-9]")
    coloured = in_process("validate", str(tmp_path / "gone.yaml"), FORCE_COLOR="1", NO_COLOR="")
    plain = in_process("validate", str(tmp_path / "gone.yaml"), FORCE_COLOR="1", NO_COLOR="1")
    assert coloured.returncode == plain.returncode == 2
    assert colour.search(coloured.stderr) and not colour.search(plain.stderr)
    assert "there is no such file" in plain.stderr

"""The README's commands run as they stand; what is left out here is named with its reason."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from blocks import commands, run_command
from support import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.S)
ELSEWHERE = {
    "make paper-tables": "CI runs the demo itself; a training sweep has no place inside a test",
    "make test": "this is it",
    "snakemake --cores 2 --config experiment=configs/experiments/real_data.yaml": "its files lie beside the repository only "
    "where somebody put them",
    "source .venv/bin/activate": "the tests have an environment already",
}
DRY = {"snakemake --cores": "tests/workflow runs Snakemake; here only its dry run"}


def is_run(command: str) -> bool:
    return not any(command.startswith(beginning) for beginning in ELSEWHERE)


@pytest.mark.parametrize("block", BLOCKS, ids=[block.strip().splitlines()[0][:40] for block in BLOCKS])
def test_the_readmes_commands_run(clone: Path, block: str) -> None:
    for command in filter(is_run, commands(block)):
        done = run_command(clone, re.sub(r"^snakemake ", "snakemake -n -q ", command))
        assert done.status == 0, f"{command}\n{done.out}{done.err}"
        assert done.command.startswith("cat") or done.out or done.err or command.startswith("cp "), command


def test_the_first_own_experiment_is_ten_lines() -> None:
    block = next(block for block in BLOCKS if "configs/experiments/mine.yaml" in block)
    assert len([line for line in block.splitlines() if not line.startswith("source")]) <= 10 + 1


def test_every_make_target_that_the_readme_names_is_in_make_help() -> None:
    helped = subprocess.run(["make", "help"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    for target in set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.M)):
        assert re.search(rf"make {target}\b", helped), target


def test_every_verb_that_the_readme_names_is_there() -> None:
    import typer.main

    from lora_ns.cli import app

    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for verb in set(re.findall(r"lora-ns ([a-z-]+)", README)):
        assert verb in known or verb.startswith("--"), verb


def test_every_path_that_the_readme_names_is_there_or_made_by_its_commands() -> None:
    made = {"configs/my_task.yaml", "configs/experiments/mine.yaml"}
    named = {*re.findall(r"(configs/[\w/.-]+\.yaml)", README), *re.findall(r"\]\(([\w/.-]+)\)", README)}
    for name in named - made:
        assert (REPOSITORY / name).exists(), name

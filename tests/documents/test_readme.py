"""The README's commands run as they stand; what is left out here is named with its reason."""

from __future__ import annotations

import re
import subprocess

import pytest
from support import REPOSITORY, Run

README = (REPOSITORY / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.S)
ELSEWHERE = {
    "make paper-tables": "CI runs the demo itself; a training sweep has no place inside a test",
    "make test": "this is it",
    "snakemake --cores": "tests/workflow runs Snakemake; here only its dry run",
}


def runnable(block: str) -> str:
    """The block without the lines that run elsewhere; Snakemake only plans."""
    lines = [line for line in block.splitlines() if not line.startswith("make ")]
    return "\n".join(re.sub(r"^snakemake ", "snakemake -n -q ", line) for line in lines)


@pytest.mark.parametrize("block", BLOCKS, ids=[block.strip().splitlines()[0][:40] for block in BLOCKS])
def test_the_readmes_commands_run(run: Run, block: str) -> None:
    done = run(runnable(block))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_make_target_that_the_readme_names_is_in_make_help() -> None:
    helped = subprocess.run(["make", "help"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    for target in set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.M)):
        assert re.search(rf"make {target}\b", helped), target


def test_every_path_that_the_readme_names_is_there_or_made_by_the_workflow() -> None:
    for name in set(re.findall(r"(configs/[\w/.-]+\.yaml)", README)) - {
        "configs/my_task.yaml",
        "configs/experiments/mine.yaml",
    }:
        assert (REPOSITORY / name).is_file(), name

"""Cells of an experiment's tables, drawn at random, traced, and made again in a fresh clone.

    python benchmarks/random_cells.py configs/experiments/demo.yaml --count 10 --seed 0

The clone has what git keeps (code, configs, run files, scores, tables) and neither data nor adapters.  Each cell's row of
the output: the cell, what it said, whether the command that `lora-ns trace` gives for it makes it again.  Exit status 1
where one does not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from lora_ns.experiment.study import load_experiment
from lora_ns.provenance.cell_address import TableCell, read_rows
from lora_ns.store.paths import Store

BIN = Path(sys.executable).parent


def cells_of(folder: Path) -> list[TableCell]:
    """Every cell with a number in it, of every table of the experiment."""
    found = []
    for path in sorted(folder.glob("*.md")):
        for row in read_rows(path):
            subjects = set(row.speaks_of.values())
            found += [
                TableCell(path, row, column, text)
                for column, text in row.cells.items()
                if re.search(r"\d", text) and text not in subjects
            ]
    return found


def clone_into(folder: Path) -> None:
    """What git keeps here, results that were not committed yet among it."""
    subprocess.run(["git", "clone", "--quiet", str(Path.cwd()), str(folder)], check=True)
    kept = subprocess.run(
        ["git", "ls-files", "--others", "--exclude-per-directory=.gitignore", "results"],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in kept:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(name, folder / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    experiment = load_experiment(given.experiment)
    cells = cells_of(Store().tables(experiment.name))
    drawn = random.Random(given.seed).sample(cells, min(given.count, len(cells)))
    bad = 0
    with tempfile.TemporaryDirectory() as place:
        clone = Path(place) / "clone"
        clone_into(clone)
        for cell in drawn:
            traced = subprocess.run(
                [BIN / "lora-ns", "trace", cell.address, "--json"], capture_output=True, text=True, check=True
            )
            command = shlex.split(json.loads(traced.stdout)["made_again_by"])
            done = subprocess.run(
                [BIN / command[0], *command[1:], "--json"],
                cwd=clone,
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "PYTHONPATH": str(clone / "src")},
            )
            parts = [part for result in json.loads(done.stdout or "[]") for part in result["parts"]]
            state = next((part["state"] for part in parts if part["name"] == "cell"), "failed")
            bad += done.returncode != 0
            print(f"{state:<10} {cell.text:<20} {cell.address}", flush=True)
            if done.returncode:
                print(done.stderr, file=sys.stderr)
    print(f"{len(drawn) - bad} of {len(drawn)} cells (of {len(cells)}) were made again.")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()

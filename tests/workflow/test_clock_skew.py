"""A clock that ran ahead costs nothing that is finished: Snakemake removes an output that is older than an input."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from support import APART, REPOSITORY, sums, write_config, write_study
from test_workflow import snakemake

HOURS = 2 * 3600
METHODS = {"apart": APART, "packed": {"max_memory": "1TiB"}}


def run_ahead(project: Path) -> None:
    """Everything that is made so far, as by a clock two hours ahead."""
    ahead = time.time() + HOURS
    for path in [*project.glob("data/**/*"), *project.glob("results/**/*")]:
        if path.is_file():
            os.utime(path, (ahead, ahead))


@pytest.mark.parametrize("packing", METHODS)
def test_every_stage_keeps_what_it_made_of_inputs_from_the_future(
    tmp_path: Path, tiny_causal: Path, packing: str
) -> None:
    project = tmp_path / "study"
    write_study(project, tiny_causal, sweep=METHODS[packing])
    for name in ("workflow", "profiles"):
        shutil.copytree(REPOSITORY / name, project / name)
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(REPOSITORY / name, project / name)
    write_config(project / "experiment.yaml", {
        "name": "sums", "tasks": ["task.yaml"], "methods": ["lora.yaml"], "seeds": [0, 1], "sweep": METHODS[packing],
        "tune": {"training.learning_rate": [1e-2, 1e-3]}, "merge": True,
    })  # fmt: skip
    (project / "sums/dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sums(6, 60)))
    made = {
        "data": "data/tokens/*/record.json",
        "adapters": "results/adapters/*/record.json",
        "scores": "results/scores/*/*.json",
        "all": "results/tables/sums/main.md",
        "report": "results/report/sums/index.html",
    }
    rows = project / "data/raw"
    done = snakemake(project, "--until", "fetch")
    assert done.returncode == 0 and list(rows.glob("*/record.json")), done.stdout + done.stderr
    for target, pattern in made.items():
        run_ahead(project)
        before = set(project.glob("results/**/record.json"))
        done = snakemake(project, target)
        assert done.returncode == 0, target + done.stdout + done.stderr
        assert list(project.glob(pattern)), target
        assert all(path.is_file() for path in before), "something finished was removed"
    assert list(project.glob("results/merged/*/record.json")) and list(project.glob("results/tuning/*.json"))

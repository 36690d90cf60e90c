"""The archive of a finished study: whole, checked by its own sums, and enough to make the tables again."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from support import lora_ns

from lora_ns.errors import ConfigError, DamagedError, LoraNsError
from lora_ns.experiment.study import load_experiment
from lora_ns.provenance.archive import archive
from lora_ns.store.local_files import sha256_file
from lora_ns.store.paths import Store

EXPERIMENT = Path("experiment.yaml")


def test_an_archive_holds_all_but_weights_and_data_and_its_sums_hold(study: Path) -> None:
    folder = archive(EXPERIMENT, Store())
    assert folder == Path("archive/sums")
    held = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    experiment = load_experiment(EXPERIMENT)
    for run in experiment.runs:
        assert {f"results/runs/{run.name}.yaml", *map(str, run.scores)} <= held
        assert f"records/results/adapters/{run.name}/record.json" in held
    assert {"experiment.yaml", "task.yaml", "Snakefile", "requirements.lock", "environment.yml", "README.md"} <= held
    assert {"results/tables/sums/main.tex", "src/lora_ns/training/train.py", "workflow/rules/train.smk"} <= held
    assert not [name for name in held if name.endswith((".safetensors", ".parquet", ".arrow"))]
    done = subprocess.run(
        ["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert len((folder / "SHA256SUMS").read_text().splitlines()) == len(held) - 1


def test_the_tables_are_made_again_from_the_archive_to_the_byte(study: Path, tmp_path: Path) -> None:
    task = Path("task.yaml")
    Path("base.yaml").write_text(task.read_text())
    task.write_text("extends: base.yaml\n")
    folder = archive(EXPERIMENT, Store(), tmp_path / "deposit")
    before = {path.name: path.read_bytes() for path in (folder / "results/tables/sums").iterdir()}
    shutil.rmtree(folder / "results/tables")
    done = lora_ns("tables", "experiment.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert {path.name: path.read_bytes() for path in (folder / "results/tables/sums").iterdir()} == before


def test_a_config_that_extends_what_lies_outside_is_refused(study: Path) -> None:
    Path("../outside.yaml").write_text(Path("task.yaml").read_text())
    Path("outside.yaml").write_text("mine: 1\n")
    Path("task.yaml").write_text("extends: ../outside.yaml\n")
    with pytest.raises(ConfigError, match=r"\.\./outside\.yaml, which lies outside of this folder"):
        archive(EXPERIMENT, Store())
    assert Path("outside.yaml").read_text() == "mine: 1\n" and not Path("archive").exists()


def test_what_is_unfinished_damaged_or_there_already_is_refused_and_leaves_nothing(study: Path) -> None:
    store = Store()
    score = load_experiment(EXPERIMENT).runs[0].scores[0]
    text = score.read_text()
    score.unlink()
    with pytest.raises(LoraNsError, match="1 of 4 scores are missing"):
        archive(EXPERIMENT, store)
    content = json.loads(text)
    content["metrics"] = dict.fromkeys(content["metrics"], 1.0)
    score.write_text(json.dumps(content))
    with pytest.raises(DamagedError, match=score.name):
        archive(EXPERIMENT, store)
    assert not Path("archive").exists() or not list(Path("archive").iterdir())
    score.write_text(text)
    archive(EXPERIMENT, store)
    before = sha256_file(Path("archive/sums/SHA256SUMS"))
    done = lora_ns("archive", "experiment.yaml")
    assert done.returncode == 1 and "archive/sums is there already" in done.stderr
    assert sha256_file(Path("archive/sums/SHA256SUMS")) == before

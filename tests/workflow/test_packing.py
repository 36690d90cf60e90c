"""Runs that share a process: packed into jobs by Snakemake, each with its own artefacts, and only what is missing is made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support import REPOSITORY, write_study
from test_workflow import jobs, snakemake

from lora_ns.config import merge, read_mapping
from lora_ns.dag import open_experiment
from lora_ns.experiment import load_experiment
from lora_ns.failure import failure_of
from lora_ns.grouping import training_jobs
from lora_ns.store import Store, read_record


def resweep(project: Path, sweep: dict[str, object]) -> None:
    file = project / "experiment.yaml"
    content = read_mapping(file)
    content.pop("sweep", None)
    file.write_text(json.dumps(merge(content, {"sweep": sweep})))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, tiny_causal: Path) -> Path:
    """A study of two methods and two seeds, run as the workflow packs it by itself."""
    project = tmp_path_factory.mktemp("packed") / "study"
    shutil.copytree(REPOSITORY / "workflow", project / "workflow")
    shutil.copytree(REPOSITORY / "profiles", project / "profiles")
    shutil.copy(REPOSITORY / "Snakefile", project / "Snakefile")
    shutil.copy(REPOSITORY / "environment.yml", project / "environment.yml")
    write_study(project, tiny_causal, sweep={"max_memory": "1TiB"})
    assert jobs(project) == {
        "fetch": 1, "tokenize": 1, "train_together": 2, "evaluate_together": 2, "tables": 1
    }  # fmt: skip
    done = snakemake(project)
    assert done.returncode == 0, done.stdout + done.stderr
    return project


def records(project: Path) -> dict[str, dict]:
    return {path.parent.name: read_record(path.parent) for path in project.glob("results/adapters/*/record.json")}


def test_loras_are_trained_at_once_and_each_is_an_artefact_of_its_own(packed: Path) -> None:
    found = records(packed)
    loras = {run for run in found if "-lora-" in run}
    assert len(found) == 4 and len(loras) == 2
    for run, record in found.items():
        together = record["circumstances"].get("fused_with")
        assert (set(together) | {run} == loras) if run in loras else not together, run
    assert len(list(packed.glob("results/scores/*/*.json"))) == 4
    assert (packed / "results/tables/sums/main.md").is_file()


def test_a_second_call_does_nothing_however_runs_would_be_packed(packed: Path) -> None:
    for sweep in ({}, {"fuse": "never", "in_turn": 1}, {"in_turn": 2, "max_members": 1}):
        resweep(packed, sweep)
        assert jobs(packed) == {}, sweep
    resweep(packed, {})


def test_of_a_job_only_what_is_missing_is_made(packed: Path, tmp_path: Path) -> None:
    project = tmp_path / "study"
    shutil.copytree(packed, project, symlinks=True)
    lost = next(path for path in project.glob("results/adapters/*-lora-s0-*"))
    shutil.rmtree(lost)
    shutil.rmtree(project / "results/scores" / lost.name)
    kept = {path: path.stat().st_mtime_ns for path in project.glob("results/*/*/*.json") if lost.name not in str(path)}
    assert jobs(project) == {"train_together": 1, "evaluate_together": 1, "tables": 1}
    done = snakemake(project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (lost / "record.json").is_file()
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items() if "tables" not in str(path))


def test_a_marker_that_a_running_workflow_waits_for_stays(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "study"
    shutil.copytree(packed, project, symlinks=True)
    for path in [*project.glob("results/adapters/*-lora-s0-*"), *project.glob("results/scores/*-lora-s0-*")]:
        shutil.rmtree(path)
    study = load_experiment(project / "experiment.yaml", Store(project))
    (job,) = (job for job in training_jobs(study.runs, Store(project), study.sweep) if job.at_once)
    marker = Store(project).together(f"{job.name}.trained")
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()
    lock = project / ".snakemake/locks/0.output.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text("results/tables/sums/main.md\n")
    assert snakemake(project, "-n").returncode == 0
    assert marker.is_file()
    lock.unlink()
    monkeypatch.chdir(project)
    open_experiment("experiment.yaml", plans=False).scores(None)  # as in a single job on a cluster
    assert marker.is_file()
    assert jobs(project)["train_together"] == 1, "it was left from before something was lost"
    assert not marker.is_file()


def test_one_that_fails_leaves_the_others_of_its_job_done(packed: Path, tmp_path: Path) -> None:
    """A learning rate at which the loss is no number, among two that are fine."""
    project = tmp_path / "study"
    shutil.copytree(packed, project, symlinks=True)
    bad = merge(read_mapping(project / "lora.yaml"), {"training": {"learning_rate": 1e30}})
    (project / "bad.yaml").write_text(json.dumps(bad))
    content = read_mapping(project / "experiment.yaml")
    content["methods"] = ["lora.yaml", "bad.yaml"]
    content["seeds"] = [0, 1, 2]
    (project / "experiment.yaml").write_text(json.dumps(content))
    done = snakemake(project)
    assert done.returncode != 0
    runs = load_experiment(project / "experiment.yaml", Store(project)).runs
    state = {
        (run.config.method, run.config.seed): (project / "results/adapters" / run.name / "record.json").is_file()
        for run in runs
    }
    assert state == {(method, seed): method == "lora" for method in ("lora", "bad") for seed in (0, 1, 2)}
    failed = failure_of(Store(project), next(run.name for run in runs if run.config.method == "bad"))
    assert failed is not None and "the loss became" in failed["reason"]
    scored = {path.parent.name for path in project.glob("results/scores/*/*.json")}
    assert {run.name for run in runs if run.config.method == "lora"} <= scored, (
        "one that fails keeps no other from its score"
    )
    adapters = snakemake(project, "adapters")
    assert adapters.returncode != 0 and "not trained: " in adapters.stdout + adapters.stderr

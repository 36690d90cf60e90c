"""Runs that share a process: packed into jobs by Snakemake, each with its own artefacts, and only what is missing is made."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import REPOSITORY, causal_task, write_config, write_study
from test_workflow import jobs, snakemake

from lora_ns.config import merge, read_mapping
from lora_ns.experiment.study import load_experiment
from lora_ns.store.artifact import read_record
from lora_ns.store.failures import failure_of
from lora_ns.store.paths import Store
from lora_ns.workflow.dag_inputs import GPU_DEVICES, Dag, local_cores, open_experiment
from lora_ns.workflow.jobs import training_jobs


def resweep(project: Path, sweep: dict[str, object]) -> None:
    file = project / "experiment.yaml"
    content = read_mapping(file)
    content.pop("sweep", None)
    file.write_text(json.dumps(merge(content, {"sweep": sweep})))


def with_workflow(project: Path) -> Path:
    """The project with the workflow's files in it."""
    for name in ("workflow", "profiles"):
        shutil.copytree(REPOSITORY / name, project / name)
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(REPOSITORY / name, project / name)
    return project


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, tiny_causal: Path) -> Path:
    """A study of two methods and two seeds, run as the workflow packs it by itself."""
    project = tmp_path_factory.mktemp("packed") / "study"
    write_study(project, tiny_causal, sweep={"max_memory": "1TiB"})
    with_workflow(project)
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


def test_a_marker_that_a_running_workflow_waits_for_stays(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "study"
    shutil.copytree(packed, project, symlinks=True)
    for path in [*project.glob("results/adapters/*-lora-s0-*"), *project.glob("results/scores/*-lora-s0-*")]:
        shutil.rmtree(path)
    study = load_experiment(project / "experiment.yaml", Store(project))
    (job,) = (job for job in training_jobs(study.runs, study.sweep) if job.at_once)
    marker = Store(project).job_marker(f"{job.name}.trained")
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
        (run.config.method, run.config.seed): (project / "results/adapters" / run.name / "record.json").is_file() for run in runs
    }
    assert state == {(method, seed): method == "lora" for method in ("lora", "bad") for seed in (0, 1, 2)}
    failed = failure_of(Store(project), next(run.name for run in runs if run.config.method == "bad"))
    assert failed is not None and "the loss became" in failed["reason"]
    scored = {path.parent.name for path in project.glob("results/scores/*/*.json")}
    assert {run.name for run in runs if run.config.method == "lora"} <= scored, "one that fails keeps no other from its score"
    adapters = snakemake(project, "adapters")
    assert adapters.returncode != 0 and "not trained: " in adapters.stdout + adapters.stderr


# -- one job a core ----------------------------------------------------------------------------------------------------

no_gpu = pytest.mark.skipif(any(Path(device).exists() for device in GPU_DEVICES), reason="one GPU has all jobs")


def shown(project: Path, *words: str) -> list[list[str]]:
    """The runs of each job of several, as a dry run shows them."""
    done = snakemake(project, "-n", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return sorted(line.split() for line in re.findall(r"^Job \d+: train \S+: (.*)$", done.stdout + done.stderr, re.M))


@no_gpu
def test_a_dry_run_shows_a_job_for_each_core_and_who_is_in_it(
    tmp_path: Path, tiny_causal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "study"
    write_study(with_workflow(project), tiny_causal, sweep={})
    write_config(project / "experiment.yaml", {**EIGHT, "seeds": list(range(8))})
    monkeypatch.chdir(project)
    runs = sorted(run.name for run in load_experiment(Path("experiment.yaml")).runs)
    assert [len(job) for job in shown(project, "--cores", "1")] == [8]
    of_two = shown(project, "--cores", "2")
    assert [len(job) for job in of_two] == [4, 4] and sorted(of_two[0] + of_two[1]) == runs
    assert shown(project, "--profile", "profiles/slurm", "--jobs", "2") == shown(project, "--cores", "1"), "elsewhere"


EIGHT = {"name": "sums", "tasks": ["task.yaml"], "methods": ["lora.yaml"], "sweep": {}}


@no_gpu
def test_each_core_trains_its_job_in_one_thread(tmp_path: Path, tiny_causal: Path) -> None:
    project = tmp_path / "study"
    write_study(with_workflow(project), tiny_causal, sweep={})
    write_config(project / "experiment.yaml", {**EIGHT, "seeds": [0, 1, 2, 3]})
    expected = shown(project)
    done = snakemake(project, "adapters")
    assert done.returncode == 0, done.stdout + done.stderr
    how = {run: record["circumstances"] for run, record in records(project).items()}
    assert sorted({tuple(one["fused_with"]) for one in how.values()}) == [tuple(job) for job in expected]
    assert len(expected) == 2 and {one["hardware"]["threads"] for one in how.values()} == {1}


def sizes(dag: Dag) -> list[int]:
    return sorted(len(job.runs) for job in dag.jobs.values())


def test_how_runs_are_divided_among_cores(workplace: Path, tiny_causal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_study(Path("study"), tiny_causal)
    monkeypatch.chdir("study")

    def divided(cores: int, **changes: Any) -> list[int]:
        """How many runs of each job of several; lora's six are trained at once, the prompts' six in turn."""
        content = {**EIGHT, "methods": ["lora.yaml", "prompt.yaml"], "seeds": list(range(6)), **changes}
        write_config(Path("experiment.yaml"), content)
        return sizes(Dag("experiment.yaml", cores=cores))

    assert divided(1) == divided(2) == [6, 6]
    assert divided(4) == [3, 3, 3, 3]
    assert divided(5) == [2] * 6, "a core for each, and none has more than its share"
    assert divided(12) == divided(99) == []
    assert divided(4, sweep={"max_memory": "1TiB"}) == [6, 6]
    assert divided(4, sweep={"fuse": "never", "in_turn": 2}) == [2] * 6
    monkeypatch.setattr("lora_ns.workflow.jobs.SMALL_BYTES", 10)
    assert divided(4) == [6], "a large base keeps all cores busy, and is not loaded more often than it has to be"


def test_only_the_cores_of_this_machine_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def counted(cores: int | None, nodes: int | None = None, remote: bool = False) -> int:
        settings = SimpleNamespace(cores=cores, nodes=nodes)
        return local_cores(SimpleNamespace(resource_settings=settings, remote_exec=remote))

    monkeypatch.setattr("lora_ns.workflow.dag_inputs.GPU_DEVICES", ())
    assert [counted(4), counted(None), counted(4, nodes=9), counted(4, remote=True)] == [4, 1, 1, 1]
    monkeypatch.setattr("lora_ns.workflow.dag_inputs.GPU_DEVICES", ("/dev/null",))
    assert counted(4) == 1


# -- what Snakemake asks -----------------------------------------------------------------------------------------------


@pytest.fixture
def searching(workplace: Path, tiny_causal: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a study that searches for a learning rate, measures forgetting and merges; nothing is made."""
    write_study(Path("study"), tiny_causal)
    monkeypatch.chdir("study")
    rows = {**causal_task(tiny_causal)["dataset"], "name": {"train": "sums/train.jsonl", "validation": "sums/test.jsonl"}}  # type: ignore[dict-item]
    write_config(Path("task.yaml"), causal_task(tiny_causal, dataset=rows))
    write_config(Path("none.yaml"), {"peft": {"method": "none"}})
    Path("general.txt").write_text("One sentence.\nAnother one.\n")
    changes = {
        "methods": ["none.yaml", "lora.yaml", "prompt.yaml"],
        "seeds": [0, 1, 2],
        "merge": True,
        "forgetting": {"name": "general.txt"},
    }
    write_config(Path("experiment.yaml"), {**EIGHT, **changes, "tune": {"training.learning_rate": [1e-2, 1e-3]}})
    return Path.cwd()


class Waiting(Exception):
    """What Snakemake raises for whoever asks before the choice is made."""


def waiting(**_: str) -> None:
    raise Waiting


CHECKPOINTS = SimpleNamespace(choose=SimpleNamespace(get=waiting))


def choose_the_first(dag: Dag) -> None:
    trials = [{"task": t.task, "method": t.method, "setting": t.setting} for t in dag.experiment.trials]
    chosen = [{**trial, "chosen": trial["setting"] == trials[0]["setting"]} for trial in trials]
    assert dag.experiment.choice is not None
    dag.experiment.choice.parent.mkdir(parents=True, exist_ok=True)
    dag.experiment.choice.write_text(json.dumps({"trials": chosen}))


def answers(dag: Dag) -> Iterator[Any]:
    """Whatever the rules ask, of everything that there is."""
    yield from (dag.data, dag.tables, dag.untrained, dag.figures)
    yield from (ask(None) for ask in (dag.scores, dag.adapters, dag.every_adapter, dag.merged_records, dag.for_choice))
    commands = dag.commands
    for run in dag.runs:
        here = SimpleNamespace(run=run)
        yield from (ask(here) for ask in (dag.for_adapter, commands.run_file_of, commands.launch_of, commands.program_of))
        yield [ask(here, 1) for ask in commands.training_resources.values()]
    for job in dag.jobs:
        here = SimpleNamespace(job=job)
        yield from (ask(here) for ask in (dag.for_adapters, commands.run_files_of, commands.members_of, commands.limits_of))
        yield commands.trial_flag_of(here)
        for evaluation in dag.evaluations:
            asked = SimpleNamespace(job=job, evaluation=evaluation)
            yield dag.for_scores(asked), commands.evaluation_file_of(asked)
            yield [ask(asked, 1) for ask in commands.evaluation_resources.values()]
    yield from (dag.for_tokens(SimpleNamespace(tokens=tokens)) for tokens in dag.tokens)
    yield from (dag.for_merged(SimpleNamespace(merged=merged)) for merged in dag.merged)
    yield from (commands.request_of_rows(SimpleNamespace(rows=rows)) for rows in dag.rows)


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_input_functions_only_answer(searching: Path) -> None:
    dag = Dag("experiment.yaml", CHECKPOINTS)
    for job in dag.jobs:  # which would speak of something that was lost
        marker = Store().job_marker(f"{job}.trained")
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
    with pytest.raises(Waiting):
        dag.scores(None)
    choose_the_first(dag)
    shutil.rmtree("results/runs")
    shutil.rmtree("results/evaluations")
    before = files(searching)
    assert all(answer is not None for answer in answers(dag))
    assert len(dag.merged) == 3 and len(dag.jobs) == 5 and files(searching) == before
    fresh = Dag("experiment.yaml")
    assert {path.stem for path in Path("results/runs").glob("*.yaml")} == set(fresh.runs)
    assert {path.stem for path in Path("results/evaluations").glob("*.yaml")} == set(fresh.evaluations)
    assert not Path("results/scratch/together").exists()


def test_jobs_are_the_same_for_a_process_that_starts_after_the_choice(searching: Path) -> None:
    """As the Snakemake of a single job on a cluster does."""
    dag = Dag("experiment.yaml", CHECKPOINTS)
    before = set(dag.jobs)
    choose_the_first(dag)
    dag.adapters(None)
    assert before < set(dag.jobs) == set(Dag("experiment.yaml", plans=False).jobs)

"""Whole runs through `snakemake --profile slurm`, on a SLURM cluster that runs on this machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import yaml
from support import APART, REPOSITORY, write_config, write_study

from lora_ns.experiment.study import load_experiment
from lora_ns.reporting.make_tables import tables
from lora_ns.store.paths import Store
from lora_ns.store.run import Run
from lora_ns.workflow.pipeline import make_score

SNAKEMAKE = [
    str(Path(sys.executable).parent / "snakemake"),
    *"--profile slurm --slurm-init-seconds-before-status-checks 2 --seconds-between-status-checks 2".split(),
]
LONG = {"peft": {"method": "lora", "r": 1, "target_modules": "all-linear"}, "training": {"max_steps": 3000}}


class Job(NamedTuple):
    """One SLURM job, as squeue tells of it."""

    number: str
    state: str
    comment: str
    """rule_<rule>_wildcards_<run>…"""
    gpus: str
    minutes: str
    nodes: str


def jobs(project: Path, rule: str = "") -> list[Job]:
    """All jobs of a project, in the order of their submission."""
    said = subprocess.run(
        ["squeue", "--states=all", "--noheader", "--array", "--format=%A|%Z|%T|%k|%b|%l|%D"],
        capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip
    found = [line.split("|") for line in said.splitlines()]
    return sorted(
        (Job(number, *rest) for number, folder, *rest in found if folder == str(project) and f"rule_{rule}" in rest[1]),
        key=lambda job: int(job.number),
    )


def until(what: str, done: Callable[[], object], seconds: float = 600) -> None:
    """Waits for it; fails where it does not come."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.2)


def snakemake(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A call that is waited for."""
    return subprocess.run(
        [*SNAKEMAKE, *words, "--config", "experiment=experiment.yaml"],
        cwd=project, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip


@contextmanager
def calling(project: Path, target: str) -> Iterator[subprocess.Popen[str]]:
    """A call that goes on while the test does something to it; ended with the block.  It speaks in <target>.said."""
    with (project / f"{target}.said").open("w") as said:
        words = [*SNAKEMAKE, target, "--config", "experiment=experiment.yaml"]
        process = subprocess.Popen(words, cwd=project, stdout=said, stderr=said, text=True)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def processes_of(job: Job) -> list[psutil.Process]:
    """Whatever a job has started on this machine."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("SLURM_JOB_ID") == job.number and "slurmstepd" not in process.name():
                found.append(process)
    return found


def hold(job: Job) -> None:
    """Stops the clock for a job's processes: it neither ends nor notices anything."""
    until(f"processes of job {job.number}", lambda: processes_of(job))
    for process in processes_of(job):
        with suppress(psutil.NoSuchProcess):
            process.suspend()


def stands(process: psutil.Process) -> bool:
    """Whether a process that was stopped still is."""
    with suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_STOPPED
    return False


def is_told(process: psutil.Process) -> bool:
    """Whether a process that stands still has a SIGTERM waiting."""
    with suppress(OSError):
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in ("SigPnd", "ShdPnd") and int(value, 16) >> (signal.SIGTERM - 1) & 1:
                return True
    return False


def results(project: Path) -> dict[str, bytes]:
    """What a project has found: weights, answers and the main table, without when and where it was made."""
    found: list[Path] = []
    for pattern in ("adapters/*/adapter_model.safetensors", "predictions/*/*.jsonl", "tables/sums/main.csv"):
        found += project.glob(f"results/{pattern}")
    return {str(path.relative_to(project)): path.read_bytes() for path in found}


def circumstances(project: Path, run: str) -> dict[str, Any]:
    """How an adapter came about, by a part of its run's name."""
    record = next(project.glob(f"results/adapters/*{run}*/record.json"))
    return json.loads(record.read_text())["circumstances"]


def make_project(folder: Path, model: Path) -> Path:
    """A folder with the workflow, the profiles and a small study of two methods and two seeds."""
    for name in ("workflow", "profiles", "configs/launch"):
        shutil.copytree(REPOSITORY / name, folder / name)
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(REPOSITORY / name, folder / name)
    (folder / "slurm").symlink_to("profiles/slurm")
    write_study(folder, model, sweep={"fuse": "never"})
    return folder


def write_experiment(project: Path, methods: list[str], seeds: list[int], **sections: object) -> None:
    content = {"name": "sums", "tasks": ["task.yaml"], "methods": methods, "seeds": seeds, "baseline": "lora"}
    write_config(project / "experiment.yaml", {**content, **sections})


@pytest.fixture(scope="module")
def finished(slurm: Path, tmp_path_factory: pytest.TempPathFactory, tiny_causal: Path) -> Path:
    """A project whose experiment has run on the cluster, to its tables, without a hitch."""
    project = make_project(tmp_path_factory.mktemp("slurm-project") / "study", tiny_causal)
    trained = snakemake(project, "adapters")
    assert trained.returncode == 0, trained.stdout + trained.stderr
    done = snakemake(project)
    assert done.returncode == 0, done.stdout + done.stderr
    return project


def test_the_cluster_makes_what_one_machine_makes(finished: Path, finished_study: Path) -> None:
    assert results(finished) == results(finished_study)


def test_a_second_call_finds_nothing_to_do(finished: Path) -> None:
    before = jobs(finished)
    done = snakemake(finished)
    assert done.returncode == 0 and "Nothing to be done" in done.stdout + done.stderr
    assert jobs(finished) == before


def test_small_runs_share_a_job_and_it_asks_for_what_they_need(finished: Path) -> None:
    trained = jobs(finished, "train")
    assert all(job.comment.startswith("rule_train_together") and job.state == "COMPLETED" for job in trained)
    assert len(trained) < 4 and {job.minutes for job in trained} == {"8:00:00"}
    said = subprocess.run(["scontrol", "show", "job", trained[0].number], capture_output=True, text=True, check=True)
    for setting in ("TresPerJob=gres:gpu:1", "NumNodes=1", "Requeue=1", "MinMemoryNode=16000M", "CPUs/Task=4"):
        assert setting in said.stdout, said.stdout


def test_small_evaluations_are_one_submission(finished: Path) -> None:
    asked = jobs(finished, "evaluate")
    assert [job.comment.split("_wildcards")[0] for job in asked] == ["rule_evaluate_together"], asked
    assert len(list(finished.glob("results/scores/*/*.json"))) == 4


def test_what_needs_the_network_is_no_job(finished: Path) -> None:
    assert {job.comment.split("_")[1] for job in jobs(finished)} == {"train", "evaluate"}


# -- what can happen to a job, all in one call -------------------------------------------------------------------------


class Story(NamedTuple):
    """A call whose jobs met with everything, and what was seen of it."""

    project: Path
    trained: dict[str, list[str]]
    """Run, without its digest -> how each of its jobs ended."""
    minutes: dict[str, list[str]]
    """The same -> the time that each had asked for."""
    told_while_alive: str
    told_after_the_kill: str
    second: str
    """What the call said that was started again."""
    remade: set[str]
    """Records of adapters and scores that the first call had made, and the second made again."""


def running(project: Path, run: str) -> Job:
    """The job that trains a run, once it does."""
    found: list[Job] = []

    def look() -> bool:
        found[:] = [job for job in jobs(project, "train") if run in job.comment and job.state == "RUNNING"]
        return bool(found)

    until(f"a running job of {run}", look)
    return found[0]


def control(*words: str) -> None:
    subprocess.run(words, check=True, timeout=60, capture_output=True)


DISTURBED = ("lora-s2", "long-s0", "long-s1", "long-s2")


def disturb(project: Path) -> None:
    """Each of four trainings meets with something else."""
    slow = running(project, "long-s0")
    hold(slow)
    control("scontrol", "update", f"JobId={slow.number}", "EndTime=now+2")
    for process in processes_of(running(project, "lora-s2")):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    control("scancel", running(project, "long-s1").number)
    until("a training under way", lambda: list(project.glob("results/scratch/*long-s2*/lock")))
    warned = running(project, "long-s2")
    hold(warned)
    control("scontrol", "update", f"JobId={warned.number}", "EndTime=now+150")
    held = processes_of(warned)  # what was told may end before it is looked at: SLURM wakes what it signals
    until("SLURM's warning", lambda: any(is_told(process) for process in held) or not all(map(stands, held)))
    for process in held:
        with suppress(psutil.NoSuchProcess):
            process.resume()


@pytest.fixture(scope="module")
def story(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """The finished project with more to do: jobs are disturbed while they train, Snakemake is killed while they evaluate,
    then started again."""
    project = tmp_path_factory.mktemp("slurm-story") / "study"
    shutil.copytree(finished, project, symlinks=True)
    write_config(project / "long.yaml", LONG)
    write_experiment(project, ["lora.yaml", "long.yaml"], [0, 1, 2], sweep=APART)
    with calling(project, "adapters") as first:
        disturb(project)
        told_while_alive = snakemake(project)
        assert first.wait(600) == 0, (project / "adapters.said").read_text()
    with calling(project, "all") as killed:
        until("evaluations", lambda: any(job.state == "RUNNING" for job in jobs(project, "evaluate")))
        hold(next(job for job in jobs(project, "evaluate") if job.state == "RUNNING"))
        until("all scores but one", lambda: len(list(project.glob("results/scores/*/*.json"))) == 7)
        killed.kill()
    made = [*project.glob("results/adapters/*/record.json"), *project.glob("results/scores/*/*.json")]
    records = {path: path.read_bytes() for path in made}
    trained = {run: [job for job in jobs(project, "train") if run in job.comment] for run in DISTURBED}
    told_after_the_kill = snakemake(project)
    assert snakemake(project, "--unlock").returncode == 0
    second = snakemake(project)
    assert second.returncode == 0, second.stdout + second.stderr
    return Story(
        project,
        {run: [job.state for job in found] for run, found in trained.items()},
        {run: [job.minutes for job in found] for run, found in trained.items()},
        told_while_alive.stdout + told_while_alive.stderr,
        told_after_the_kill.stdout + told_after_the_kill.stderr,
        second.stdout + second.stderr,
        {str(path) for path, content in records.items() if path.read_bytes() != content},
    )


def test_a_job_that_failed_is_tried_again_with_more_time(story: Story) -> None:
    assert story.trained["lora-s2"] == ["FAILED", "COMPLETED"]
    assert story.minutes["lora-s2"] == ["8:00:00", "16:00:00"]


def test_a_job_that_ran_out_of_time_is_tried_again(story: Story) -> None:
    assert story.trained["long-s0"] == ["TIMEOUT", "COMPLETED"]


def test_a_job_that_was_cancelled_is_tried_again(story: Story) -> None:
    assert story.trained["long-s1"] == ["CANCELLED", "COMPLETED"]


def test_a_training_near_its_time_limit_is_told_and_goes_on_in_the_same_job(story: Story) -> None:
    assert story.trained["long-s2"] == ["COMPLETED"]
    assert circumstances(story.project, "long-s2")["resumed_from"].startswith("checkpoint-")


def test_a_second_workflow_in_the_folder_is_told(story: Story) -> None:
    assert "cannot be locked" in story.told_while_alive
    assert "--unlock" in story.told_after_the_kill


def test_a_killed_workflow_started_again_ends_what_it_left_and_repeats_nothing(story: Story) -> None:
    assert "Cancelled SLURM job" in story.second
    assert [job.state for job in jobs(story.project, "evaluate")].count("CANCELLED") == 1
    assert story.remade == set()
    assert len([job for job in jobs(story.project, "train") if job.state == "COMPLETED"]) == 4


def test_whatever_happened_the_results_are_those_of_one_machine(story: Story, tmp_path: Path) -> None:
    alone = tmp_path / "study"
    shutil.copytree(story.project, alone, symlinks=True, ignore=shutil.ignore_patterns("results", ".snakemake", "logs"))
    with chdir(alone):
        experiment, store = load_experiment(Path("experiment.yaml")), Store()
        for run in experiment.runs:
            for evaluation in run.evaluations:
                make_score(Run(run.config, store), evaluation, quiet=True)
        tables(experiment, store)
    found, expected = results(story.project), results(alone)
    assert {name: found[name] for name in expected} == expected


def test_a_run_on_several_machines_is_one_run(finished: Path, tmp_path: Path) -> None:
    project = tmp_path / "study"
    shutil.copytree(finished, project, symlinks=True)
    write_experiment(project, ["lora.yaml"], [7])
    launch = {"config": "configs/launch/ddp.yaml", "nodes": 2, "gpus_per_node": 1}
    content = yaml.safe_load((project / "task.yaml").read_text())
    write_config(project / "task.yaml", {**content, "launch": launch})
    done = snakemake(project, "adapters")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [(job.state, job.nodes) for job in jobs(project, "train")] == [("COMPLETED", "2")]
    record = json.loads(next(project.glob("results/adapters/*lora-s7*/record.json")).read_text())
    assert record["circumstances"]["processes"] == 2


def test_a_job_that_is_cancelled_does_not_put_itself_back_into_the_queue(slurm: Path, tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(
        "import pathlib, signal, time\n"
        "from lora_ns.workflow.slurm import requeue\n"
        "def told(*_):\n"
        "    pathlib.Path('answer').write_text(str(requeue()))\n"
        "signal.signal(signal.SIGTERM, told)\n"
        "pathlib.Path('ready').touch()\n"
        "time.sleep(60)\n"
    )
    command = ["sbatch", "--parsable", "--requeue", f"--wrap=srun {sys.executable} job.py"]
    submitted = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    until("the job", (tmp_path / "ready").exists)
    control("scancel", submitted.stdout.strip())
    until("its answer", lambda: (tmp_path / "answer").exists() and (tmp_path / "answer").read_text())
    assert (tmp_path / "answer").read_text() == "False"
    until("its end", lambda: "CANCELLED" in _state(submitted.stdout.strip()))


def _state(job: str) -> str:
    command = ["squeue", "--states=all", "--noheader", f"--job={job}", "--format=%T"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


BLOCKS = re.findall(r"```bash\n(.*?)```", (REPOSITORY / "docs/cluster.md").read_text(), re.S)
ONCE = ("git clone", "cd lora-ns", "make setup", "export PATH")
"""What a person does first, and these tests stand on."""


def test_the_commands_of_the_page_run_on_the_cluster(finished: Path, tmp_path: Path) -> None:
    project = tmp_path / "study"
    shutil.copytree(finished, project, symlinks=True)
    (project / "configs/experiments").mkdir()
    shutil.copy(project / "experiment.yaml", project / "configs/experiments/mine.yaml")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "USER": "root"}
    said = {}
    for line in "".join(BLOCKS).splitlines():
        if not line.startswith(ONCE):
            done = subprocess.run(
                ["bash", "-c", line], cwd=project, env=environment, capture_output=True, text=True, timeout=300, check=False
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
            said[line.split()[0]] = done.stdout + done.stderr
    assert "max_runtime: 1-00:00:00" in (project / "profiles/slurm/partitions.yaml").read_text()
    assert "Nothing to be done" in said["snakemake"] and "prompt" in said["lora-ns"] and "STATE" in said["squeue"]

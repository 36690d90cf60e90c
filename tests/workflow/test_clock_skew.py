"""A clock that is wrong costs nothing that is finished: Snakemake takes a job for failed whose input is newer than its output."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from support import APART, REPOSITORY, sums, write_config, write_study
from test_workflow import SNAKEMAKE, snakemake

from lora_ns.experiment.study import load_experiment
from lora_ns.store.paths import Store

HOURS = 2 * 3600


def project_in(folder: Path, model: Path) -> Path:
    project = folder / "study"
    write_study(project, model)
    for name in ("workflow", "profiles"):
        shutil.copytree(REPOSITORY / name, project / name)
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(REPOSITORY / name, project / name)
    (project / "sums/dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sums(6, 60)))
    return project


def write_experiment(project: Path, **content: object) -> None:
    given = {"name": "sums", "tasks": ["task.yaml"], "methods": ["lora.yaml"], **content}
    write_config(project / "experiment.yaml", given)


def run_ahead(project: Path) -> dict[Path, float]:
    """Everything that is made so far, as by a clock two hours ahead."""
    ahead = time.time() + HOURS
    made = [path for folder in ("data", "results") for path in project.glob(f"{folder}/**/*") if path.is_file()]
    for path in made:
        os.utime(path, (ahead, ahead))
    return dict.fromkeys(made, ahead)


def rules_that_read_and_write(project: Path) -> set[str]:
    text = "\n\n".join(path.read_text() for path in project.glob("workflow/rules/*.smk"))
    rules = re.split(r"^(?:rule|checkpoint) (\w+):$", text, flags=re.M)[1:]
    bodies = dict(zip(rules[::2], rules[1::2], strict=True))
    return {name for name, body in bodies.items() if "    input:\n" in body and "    output:\n" in body}


def ran_on_inputs_from_the_future(project: Path, *targets: Path | str) -> set[str]:
    """The rules of the jobs that make the targets, all of whose inputs are there and come from the future."""
    before = run_ahead(project)
    done = snakemake(project, *map(str, targets))
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    temporary = [path for path in before if "scratch" in path.parts]
    touched = [path for path, when in before.items() if path not in temporary and abs(path.stat().st_mtime - when) > 1]
    assert not touched, "inputs are others', who may have dated them"
    return set(re.findall(r"^(\w+) +\d+$", output.split("Job stats:")[1], re.M)) - {"total"}


def test_every_rule_makes_its_outputs_of_inputs_from_the_future(
    tmp_path: Path, tiny_causal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = project_in(tmp_path, tiny_causal)
    monkeypatch.chdir(project)
    write_experiment(project, seeds=[0], sweep=APART, merge=True, tune={"training.learning_rate": [1e-2]})
    open_study = load_experiment(project / "experiment.yaml", Store())
    trials = open_study.trials
    assert open_study.choice is not None

    def made(*paths: Path) -> set[str]:
        rules = ran_on_inputs_from_the_future(project, *paths)
        assert all(path.is_file() for path in paths)
        return rules

    assert made(trials[0].run.rows / "record.json") == {"fetch"}
    ran = made(trials[0].run.tokens / "record.json")
    ran |= made(*(one.run.adapter / "record.json" for one in trials))
    ran |= made(*(one.score for one in trials))
    ran |= made(open_study.choice)
    assert ran_on_inputs_from_the_future(project, "scores") == {"evaluate", "scores"}
    (run,) = open_study.with_selection().runs
    ran |= made(run.merged / "record.json")
    ran |= made(open_study.tables_record)
    assert ran == {"tokenize", "train", "evaluate", "choose", "merge", "tables"}
    assert ran_on_inputs_from_the_future(project, "report") == {"report"}
    assert (project / "results/report/sums/index.html").is_file()
    # and several runs a job
    write_experiment(project, seeds=[1, 2], sweep={"max_memory": "1TiB"})
    ran |= ran_on_inputs_from_the_future(project, "adapters") | ran_on_inputs_from_the_future(project, "scores")
    assert ran - {"adapters", "scores"} == rules_that_read_and_write(project)


def test_what_is_finished_stays_though_its_job_is_taken_for_failed(tmp_path: Path, tiny_causal: Path) -> None:
    """The clock is set back by two hours, or a node's is ahead, while a stage works on what the same call has made."""
    project = project_in(tmp_path, tiny_causal)
    write_experiment(project, seeds=[0], sweep=APART)
    command = [*SNAKEMAKE, "--cores", "1", "data", "--config", "experiment=experiment.yaml"]
    with subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while not list(project.glob("logs/tokenize/*.log")):
            assert process.poll() is None
            time.sleep(0.02)
        run_ahead(project)
        said, _ = process.communicate(timeout=300)
    assert process.returncode != 0 and "older modification time" in said, said
    assert list(project.glob("data/tokens/*/record.json"))
    again = snakemake(project, "data")
    assert again.returncode == 0 and "Nothing to be done" in again.stdout + again.stderr

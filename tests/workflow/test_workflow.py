"""Small whole runs through Snakemake; exactly which jobs a change brings stands in test_least_work.py."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import APART, REPOSITORY, causal_task, lora_ns, sums, write_config

SNAKEMAKE = [str(Path(sys.executable).parent / "snakemake")]
METHODS = {
    "lora": {"peft": {"method": "lora", "r": 2, "target_modules": "all-linear"}},
    "prompt": {"peft": {"method": "prompt_tuning", "num_virtual_tokens": 2}, "training": {"learning_rate": 0.1}},
}


def snakemake(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [*SNAKEMAKE, "--cores", "2", *words, "--config", "experiment=experiment.yaml"]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=600, check=False)


def jobs(project: Path) -> dict[str, int]:
    """Rule -> number of its jobs that a call would run now, without the target rule."""
    done = snakemake(project, "-n")
    assert done.returncode == 0, done.stdout + done.stderr
    output = done.stdout + done.stderr
    if "Job stats:" not in output:
        assert "Nothing to be done" in output
        return {}
    stats = output.split("Job stats:")[1]
    found = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", stats, re.M)}
    return {name: count for name, count in found.items() if name not in ("all", "total")}


def write_experiment(project: Path, **changes: object) -> None:
    methods = ["lora.yaml", "prompt.yaml"]
    content = {"name": "sums", "tasks": ["task.yaml"], "methods": methods, "seeds": [0], "sweep": APART, **changes}
    write_config(project / "experiment.yaml", content)


def write_task(project: Path, model: Path, **sections: object) -> None:
    write_config(project / "task.yaml", causal_task(model, **sections))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_causal: Path) -> Path:
    """A project whose experiment has run to its tables."""
    project = tmp_path_factory.mktemp("project")
    for name in ("workflow", "profiles"):
        shutil.copytree(REPOSITORY / name, project / name)
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(REPOSITORY / name, project / name)
    (project / "sums").mkdir()
    for split, rows in {"train": sums(40), "test": sums(10, 45)}.items():
        (project / "sums" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_task(project, tiny_causal)
    for name, method in METHODS.items():
        write_config(project / f"{name}.yaml", method)
    write_experiment(project)
    assert jobs(project) == {"fetch": 1, "tokenize": 1, "train": 2, "evaluate": 2, "tables": 1}
    done = snakemake(project)
    assert done.returncode == 0, done.stdout + done.stderr
    return project


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the finished project, which a test may change."""
    copy = tmp_path / "project"
    shutil.copytree(finished, copy, symlinks=True)
    yield copy
    shutil.rmtree(copy)


def test_an_experiment_runs_to_its_tables(finished: Path) -> None:
    tables = finished / "results/tables/sums"
    assert {"main.csv", "main.md", "main.tex", "cost.csv"} <= {path.name for path in tables.iterdir()}
    text = (tables / "main.md").read_text()
    assert "lora" in text and "prompt" in text
    scores = sorted(finished.glob("results/scores/*/*.json"))
    assert len(scores) == 2
    for score in scores:
        content = json.loads(score.read_text())
        lines = (finished / "results/predictions" / content["run"] / f"{content['evaluation']}.jsonl").read_text().splitlines()
        assert len(lines) == content["num_examples"] == 10
        line = json.loads(lines[0])
        assert {"id", "prompt", "completions", "parsed", "reference", "scores"} <= set(line)


def test_a_second_call_does_nothing(finished: Path) -> None:
    assert jobs(finished) == {}


def test_snakemakes_own_report_has_the_tables_and_what_they_show(finished: Path) -> None:
    done = snakemake(finished, "--report", "report.html")
    assert done.returncode == 0, done.stdout + done.stderr
    page = (finished / "report.html").read_text(encoding="utf-8")
    for table in ("main", "comparison", "over_tasks", "cost", "forgetting", "tuning"):
        assert f"results/tables/sums/{table}.csv" in page, table
    assert "Holm" in page and "something of the base was" in page


def test_only_adapters_that_can_be_merged_are(project: Path) -> None:
    write_experiment(project, merge=True)
    assert jobs(project) == {"merge": 1}, "a learned prompt has no place in the weights"


def test_a_title_makes_tables_and_nothing_else(project: Path) -> None:
    write_experiment(project, title="Another title")
    assert jobs(project) == {"tables": 1}
    assert snakemake(project).returncode == 0
    assert "Another title" in (project / "results/tables/sums/main.tex").read_text()
    assert jobs(project) == {}


def test_a_lost_adapter_is_made_again_only_where_its_score_is_gone(project: Path) -> None:
    run = next(path.name for path in (project / "results/adapters").iterdir() if "-lora-" in path.name)
    shutil.rmtree(project / "results/adapters" / run)
    assert jobs(project) == {}
    shutil.rmtree(project / "results/scores" / run)
    assert jobs(project) == {"train": 1, "evaluate": 1, "tables": 1}


def test_what_the_command_line_made_snakemake_finds_done(project: Path) -> None:
    write_experiment(project, seeds=[0, 5])
    done = lora_ns("evaluate", "--config", "task.yaml", "--method", "lora.yaml", "seed=5", cwd=project)
    assert done.returncode == 0, done.stderr
    assert jobs(project) == {"train": 1, "evaluate": 1, "tables": 1}  # the other method's


def test_a_failed_run_is_named_and_the_others_finish(project: Path) -> None:
    write_config(project / "lora.yaml", {"peft": {"method": "lora", "target_modules": ["no_such_layer"]}})
    write_config(project / "prompt.yaml", {"peft": {"method": "prompt_tuning", "num_virtual_tokens": 3}})
    done = snakemake(project)
    assert done.returncode != 0
    assert "Target modules" in done.stdout + done.stderr
    assert len(list(project.glob("results/scores/*prompt*/*.json"))) == 2
    assert jobs(project) == {"train": 1, "evaluate": 1, "tables": 1}


def test_a_wrong_experiment_ends_snakemake_with_the_paragraph(project: Path) -> None:
    write_experiment(project, methods=["lora.yaml", "gone.yaml"])
    done = snakemake(project, "-n")
    assert done.returncode != 0
    assert "gone.yaml: there is no such file" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr

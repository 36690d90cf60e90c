"""A search for settings through Snakemake: the trials, the choice on validation rows, then only what was chosen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import APART, REPOSITORY, causal_task, lora_ns, sums, write_config
from test_workflow import jobs, snakemake

DIVERGES = 1e30
RATES = [1e-2, DIVERGES]


def write_experiment(project: Path, **changes: object) -> None:
    content = {
        "name": "sums",
        "tasks": ["task.yaml"],
        "methods": ["lora.yaml"],
        "seeds": [0],
        "sweep": APART,
        "tune": {"training.learning_rate": RATES},
        **changes,
    }
    write_config(project / "experiment.yaml", content)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_causal: Path) -> Path:
    """A project whose search and comparison have run to the tables, in one call."""
    project = tmp_path_factory.mktemp("search")
    for name in ("workflow", "profiles"):
        shutil.copytree(REPOSITORY / name, project / name)
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(REPOSITORY / name, project / name)
    (project / "sums").mkdir()
    for split, rows in {"train": sums(40), "dev": sums(6, 60), "test": sums(10, 45)}.items():
        (project / "sums" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_config(project / "task.yaml", causal_task(tiny_causal))
    write_config(project / "lora.yaml", {"peft": {"method": "lora", "r": 2, "target_modules": "all-linear"}})
    write_experiment(project)
    # before the choice: two trials, one seed each; what follows the choice is not known yet
    assert jobs(project) == {"fetch": 1, "tokenize": 1, "train": 2, "evaluate": 2, "choose": 1, "tables": 1}
    done = snakemake(project)
    assert done.returncode == 0, done.stdout + done.stderr
    return project


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Iterator[Path]:
    copy = tmp_path / "project"
    shutil.copytree(finished, copy, symlinks=True)
    yield copy
    shutil.rmtree(copy)


def scores(project: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(project.glob("results/scores/*/*.json"))]


def test_only_the_chosen_setting_is_tested_and_its_trial_is_not_trained_again(finished: Path) -> None:
    (tested,) = [s for s in scores(finished) if s["config"]["split"] == "test"]
    trained = [path.name for path in finished.glob("results/adapters/*-lora-*")]
    assert len(trained) == 2 and tested["run"] in trained
    assert tested["trained"]["history"][0]["step"] == 1


def test_the_choice_is_made_on_validation_rows_and_a_diverged_setting_loses(finished: Path) -> None:
    (choice,) = finished.glob("results/tuning/*.json")
    content = json.loads(choice.read_text())
    by_rate = {trial["setting"]["training.learning_rate"]: trial for trial in content["trials"]}
    assert by_rate[1e-2]["chosen"] and by_rate[1e-2]["value"] is not None
    assert not by_rate[DIVERGES]["chosen"] and by_rate[DIVERGES]["value"] is None
    assert "the loss became" in by_rate[DIVERGES]["failed"]
    read = [json.loads((finished / "results/scores" / name).read_text()) for name in content["inputs"]]
    assert {score["config"]["split"] for score in read} == {"validation"}
    assert [score["num_examples"] for score in read if score["metrics"]] == [6]


def test_the_tables_hold_the_search(finished: Path) -> None:
    text = (finished / "results/tables/sums/tuning.csv").read_text()
    assert "sums,lora,training.learning_rate,0.01,0.01 1e+30,True" in text
    assert (finished / "results/figures/sums/learning_rate.pdf").is_file()


def test_nothing_is_to_be_done_also_where_data_adapters_and_clocks_are_gone(project: Path) -> None:
    for lost in ("data", "results/adapters", "results/predictions", ".snakemake"):
        shutil.rmtree(project / lost)
    for score in project.glob("results/scores/*/*.json"):
        score.touch()
    assert jobs(project) == {}


def test_a_change_adds_only_what_depends_on_it(project: Path) -> None:
    write_experiment(project, seeds=[0, 1, 2])
    assert jobs(project) == {"train": 2, "evaluate": 2, "tables": 1}  # the chosen setting's other seeds
    write_experiment(project, tune={"training.learning_rate": [*RATES, 1e-3]})
    assert jobs(project) == {"train": 1, "evaluate": 1, "choose": 1, "tables": 1}  # the new value's trial


def test_a_lost_choice_is_made_again_from_its_scores_without_training(project: Path) -> None:
    before = (project / "results/tables/sums/tuning.csv").read_bytes()
    shutil.rmtree(project / "results/tuning")
    assert jobs(project) == {"choose": 1, "tables": 1}
    done = snakemake(project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (project / "results/tables/sums/tuning.csv").read_bytes() == before
    assert jobs(project) == {}


def test_tables_before_the_choice_are_refused_and_a_diverged_run_cannot_be_used(project: Path) -> None:
    (diverged,) = [s["run"] for s in scores(project) if not s["metrics"]]
    done = lora_ns("evaluate", "--config", f"results/runs/{diverged}.yaml", "evaluation.benchmarks=[gsm8k]", cwd=project)
    assert done.returncode == 1
    assert "diverged: the loss became" in done.stderr and "Traceback" not in done.stderr
    shutil.rmtree(project / "results/tuning")
    done = lora_ns("tables", "experiment.yaml", cwd=project)
    assert done.returncode == 1
    assert "the settings of sums are not chosen yet: 2 of 2 trials" in done.stderr

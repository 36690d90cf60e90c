"""Which scores become which files, when they are made again, and what a clone without data rebuilds."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from support import causal_task, write_config
from synthetic_scores import generation_score, history

from lora_ns.config.text_files import replace_text
from lora_ns.errors import LoraNsError, TrainingError
from lora_ns.experiment.study import Study, load_experiment
from lora_ns.reporting import make_tables
from lora_ns.reporting.rng import SEED
from lora_ns.reporting.statistics import RESAMPLES
from lora_ns.reporting.tables.build import TABLES
from lora_ns.store import record
from lora_ns.store.failures import record_failure
from lora_ns.store.paths import Store
from lora_ns.store.run import Run
from lora_ns.workflow.dag_inputs import Dag


def write_experiment(folder: Path, **changes: object) -> Path:
    task = causal_task("builtin:tiny-llama")
    dataset = {**task["dataset"], "name": "builtin:word_problems"}  # type: ignore[dict-item]
    write_config(folder / "task.yaml", {**task, "dataset": dataset})
    write_config(folder / "lora.yaml", {"peft": {"method": "lora", "r": 2}})
    write_config(folder / "full.yaml", {"peft": {"method": "full"}})
    content = {"name": "e", "tasks": ["task.yaml"], "methods": ["lora.yaml", "full.yaml"], "seeds": [0, 1], **changes}
    return write_config(folder / "experiment.yaml", content)


def write_scores(experiment: Study) -> None:
    """A score, as evaluation would write it, wherever the experiment wants one; values are made up."""
    for run in experiment.runs:
        config = run.config
        score = generation_score("sums", config.method, config.seed, {"lora": 0.5, "full": 0.7}[config.method])
        score |= {"run": run.name, "evaluation": run.evaluations[0].name}
        score["trained"] = {"history": history(config.method, config.seed, 30)}
        replace_text(run.scores[0], json.dumps(record.sealed(score)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an experiment, its scores, tables and figures."""
    folder = tmp_path_factory.mktemp("stage")
    here = Path.cwd()
    os.chdir(folder)
    try:
        experiment = load_experiment(write_experiment(folder))
        write_scores(experiment)
        make_tables.tables(experiment, Store())
    finally:
        os.chdir(here)
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the current folder."""
    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    monkeypatch.chdir(copy)
    return copy


def experiment() -> Study:
    return load_experiment(Path("experiment.yaml"))


def files(folder: Path) -> dict[str, bytes]:
    found = [path for kind in ("tables", "figures", "metrics", "plots") for path in folder.glob(f"results/{kind}/**/*")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found if path.is_file()}


def moments(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_mtime_ns for name in files(folder)}


def test_tables_and_figures_are_made_and_the_record_names_all_that_went_in_and_came_out(project: Path) -> None:
    names = set(files(project))
    assert {"results/tables/e/main.tex", "results/tables/e/paper.tex", "results/figures/e/learning_curves.pdf"} <= names
    said = json.loads(experiment().tables_record.read_text())
    assert set(said["outputs"]) | {f"results/tables/e/{experiment().tables_record.name}"} == names
    assert set(said["inputs"]) == {str(run.scores[0]) for run in experiment().runs}


def test_every_table_and_figure_says_what_made_it_from_which_commit(project: Path) -> None:
    commits = sorted({json.loads(run.scores[0].read_text())["code"]["commit"][:10] for run in experiment().runs})
    said = (
        f"Made by `lora-ns tables experiment.yaml` from 4 scores of commit {', '.join(commits)}; "
        f"see {experiment().tables_record.name}."
    )
    for name in TABLES:
        assert Path(f"results/tables/e/{name}.md").read_text().endswith(f"<!-- {said} -->\n")
        assert Path(f"results/tables/e/{name}.tex").read_text().startswith(f"% {said}\n")
    for path in Path("results/figures/e").glob("*.png"):
        assert Image.open(path).text["Description"] == said
    for path in Path("results/figures/e").glob("*.pdf"):
        assert said.encode() in path.read_bytes()
    assert json.loads(experiment().tables_record.read_text())["experiment_file"] == "experiment.yaml"


def test_with_the_scores_alone_every_file_is_rebuilt_to_the_byte(project: Path) -> None:
    before = files(project)
    for kind in ("tables", "figures", "metrics", "plots"):
        shutil.rmtree(f"results/{kind}")
    assert {path.name for path in Path("results").iterdir()} == {"scores"}
    make_tables.tables(experiment(), Store())
    assert files(project) == before


def test_a_second_call_makes_nothing_and_shows_the_same(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = moments(project)
    shown = make_tables.tables(experiment(), Store())
    assert moments(project) == before
    shutil.rmtree("results/tables")
    assert make_tables.tables(experiment(), Store()) == shown


@pytest.mark.parametrize("change", ["a score", "a table", "a lost figure", "the title", "the code"])
def test_whatever_changes_is_made_again(project: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    before = files(project)
    if change == "a score":
        path = experiment().runs[0].scores[0]
        score = json.loads(path.read_text())
        score["cost"]["trainable_parameters"] = 54321
        path.write_text(json.dumps(record.sealed(score)))
    elif change == "a table":
        Path("results/tables/e/main.md").write_text("someone was here")
    elif change == "a lost figure":
        Path("results/figures/e/seeds.png").unlink()
    elif change == "the title":
        write_experiment(project, title="Another")
    else:
        monkeypatch.setattr(make_tables, "CODE", ("reporting/make_tables.py",))
    make_tables.tables(experiment(), Store())
    after = files(project)
    if change in ("a table", "a lost figure"):
        assert after == before
    else:
        assert after != before
        assert len([name for name in after if "record-" in name]) == 1


def test_missing_and_failed_runs_are_said_and_the_record_is_not_that_of_finished_tables(project: Path) -> None:
    store, (first, second, *_) = Store(), experiment().runs
    shutil.rmtree(first.scores[0].parent)
    shutil.rmtree(second.scores[0].parent)
    with pytest.raises(TrainingError), record_failure(store, first.name, "train"):
        raise TrainingError("the loss became nan at step 7: training stopped.")
    make_tables.tables(experiment(), store)
    text = Path("results/tables/e/main.md").read_text()
    assert "sums: seed 0 failed (train: the loss became nan at step 7: training stopped); seed 1 missing" in text
    assert not experiment().tables_record.exists()
    write_scores(experiment())
    make_tables.tables(experiment(), store)
    assert experiment().tables_record.exists()


def test_a_failure_is_forgotten_once_the_stage_succeeds(project: Path) -> None:
    with pytest.raises(ZeroDivisionError), record_failure(Store(), "r", "train"):
        _ = 1 / 0
    note = json.loads(Path("results/failures/r.json").read_text())
    assert (note["stage"], note["reason"]) == ("train", "ZeroDivisionError: division by zero")
    with record_failure(Store(), "r", "train"):
        pass
    assert not Path("results/failures/r.json").exists()


def test_tables_wait_for_the_choice_of_settings(project: Path) -> None:
    write_experiment(project, tune={"training.learning_rate": [1e-4, 1e-3]})
    with pytest.raises(LoraNsError, match="not chosen yet: 0 of 4 trials"):
        make_tables.tables(experiment(), Store())


def test_forgetting_is_asked_of_the_base_by_the_workflow_and_read_by_the_tables(project: Path) -> None:
    plain = {run.name: run.score_names for run in experiment().runs}
    alone = {"sweep": {"fuse": "never", "in_turn": 1}}
    write_experiment(project, **alone)
    before = set(Dag("experiment.yaml").scores(None))
    (project / "general.txt").write_text("One sentence.\nAnother one.\n")
    write_experiment(project, forgetting={"name": "general.txt"}, **alone)
    (base,) = experiment().bases
    [general] = experiment().general
    dag = Dag("experiment.yaml")
    extra = {str(Store().score(name, general)) for name in (*plain, base.name)}
    assert set(dag.scores(None)) == before | extra, "one more score for each run and one for the base, nothing else"
    assert base.name in dag.runs and {run.name: run.score_names[:1] for run in experiment().runs} == plain
    losses = {run.name: 3.0 + index / 10 for index, run in enumerate((base, *experiment().runs))}
    for run in experiment().runs:
        write_general(run, losses[run.name])
    make_tables.tables(experiment(), Store())
    assert not experiment().tables_record.exists(), "the base is still to be asked"
    write_general(base, losses[base.name])
    make_tables.tables(experiment(), Store())
    said = json.loads(experiment().tables_record.read_text())
    assert str(base.scores[0]) in said["inputs"]
    rows = pd.read_csv("results/tables/e/forgetting.csv").set_index("method")
    assert rows.difference.to_dict() == pytest.approx({"lora": 0.15, "full": 0.35})


def write_general(run: Run, loss: float) -> None:
    score = generation_score("sums", run.config.method, run.config.seed)
    score |= {"run": run.name, "evaluation": run.evaluations[-1].name, "benchmark": "perplexity", "examples": {}}
    score |= {"main_metric": "perplexity", "metrics": {"perplexity": 2.0**loss, "loss": loss}}
    replace_text(run.scores[-1], json.dumps(record.sealed(score)))


def test_the_record_shows_the_seed_and_the_number_of_resamples(project: Path) -> None:
    said = json.loads(experiment().tables_record.read_text())
    assert said["resampling"] == {"seed": SEED, "resamples": RESAMPLES}

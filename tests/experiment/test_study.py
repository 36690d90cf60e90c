from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import REPOSITORY, causal_task, write_config

from lora_ns.config import read_mapping
from lora_ns.config.load import read_task
from lora_ns.errors import ConfigError
from lora_ns.experiment.study import load_experiment


def experiment(folder: Path, **changes: object) -> Path:
    write_config(folder / "task.yaml", causal_task("builtin:tiny-llama"))
    write_config(folder / "lora.yaml", {"peft": {"method": "lora", "r": 2}, "training": {"learning_rate": 3e-3}})
    write_config(folder / "none.yaml", {"peft": {"method": "none"}})
    content = {"name": "e", "tasks": ["task.yaml"], "methods": ["lora.yaml", "none.yaml"], "seeds": [0, 1], **changes}
    return write_config(folder / "experiment.yaml", content)


def on_builtin(**sections: object) -> dict[str, object]:
    """A task whose data have validation rows."""
    task = causal_task("builtin:tiny-llama", **sections)
    return {**task, "dataset": {**task["dataset"], "name": "builtin:word_problems"}}  # type: ignore[dict-item]


def problems(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_experiment(path)
    return "\n".join(caught.value.problems)


def test_runs_are_tasks_by_methods_by_seeds(workplace: Path) -> None:
    runs = load_experiment(experiment(workplace)).runs
    assert [(r.config.method, r.config.seed) for r in runs] == [("lora", 0), ("lora", 1), ("none", 0), ("none", 1)]
    assert len({run.name for run in runs}) == 4
    assert len({run.tokens for run in runs}) == 1


def test_later_layers_win_task_method_experiment_entry(workplace: Path) -> None:
    path = experiment(
        workplace,
        methods=["lora.yaml", {"config": "lora.yaml", "name": "hot", "overrides": {"training.learning_rate": 0.5}}],
        overrides={"training.max_steps": 7, "training": {"weight_decay": 0.1}},
        seeds=[0],
    )
    first, second = (run.config for run in load_experiment(path).runs)
    assert (first.training.learning_rate, first.training.max_steps, first.training.weight_decay) == (3e-3, 7, 0.1)
    assert (second.method, second.training.learning_rate) == ("hot", 0.5)


def test_settings_of_a_method_on_one_task_win_there_and_only_there(workplace: Path) -> None:
    entry = {"config": "lora.yaml", "overrides": {"peft.r": 4}, "per_task": {"sums": {"peft.r": 8}}}
    path = experiment(workplace, tasks=["task.yaml", {"config": "task.yaml", "name": "other"}], methods=[entry], seeds=[0])
    assert {run.config.task_name: run.config.peft.fields["r"] for run in load_experiment(path).runs} == {"sums": 8, "other": 4}
    entry["per_task"] = {"smus": {}}
    assert "no task is called 'smus'. Did you mean 'sums'?" in problems(experiment(workplace, methods=[entry]))


def test_changing_one_methods_learning_rate_renames_that_methods_runs_only(workplace: Path) -> None:
    before = {run.name for run in load_experiment(experiment(workplace)).runs}
    path = experiment(workplace)
    write_config(workplace / "lora.yaml", {"peft": {"method": "lora", "r": 2}, "training": {"learning_rate": 1e-4}})
    after = {run.name for run in load_experiment(path).runs}
    assert all("-none-" in name for name in before & after) and len(before & after) == 2


def test_faults_of_all_files_come_at_once(workplace: Path) -> None:
    path = experiment(workplace, methods=["lora.yaml", "gone.yaml"], baseline="lorra")
    write_config(workplace / "lora.yaml", {"peft": {"method": "lora", "rank": 2}})
    text = problems(path)
    assert "gone.yaml: there is no such file" in text
    assert "peft.rank: not a setting of method 'lora'" in text
    assert "no method is called 'lorra'. Did you mean 'lora'?" in text


def test_a_fault_of_the_task_is_said_once_not_with_every_method(workplace: Path) -> None:
    path = experiment(workplace)
    task = read_mapping(workplace / "task.yaml")
    write_config(workplace / "task.yaml", {**task, "evaluation": {"benchmarks": ["gsm9k"]}})
    assert problems(path).count("gsm9k") == 1 and " with " not in problems(path)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"methds": []}, "methds: there is no such key. Did you mean 'methods'?"),
        ({"seeds": []}, "seeds"),
        ({"seeds": ["a"]}, "seeds.0"),
        ({"name": "../up"}, "name"),
        ({"methods": ["lora.yaml", "lora.yaml"]}, "two are called 'lora'"),
        ({"tasks": ["task.yaml", "task.yaml"]}, "same task_name"),
        ({"tasks": []}, "tasks"),
    ],
    ids=str,
)
def test_a_wrong_experiment_file_says_where(workplace: Path, change: dict, expected: str) -> None:
    assert expected in problems(experiment(workplace, **change))


RATES = {"training.learning_rate": [1e-3, 3e-3]}


def test_a_search_tries_every_setting_of_every_method_but_the_base_on_validation_rows(workplace: Path) -> None:
    path = experiment(workplace, tune={**RATES, "training.weight_decay": [0, 0.1]}, tune_seeds=[7, 8])
    write_config(workplace / "task.yaml", on_builtin(evaluation={"benchmarks": ["exact_match", "contains"]}))
    found = load_experiment(path)
    assert [(t.method, t.run.config.seed, *t.setting.values()) for t in found.trials] == [
        ("lora", seed, rate, decay) for rate in (1e-3, 3e-3) for decay in (0, 0.1) for seed in (7, 8)
    ]
    evaluations = [evaluation for trial in found.trials for evaluation in trial.run.evaluations]
    assert {(e.split, e.benchmark) for e in evaluations} == {("validation", "exact_match")}
    assert [run.config.method for run in found.runs] == ["none", "none"]  # the others wait for the choice
    assert found.needs_selection


def test_the_choice_names_the_runs_and_the_trial_with_its_seed_is_one_of_them(workplace: Path) -> None:
    path = experiment(workplace, tune=RATES)
    write_config(workplace / "task.yaml", on_builtin())
    found = load_experiment(path)
    lines = [{"task": t.task, "method": t.method, "setting": t.setting} for t in found.trials]
    found.choice.parent.mkdir(parents=True)
    found.choice.write_text(json.dumps({"trials": [{**line, "chosen": i == 1} for i, line in enumerate(lines)]}))
    settled = load_experiment(path)
    assert [(r.config.method, r.config.seed) for r in settled.runs] == [("lora", 0), ("lora", 1), ("none", 0), ("none", 1)]
    assert {r.config.training.learning_rate for r in settled.runs if r.config.method == "lora"} == {3e-3}
    assert settled.trials[1].run.name == settled.runs[0].name
    assert settled.trials[1].score != settled.runs[0].scores[0]
    assert settled.tables_record == found.tables_record


def test_a_method_may_have_a_grid_of_its_own_of_the_same_size(workplace: Path) -> None:
    other = {"config": "lora.yaml", "name": "wide", "tune": {"peft.r": [4, 8]}}
    path = experiment(workplace, methods=["lora.yaml", other], tune=RATES)
    write_config(workplace / "task.yaml", on_builtin())
    trials = load_experiment(path).trials
    assert [t.setting for t in trials if t.method == "wide"] == [{"peft.r": 4}, {"peft.r": 8}]
    assert len({t.run.name for t in trials}) == 4


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"tune": {"dataset.max_length": [8]}}, "only settings of `training` and `peft`"),
        ({"tune": {"training.learning_rate": []}}, "names no value"),
        ({"tune": {"training.learning_rate": [1e-3, 1e-3]}}, "names a value twice"),
        ({"tune": {}}, "names nothing to search"),
        ({"tune": {"training.learning_rat": [1e-3]}}, "Did you mean 'learning_rate'"),
        ({"tune": {"training.learning_rate": [1e-3, -1]}}, "training.learning_rate"),
        (
            {"methods": ["lora.yaml", {"config": "lora.yaml", "name": "more", "tune": {"peft.r": [1, 2, 4]}}], "tune": RATES},
            "every method must have the same number of settings to try, for the choice to be fair; here: lora 2, more 3",
        ),
        ({"methods": [{"config": "lora.yaml", "tune": RATES}, "full.yaml"]}, "here: lora 2, full 0"),
    ],
    ids=str,
)
def test_a_search_that_is_wrong_or_unfair_is_refused(workplace: Path, change: dict, expected: str) -> None:
    path = experiment(workplace, **change)
    write_config(workplace / "task.yaml", on_builtin())
    write_config(workplace / "full.yaml", {"peft": {"method": "full"}})
    assert expected in problems(path)


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ({"name": "./sums"}, "no validation split that is not tested on. Set dataset.validation_size"),
        ({"name": "./sums", "validation_size": 5}, None),
        ({"name": {"train": "sums/train.jsonl", "validation": "sums/test.jsonl", "test": "sums/test.jsonl"}}, "the same file"),
        ({"name": {"train": "sums/train.jsonl", "validation": "sums/test.jsonl", "test": "sums/train.jsonl"}}, None),
        ({"name": "./sums", "validation_split": "test"}, "is 'test', the split that is tested on"),
        ({"name": "builtin:word_problems", "options": {"num_validation": 0}}, "num_validation is 0. Set dataset.validation_size"),
        ({"name": "someone/something"}, "names no dataset.validation_split. Set dataset.validation_size"),
        ({"name": "some/thing", "eval_split": "dev", "validation_split": "dev"}, "the split that is tested on"),
        ({"name": "someone/something", "validation_split": "dev"}, None),
    ],
    ids=str,
)  # fmt: skip
def test_a_search_without_validation_rows_is_refused(workplace: Path, dataset: dict, expected: str | None) -> None:
    path = experiment(workplace, tune=RATES)
    task = causal_task("builtin:tiny-llama")
    write_config(workplace / "task.yaml", {**task, "dataset": {**task["dataset"], **dataset}})
    if expected is None:
        assert load_experiment(path).trials
    else:
        assert expected in problems(path)


def test_the_experiments_that_come_along_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    repository = REPOSITORY
    monkeypatch.chdir(repository)
    demo = load_experiment(repository / "configs/experiments/demo.yaml")
    assert (len(demo.tasks), len(demo.methods), len(demo.seeds)) == (3, 5, 3)


def test_a_benchmark_asked_twice_in_a_task_is_refused_before_anything_runs(workplace: Path) -> None:
    path = experiment(workplace, overrides={"evaluation.benchmarks": ["gsm8k", {"name": "gsm8k", "num_fewshot": 1}]})
    assert "gsm8k is asked twice, and the tables have one place for it" in problems(path)


def test_trials_and_runs_leave_out_the_same_rows_whatever_else_they_are_asked(workplace: Path) -> None:
    for name in ("other.jsonl", "text.jsonl"):
        Path(name).write_text('{"question": "New?", "answer": "1", "text": "New?"}\n')
    other = {"name": "exact_match", "dataset": {"name": "other.jsonl"}}
    path = experiment(
        workplace, methods=["lora.yaml"], forgetting={"name": "text.jsonl"}, tune={"training.learning_rate": [1e-3, 1e-2]}
    )
    task = on_builtin(evaluation={"benchmarks": ["gsm8k", other]})
    write_config(workplace / "task.yaml", {**task, "dataset": {**task["dataset"], "overlap": "drop"}})  # type: ignore[dict-item]
    (alone,) = {trial.run.tokens for trial in load_experiment(path).trials}
    write_config(workplace / "experiment.yaml", {**read_mapping(path), "tune": None})
    runs = load_experiment(path).runs
    assert {run.tokens for run in runs} == {alone} and len(runs[0].evaluations) == 3
    write_config(workplace / "experiment.yaml", {**read_mapping(path), "tune": None, "forgetting": None})
    assert {run.name for run in load_experiment(path).runs} == {run.name for run in runs}


def test_a_chat_template_beside_a_task_is_found_from_an_experiment_and_for_a_benchmarks_own_data(
    workplace: Path, tiny_causal: Path
) -> None:
    for name in ("tasks", "experiments"):
        Path(name).mkdir()
    Path("tasks/mine.jinja").write_text("{{ messages[0].content }}")
    chat = {"name": "sums/train.jsonl", "format": "messages", "chat_template": "mine.jinja"}
    chat["held_out"] = [{"benchmark": "gsm8k", "dataset": {**chat}}]
    asked = {"benchmarks": [{"name": "perplexity", "dataset": chat}]}
    write_config(Path("tasks/t.yaml"), {**causal_task(tiny_causal), "dataset": chat, "evaluation": asked})
    write_config(Path("lora.yaml"), {"peft": {"method": "lora", "r": 2}})
    content = {"name": "e", "tasks": ["tasks/t.yaml"], "methods": ["lora.yaml"], "seeds": [0]}
    write_config(Path("experiments/e.yaml"), content)
    (run,) = load_experiment(Path("experiments/e.yaml")).runs
    (left_out,) = read_task(Path("tasks/t.yaml"))["dataset"]["held_out"]
    assert left_out["dataset"]["chat_template"] == "tasks/mine.jinja"
    found = [run.config.dataset.chat_template, run.evaluations[0].dataset.chat_template]
    assert found == ["{{ messages[0].content }}"] * 2

"""Runs made again: identical on the same machine, and what differs is said where it first does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import REPOSITORY, lora_ns, write_config

from lora_ns.config import expand_dotted, load_config, merge, read_mapping
from lora_ns.errors import ConfigError
from lora_ns.experiment.study import load_experiment
from lora_ns.provenance.verify.run import Verified
from lora_ns.provenance.verify.targets import Requests, requests_of, verify_all
from lora_ns.reporting.make_tables import tables
from lora_ns.store import paths as store_module
from lora_ns.store import record
from lora_ns.store.artifact import read_record
from lora_ns.store.local_files import sha256_file
from lora_ns.store.paths import Store
from lora_ns.store.run import Run
from lora_ns.workflow.pipeline import make_adapters, make_score


def verified(*targets: str, tolerance: float = 1e-3) -> list[Verified]:
    store = Store()
    return list(verify_all(requests_of(targets, store), store, tolerance=tolerance))


def states(result: Verified) -> dict[str, str]:
    return {part.name: part.state for part in result.parts}


def first_run() -> str:
    return load_experiment(Path("experiment.yaml")).runs[0].name


def reseal(path: Path, change: dict) -> None:
    """A record or score as another machine would have written it."""
    content = merge(json.loads(path.read_text()), change)
    path.write_text(json.dumps(record.sealed(content)))


ALL_IDENTICAL = {"adapter": "identical", "loss curve": "identical", "predictions": "identical", "score": "identical"}


def test_an_experiment_made_again_is_identical_bit_for_bit(study: Path) -> None:
    results = verified("experiment.yaml")
    assert len(results) == 4
    for result in results:
        assert (result.state, states(result), result.environment) == ("identical", ALL_IDENTICAL, {})
    assert not list(Path("results/scratch").glob("verify-*"))


def test_runs_that_were_trained_at_once_are_made_again_at_once(study: Path) -> None:
    store = Store()
    shutil.rmtree("results/adapters")
    runs = load_experiment(Path("experiment.yaml"), store).runs
    make_adapters(runs, lambda *_: None, quiet=True)
    fused = [run.name for run in runs if run.config.peft.method == "lora"]
    assert all(read_record(store.adapter(run))["circumstances"]["fused_with"] == fused for run in fused)
    shutil.rmtree("results/scores")
    assert [result.state for result in verified(*fused)] == ["identical"] * 2


def test_company_whose_run_file_is_missing_is_named_and_the_run_compared_within_a_tolerance(study: Path) -> None:
    store = Store()
    shutil.rmtree("results/adapters")
    runs = [run for run in load_experiment(Path("experiment.yaml"), store).runs if run.config.peft.method == "lora"]
    make_adapters(runs, lambda *_: None, quiet=True)
    shutil.rmtree("results/scores")
    gone = runs[1].file
    gone.unlink()
    (result,) = verified(runs[0].name)
    assert result.state == "within" and states(result)["company"] == "within"
    assert states(result)["adapter"] in ("within", "identical")
    (said,) = [part.said for part in result.parts if part.name == "company"]
    assert f"{gone} is missing" in said and "trained alone" in said and "within 0.001" in said


def test_a_run_whose_memory_ran_out_is_made_again_with_as_many_rows_at_once(study: Path, monkeypatch) -> None:
    from lora_ns.training import setup

    store = Store()
    run = next(run for run in load_experiment(Path("experiment.yaml"), store).runs if run.config.peft.method == "lora")
    record_file = run.adapter / "record.json"
    reseal(record_file, {"circumstances": {"rows_at_once": 2}})
    asked: list[int | None] = []
    prepare = setup.prepare

    def noted(*given, per_device=None, **rest):
        asked.append(per_device)
        return prepare(*given, per_device=per_device, **rest)

    monkeypatch.setattr("lora_ns.training.train.prepare", noted)
    verified(run.name)
    assert asked == [2]


def test_a_clone_without_adapters_data_and_predictions_is_verified_by_what_git_keeps(study: Path) -> None:
    for place in ("data", "results/adapters", "results/predictions"):
        shutil.rmtree(place)
    (result,) = verified(first_run())
    assert (result.state, states(result)) == ("identical", ALL_IDENTICAL)


def test_what_is_damaged_is_named_and_nothing_is_made(study: Path) -> None:
    weights = Store().adapter(first_run()) / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    (result,) = verified(first_run())
    assert result.state == "damaged" and "adapter_model.safetensors has sha256" in result.parts[0].said
    done = lora_ns("verify", first_run())
    assert done.returncode == 1 and "adapter_model.safetensors has sha256" in done.stdout


@pytest.mark.parametrize("damaged", ["tokens", "rows"])
def test_damaged_data_is_named_where_it_lies_and_the_other_runs_are_verified(study: Path, damaged: str) -> None:
    file = next(Path("data").glob({"tokens": "tokens/*/train.arrow", "rows": "raw/*/test.parquet"}[damaged]))
    file.write_bytes(file.read_bytes()[:-1])
    results = verified("experiment.yaml")
    assert [result.state for result in results] == ["damaged"] * 4
    for result in results:
        assert f"{file.parent}: {file.name} has" in result.parts[0].said and "scratch" not in result.parts[0].said


def test_an_edited_evaluation_file_makes_no_score(study: Path) -> None:
    run, other = [run.name for run in load_experiment(Path("experiment.yaml")).runs][:2]
    path = next(Path("results/evaluations").glob("*.yaml"))
    path.write_text(path.read_text().replace("max_new_tokens: ", "max_new_tokens: 1"))
    done = lora_ns("evaluate", "--config", f"results/runs/{run}.yaml", "--evaluation", str(path))
    assert done.returncode == 2 and "was changed after it was written" in done.stderr
    results = verified(run, other)
    assert [result.state for result in results] == ["unknown"] * 2
    assert "was changed after it was written" in results[0].parts[0].said


@pytest.mark.parametrize(("shift", "state"), [(1e-6, "within"), (0.5, "different")])
def test_weights_that_differ_are_measured_and_the_first_is_named(study: Path, shift: float, state: str) -> None:
    store, run = Store(), first_run()
    path = store.adapter(run) / "adapter_model.safetensors"
    weights = load_file(path)
    name = sorted(weights)[3]
    weights[name][0, 0] += shift
    save_file(weights, path, metadata={"format": "pt"})
    facts = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    reseal(store.adapter(run) / "record.json", {"outputs": {path.name: facts}, "packages": {"torch": "1.0"}})
    (result,) = verified(run)
    (part,) = [part for part in result.parts if part.name == "adapter"]
    assert part.state == state and f"1 tensors differ, by at most {shift:.3g}" in part.said and name in part.said
    assert result.state == state and result.environment["torch"] == ["1.0", torch.__version__]


def test_the_first_step_and_the_first_example_that_differ_are_named(study: Path) -> None:
    store, run = Store(), first_run()
    history = store.adapter(run) / "history.jsonl"
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    lines[1]["loss"] += 0.25
    history.write_text("".join(json.dumps(line) + "\n" for line in lines))
    facts = {"sha256": sha256_file(history), "bytes": history.stat().st_size}
    reseal(store.adapter(run) / "record.json", {"outputs": {history.name: facts}})
    score = next(Path("results/scores", run).glob("*.json"))
    predictions = store.predictions(run, score.stem)
    asked = [json.loads(line) for line in predictions.read_text().splitlines()]
    asked[4]["completions"], asked[4]["scores"]["gsm8k_strict"] = ["something else"], 1.0
    predictions.write_text("".join(json.dumps(line) + "\n" for line in asked))
    reseal(score, {"outputs": {"predictions": {"sha256": sha256_file(predictions)}}, "metrics": {"gsm8k_strict": 0.1}})
    (result,) = verified(run)
    said = {part.name: part.said for part in result.parts}
    assert states(result) == {**dict.fromkeys(ALL_IDENTICAL, "different"), "adapter": "identical"}
    assert "step 2 is the first to differ" in said["loss curve"] and "0.25 apart" in said["loss curve"]
    assert (
        '1 of 10 examples differ, 1 of them in what they came to; first example 4: completions ["something else"]'
        in said["predictions"]
    )
    assert "gsm8k_strict 0.1 → 0" in said["score"]
    assert {name: state for name, state in states(verified(run, tolerance=0.3)[0]).items() if name != "predictions"} == {
        "adapter": "identical", "loss curve": "within", "score": "within"
    }  # fmt: skip


def test_a_bumped_protocol_is_said_instead_of_a_comparison(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = Requests({first_run(): []})
    monkeypatch.setitem(store_module.PROTOCOL, "train", 99)
    (result,) = verify_all(requests, Store(), tolerance=0)
    assert result.state == "different" and "what a stage means has changed since" in result.parts[0].said


@pytest.mark.parametrize(
    "cell", ["main.md:lora,gsm8k_flexible", "main.csv:prompt,gsm8k,sd", "comparison.md:prompt,difference", "values.csv:3,value"]
)
def test_a_cell_of_a_table_is_made_again(study: Path, cell: str) -> None:
    *runs, of_cell = verified(f"results/tables/sums/{cell}")
    assert {run.state for run in runs} == {"identical"} and (of_cell.state, states(of_cell)) == (
        "identical",
        {"cell": "identical"},
    )


def test_cells_of_a_study_that_measures_forgetting_are_made_again(study: Path) -> None:
    Path("general.txt").write_text("the cat sat on the mat\nseven plus four is eleven\n")
    content = {**read_mapping(Path("experiment.yaml")), "forgetting": {"name": {"test": "general.txt"}}}
    Path("experiment.yaml").write_text(json.dumps(content))
    experiment = load_experiment(Path("experiment.yaml"), Store())
    for run in (*experiment.runs, *experiment.bases):
        for evaluation in run.evaluations:
            make_score(Run(run.config, Store()), evaluation, quiet=True)
    tables(experiment, Store())
    values = Path("results/tables/sums/values.csv").read_text().splitlines()
    general = next(number for number, line in enumerate(values) if ",perplexity," in line)
    # the base is half of what was forgotten
    cells = {"main.md:lora,gsm8k_flexible": 2, "forgetting.md:lora,difference": 3, "cost.md:lora,trainable": 2}
    for cell, count in {**cells, f"values.csv:{general},value": 1}.items():
        *runs, of_cell = verified(f"results/tables/sums/{cell}")
        assert of_cell.state == "identical" and len(runs) == count, (cell, of_cell)


def test_a_measured_cell_is_measured_anew_and_a_wrong_one_is_found(study: Path) -> None:
    assert verified("results/tables/sums/cost.csv:sums,lora,train_seconds")[-1].state in ("identical", "within")
    table = Path("results/tables/sums/main.csv")
    table.write_text(table.read_text().replace("lora,0,", "lora,0.9,", 1))
    assert verified("results/tables/sums/main.csv:lora,gsm8k_flexible,mean")[-1].parts[0].said == "0.9 → 0"


def test_the_command_line_says_how_many_and_fails_where_one_differs(study: Path) -> None:
    done = lora_ns("verify", "experiment.yaml", "--sample", "1", "--json")
    assert done.returncode == 0 and "1 verified: 1 identical." in done.stderr
    (line,) = json.loads(done.stdout)
    assert line["state"] == "identical" and [part["name"] for part in line["parts"]] == list(ALL_IDENTICAL)


@pytest.mark.parametrize("target", ["sums-tiny-causal", "nothing", "task.yaml"])
def test_a_target_that_names_no_run_or_several_is_wrong_input(study: Path, target: str) -> None:
    with pytest.raises(ConfigError, match=r"there is no run|begins the names of 4 runs"):
        requests_of([target], Store())


def test_every_kind_of_run_of_the_demo_is_identical_on_a_smaller_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_causal: Path, tiny_encoder: Path
) -> None:
    """The demo's own data, prompts, benchmarks and methods; few rows and steps, as its base models take minutes to make."""
    monkeypatch.chdir(tmp_path)
    demo = read_mapping(REPOSITORY / "configs/experiments/demo.yaml")
    methods = {}
    for entry in demo["methods"]:
        given = entry if isinstance(entry, dict) else {"config": entry}
        raw = merge(read_mapping(REPOSITORY / given["config"]), expand_dotted(given.get("overrides", {})))
        methods[Path(given["config"]).stem] = write_config(Path(Path(given["config"]).name), raw).name
    small = {"options": {"num_train": 24, "num_validation": 10, "num_test": 6}, "max_length": 256}
    for name in demo["tasks"]:
        task = read_mapping(REPOSITORY / name)
        base = tiny_encoder if task["task_type"] == "classification" else tiny_causal
        evaluation = {"generation": {"max_new_tokens": 8}} if base is tiny_causal else {}
        task = merge(task, {"model": {"name_or_path": str(base)}, "dataset": small, "evaluation": evaluation})
        write_config(Path(Path(name).name), merge(task, {"training": {"max_steps": 2, "num_train_epochs": 1}}))
    tasks = [Path(name).name for name in demo["tasks"]]
    chosen = [methods["lora"], methods["full"]]
    write_config(Path("small.yaml"), {"name": "small", "tasks": tasks, "methods": chosen, "seeds": [0]})
    store = Store()
    for run in load_experiment(Path("small.yaml"), store).runs:
        make_score(Run(run.config, store), run.evaluations[0], quiet=True)
    results = verified("small.yaml")
    assert len(results) == 2 * len(tasks)
    assert {result.state for result in results} == {"identical"}, [part.said for r in results for part in r.parts]


def test_the_demo_as_it_was_run_here_is_identical(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    store = Store()
    try:
        requests = requests_of(["configs/experiments/demo.yaml"], store)
    except ConfigError:
        pytest.skip("the demo has not been run here (make paper-tables)")
    here = [run for run in sorted(requests.runs) if store.adapter(run).exists() and requests.runs[run]]
    if not here:
        pytest.skip("the demo's adapters are not here (make restore)")
    threads = {load_config(store.run_file(run)).task_name: run for run in here if "-lora-" in run}
    for result in verify_all(requests.only([*threads.values()][:1]), store, tolerance=0):
        assert result.state == "identical", [part.said for part in result.parts]

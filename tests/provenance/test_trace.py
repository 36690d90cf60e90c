"""From a cell, a score, an adapter, a merged model back to everything that it was made from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support import lora_ns

from lora_ns.config import merge as merged
from lora_ns.errors import ConfigError, DamagedError
from lora_ns.experiment.study import load_experiment
from lora_ns.merging.merge import merge
from lora_ns.provenance import as_text, trace
from lora_ns.provenance.cell_address import find_cell
from lora_ns.reporting.tables.table import Cell, Column, Section, Table, to_json
from lora_ns.store import record
from lora_ns.store.environment import code_state, package_versions
from lora_ns.store.local_files import sha256_file
from lora_ns.store.paths import Store
from lora_ns.store.run import Run


@pytest.fixture
def runs(study: Path) -> list[Run]:
    return load_experiment(Path("experiment.yaml")).runs


def traced(target: str) -> dict:
    found = trace(target, Store())
    assert json.loads(json.dumps(found, allow_nan=False))
    return found


def test_a_cell_is_followed_to_data_code_versions_and_machine(runs: list[Run], study: Path) -> None:
    found = traced("results/tables/sums/main.md:lora,gsm8k_flexible")
    assert found["text"] == "0.0" and found["metric"] == "gsm8k_flexible"
    assert [value["seed"] for value in found["values"]] == [0, 1]
    run = runs[0]
    score = found["scores"][0]
    assert (score["path"], score["state"]) == (str(run.scores[0]), "intact")
    assert score["predictions"]["state"] == "intact" and score["evaluation_file"]["state"] == "here"
    adapter = score["adapter"]
    assert (adapter["path"], adapter["state"]) == (f"results/adapters/{run.name}", "intact")
    weights = study / adapter["path"] / "adapter_model.safetensors"
    assert adapter["files"]["adapter_model.safetensors"] == sha256_file(weights)
    assert adapter["is_the_one_scored"] is True
    assert adapter["run_file"]["sha256"] == sha256_file(study / "results/runs" / f"{run.name}.yaml")
    assert adapter["tokens"]["state"] == adapter["rows"]["state"] == "intact"
    assert adapter["rows"]["source"]["files"]["train"] == [["jsonl", sha256_file(study / "sums/train.jsonl")]]
    assert "model.safetensors" in adapter["base_model"]["identity"]["files"]
    for how in (score["evaluated"], adapter["trained"]):
        assert how["code"] == code_state() and how["packages"] == package_versions()
        assert how["hardware"]["cpu"] and how["not_deterministic"] == [] and how["finished"]
    assert found["made_again_by"] == "lora-ns verify 'results/tables/sums/main.md:1,gsm8k_flexible (%)'"


def test_the_command_that_a_trace_gives_makes_the_cell_again(study: Path) -> None:
    command = traced("results/tables/sums/values.csv:lora,1,gsm8k_flexible")["made_again_by"]
    assert command == "lora-ns verify results/tables/sums/values.csv:2,value"
    done = lora_ns(*command.split()[1:])
    assert done.returncode == 0, done.stderr
    assert "2 verified: 2 identical." in done.stdout and "cell         identical: 0" in done.stdout


@pytest.mark.parametrize(
    ("cell", "row", "column", "methods"),
    [
        ("main.csv:lora", 1, "mean", ["lora"]),
        ("main.csv:sums,prompt,math_verify,sd", 8, "sd", ["prompt"]),
        ("main.csv:lora,rank", 1, "rank", ["lora", "prompt"]),
        ("main.tex:prompt", 2, "gsm8k_flexible (%)", ["prompt"]),
        ("comparison.csv:prompt", 1, "difference", ["lora", "prompt"]),
        ("comparison.md:prompt,p", 1, "p", ["lora", "prompt"]),
        ("cost.md:lora,training (s)", 1, "training (s)", ["lora"]),
        ("values.csv:4,seed", 4, "seed", ["prompt"]),
    ],
)
def test_a_cell_is_found_by_words_or_numbers(study: Path, cell: str, row: int, column: str, methods: list[str]) -> None:
    found = traced(f"results/tables/sums/{cell}")
    assert (found["row"], found["column"]) == (row, column)
    assert sorted({score["method"] for score in found["scores"]}) == methods
    assert traced(found["made_again_by"].split(maxsplit=2)[2].strip("'"))["row"] == row


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("results/tables/sums/main.csv:lorra,mean", "Did you mean 'lora'"),
        ("results/tables/sums/main.csv:gsm8k,mean", "2 rows are named by gsm8k|12 rows are named by gsm8k"),
        ("results/tables/sums/main.md:lora,gsm9k", "no row is named by lora, gsm9k"),
        ("results/tables/sums/paper.tex:lora", "has no table 'paper'"),
        ("results/tables/sums/tables.json:lora", "not a table with cells"),
        ("results/runs/none.yaml:1,2", "only files of results/tables have cells"),
        ("results/tables/other/main.csv", "holds no record"),
        ("results/tables/sums/gone.csv:1,2", "there is no file results/tables/sums/gone.csv"),
        ("results/runs/none.yaml", "there is no run 'none'"),
        ("sums/train.jsonl", "is no artefact"),
        ("/etc/passwd", "is no artefact"),
    ],
)
def test_what_cannot_be_traced_is_said(study: Path, target: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        traced(target)


def test_an_edited_table_is_said_to_be_damaged(study: Path) -> None:
    table = study / "results/tables/sums/main.md"
    table.write_text(table.read_text().replace("0.0", "9.9"))
    fault = "damaged: results/tables/sums/main.md was changed after it was made"
    for target in ("results/tables/sums/main.md", "results/tables/sums/main.md:lora"):
        assert traced(target)["state"] == fault and fault in as_text(traced(target))
    assert traced("results/tables/sums/main.csv:lora")["state"] == "intact"
    done = lora_ns("verify", "results/tables/sums/main.md:lora,gsm8k_flexible")
    assert done.returncode == 1 and "was changed after it was made" in done.stdout


def test_a_score_that_is_not_here_is_named(runs: list[Run], study: Path) -> None:
    gone = next(run.scores[0] for run in runs if run.config.peft.method == "lora")
    gone.unlink()
    found = traced("results/tables/sums/main.md:lora")
    assert found["not_here"] == [str(gone)] and f"{gone}  [not here]" in as_text(found)
    assert traced("results/tables/sums/main.md:prompt")["not_here"] == []


def test_an_experiment_file_of_any_place_is_named_in_the_command(study: Path) -> None:
    (study / "studies").mkdir()
    assert traced("results/tables/sums/main.md")["made_again_by"] == "lora-ns tables experiment.yaml"
    shutil.move("experiment.yaml", "studies/sums.yaml")
    assert lora_ns("tables", "studies/sums.yaml").returncode == 0
    assert traced("results/tables/sums/main.md")["made_again_by"] == "lora-ns tables studies/sums.yaml"


def test_a_damaged_record_is_said_and_a_path_with_dots_is_followed(study: Path) -> None:
    assert traced("results/tables/../tables/sums/main.csv:lora")["kind"] == "cell"
    page, other = study / "results/report/sums/index.html", study / "results/tables/sums/mine.csv"
    with pytest.raises(ConfigError, match=r"there is no file results/report/sums/index\.html"):
        traced("results/report/sums/index.html")
    for path in (page, other):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a\n")
    found = traced("results/report/sums/index.html")
    assert found["kind"] == "report" and found["made_again_by"].startswith("lora-ns report ")
    assert found["state"] == traced("results/tables/sums/mine.csv")["state"] == "unknown: the tables' record does not speak of it"
    next(study.glob("results/tables/sums/record-*.json")).write_text("{")
    with pytest.raises(DamagedError, match="is no JSON"):
        traced("results/tables/sums/main.md:lora")


def test_the_text_says_shared_facts_once_and_names_what_is_gone(runs: list[Run]) -> None:
    shutil.rmtree("results/adapters")
    shutil.rmtree("data")
    text = as_text(traced("results/tables/sums/main.md:lora"))
    assert text.count("trained with") == text.count("evaluated with") == 1
    assert f"results/adapters/{runs[0].name}  [not here]" in text and "adapter_model.safetensors  sha256" in text
    assert f"commit     {code_state()['commit'] or 'unknown'}" in text and "torch " in text
    assert text.endswith("lora-ns verify 'results/tables/sums/main.md:1,gsm8k_flexible (%)'")


def test_a_score_of_an_adapter_that_was_made_again_with_other_bits_says_so(runs: list[Run]) -> None:
    folder = Store().adapter(runs[0].name)
    facts = json.loads((folder / "record.json").read_text())
    (folder / "history.jsonl").write_text("{}\n")
    stated = {"sha256": sha256_file(folder / "history.jsonl"), "bytes": 3}
    (folder / "record.json").write_text(json.dumps(record.sealed(merged(facts, {"outputs": {"history.jsonl": stated}}))))
    found = traced(str(runs[0].scores[0]))
    assert found["adapter"]["is_the_one_scored"] is False
    assert "NOT the adapter that the score is of" in as_text(found)


def test_damage_on_the_way_is_named(runs: list[Run]) -> None:
    (Store().adapter(runs[0].name) / "adapter_model.safetensors").write_bytes(b"")
    runs[1].scores[0].write_text(runs[1].scores[0].read_text().replace('"seed": 1', '"seed": 2'))
    found = traced("results/tables/sums/main.csv:lora")
    assert "damaged: adapter_model.safetensors has 0 bytes" in found["scores"][0]["adapter"]["state"]
    assert "was changed after it was written" in found["scores"][1]["state"]


def test_tables_figures_and_every_artefact_can_be_traced(runs: list[Run], study: Path) -> None:
    run, store = runs[0], Store()
    table, figure = traced("results/tables/sums/main.tex"), traced("results/figures/sums/seeds.pdf")
    assert (table["kind"], figure["kind"], len(table["scores"]), len(figure["scores"])) == ("table", "figure", 4, 4)
    assert table["made_again_by"] == "lora-ns tables experiment.yaml"
    assert traced(str(store.predictions(run.name, run.evaluations[0].name)))["kind"] == "score"
    for target in (run.name, f"results/runs/{run.name}.yaml", str(store.adapter(run.name) / "adapter_config.json")):
        assert traced(target)["made_again_by"] == f"lora-ns verify {run.name}"
    tokens = traced(str(Run(run.config, store).tokens))
    assert tokens["kind"] == "tokenize" and tokens["inputs"] == {"rows": store.rows(run.config.dataset).name}
    folder = merge(Run(run.config, store))
    found = traced(str(folder))
    assert found["kind"] == "merge" and found["adapter"]["path"].endswith(run.name)
    for target in (str(folder), str(store.rows(run.config.dataset)), run.name, "results/tables/sums/main.md"):
        assert target.split("/")[-1] in as_text(traced(target))


def test_the_commands_print_text_or_json_and_fail_in_one_paragraph(study: Path) -> None:
    target = "results/tables/sums/main.md:lora"
    assert json.loads(lora_ns("trace", target, "--json").stdout)["kind"] == "cell"
    assert "Make it again:" in lora_ns("trace", target).stdout
    done = lora_ns("trace", "nowhere")
    assert done.returncode == 2 and "is no artefact" in done.stderr and "Traceback" not in done.stderr


def test_mixed_commits_and_dirty_trees_are_footnotes_of_the_tables(runs: list[Run]) -> None:
    for run, code in zip(
        runs, ({"commit": "a" * 40, "dirty": False}, {"commit": "a" * 9 + "b" * 31, "dirty": True}) * 2, strict=True
    ):
        content = json.loads(run.scores[0].read_text())
        run.scores[0].write_text(json.dumps(record.sealed({**content, "code": code})))
    assert lora_ns("tables", "experiment.yaml", "--quiet").returncode == 0
    text = Path("results/tables/sums/main.md").read_text()
    assert "aaaaaaaaaa, aaaaaaaaab" in text and "scores were made with uncommitted changes" in text


def test_a_column_is_named_by_its_end_where_sections_have_different_ones(tmp_path: Path) -> None:
    def section(metric: str) -> Section:
        columns = (Column("Method"), Column("difference", "number", metric, alone=f"{metric} difference"), Column("p", "number"))
        return Section(f"task of {metric}", columns, ((Cell("lora"), Cell(f"{len(metric)}.0"), Cell("0.5")),))

    table = Table("comparison", "t", "c", "l", (section("accuracy"), section("f1")), ())
    (tmp_path / "tables.json").write_text(to_json([table]))
    (tmp_path / "comparison.md").write_text("")
    cell = find_cell(tmp_path / "comparison.md", ["task of f1", "lora", "difference"])
    assert (cell.column, cell.text) == ("f1 difference", "2.0")
    with pytest.raises(ConfigError, match="2 rows are named by lora"):
        find_cell(tmp_path / "comparison.md", ["lora", "difference"])

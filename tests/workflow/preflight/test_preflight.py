"""What a look ahead advises, what it leaves alone, and that it neither fetches nor cries wolf; errors are in tests/cases."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from support import causal_task, sums

from lora_ns.config import RunConfig, check, expand_dotted, merge
from lora_ns.store.paths import Store
from lora_ns.workflow.preflight import Finding, look_ahead, rows


def config(model: Path | str, **settings: Any) -> RunConfig:
    return check(merge(causal_task(model), expand_dotted(settings)), "task.yaml")


def advice(found: list[Finding]) -> str:
    assert not [finding for finding in found if finding.fatal], found
    return "\n".join(finding.text for finding in found)


def write_rows(path: Path, content: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in content))


def test_a_task_that_fits_is_left_alone(workplace: Path, tiny_causal: Path) -> None:
    assert look_ahead([config(tiny_causal)], Store()) == []


def test_nothing_is_made_or_fetched(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a look ahead opens no connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    found = look_ahead([config("nobody/a-model-of-the-hub", **{"dataset.name": "nobody/a-set-of-the-hub"})], Store())
    assert found == []
    builtin = config("builtin:tiny-llama", **{"dataset.name": "builtin:word_problems"})
    assert look_ahead([builtin], Store()) == []
    assert sorted(path.name for path in workplace.iterdir()) == ["sums"]


def test_a_few_rows_without_an_answer_are_worth_a_word(workplace: Path, tiny_causal: Path) -> None:
    write_rows(workplace / "sums/train.jsonl", [*sums(199), {"question": "What?", "answer": ""}])
    said = advice(look_ahead([config(tiny_causal)], Store()))
    assert "1 of 200 train rows of ./sums carry nothing to learn from (1 × empty response)." in said


def test_rows_that_are_often_cut_are_worth_a_word(workplace: Path, tiny_causal: Path) -> None:
    said = advice(look_ahead([config(tiny_causal, **{"dataset.max_length": 20})], Store()))
    assert "40 of 40 training rows of ./sums are longer than 20 tokens and lose the end of their answer." in said


def test_a_class_that_no_row_has_is_worth_a_word(workplace: Path, tiny_encoder: Path) -> None:
    write_rows(workplace / "notes/train.jsonl", [{"text": f"{w} {i}", "label": w} for i in range(9) for w in ("a", "b")])
    labelled = {
        "task_name": "t",
        "task_type": "classification",
        "model": {"name_or_path": str(tiny_encoder)},
        "dataset": {"name": "notes", "text_columns": ["text"], "labels": ["a", "b", "c"]},
        "evaluation": {"benchmarks": ["classification"]},
    }
    assert advice(look_ahead([check(labelled, "t")], Store())) == "dataset.labels: no train row of notes is 'c'."


def test_a_template_that_would_print_a_list_is_worth_a_word(workplace: Path, tiny_causal: Path) -> None:
    write_rows(workplace / "sums/train.jsonl", [{**row, "question": ["2", "3"]} for row in sums(20)])
    write_rows(workplace / "sums/test.jsonl", [{**row, "question": ["2", "3"]} for row in sums(5)])
    said = advice(look_ahead([config(tiny_causal)], Store()))
    assert "the column 'question' of ./sums (train) holds lists or objects, which become text as Python prints them" in said


def test_a_pattern_of_ranks_that_matches_nothing_is_worth_a_word(workplace: Path, tiny_causal: Path) -> None:
    patterns = {"peft.rank_pattern": {"q_proj": 2, "q_prj": 4}}
    assert advice(look_ahead([config(tiny_causal, **patterns)], Store())) == (
        f"peft.rank_pattern: 'q_prj' matches no layer of {tiny_causal}."
    )


def test_layers_named_in_every_way_that_peft_takes_are_left_alone(workplace: Path, tiny_causal: Path) -> None:
    for targets in (["q_proj", "layers.0.mlp.up_proj"], r".*\.(q|v)_proj", "all-linear"):
        assert look_ahead([config(tiny_causal, **{"peft.target_modules": targets})], Store()) == []
    by_itself = check(merge({**causal_task(tiny_causal), "peft": {}}, {"peft": {"method": "ia3"}}), "t")
    assert look_ahead([by_itself], Store()) == []


def test_of_a_large_data_set_the_first_rows_are_looked_at(
    workplace: Path, tiny_causal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "READ_WHOLE_BYTES", 100)
    monkeypatch.setattr(rows, "FIRST_ROWS", 30)
    write_rows(workplace / "sums/train.jsonl", [*sums(30), {"question": "beyond what is looked at"}])
    assert look_ahead([config(tiny_causal)], Store()) == []
    write_rows(workplace / "sums/train.jsonl", [{"question": "early", "answer": None}, *sums(60)])
    (finding,) = look_ahead([config(tiny_causal)], Store())
    assert finding.fatal and "1 of the first 30 train rows of ./sums carry nothing to learn from" in finding.text


def test_rows_that_were_fetched_before_are_looked_at_where_the_source_is_gone(workplace: Path, tiny_causal: Path) -> None:
    from lora_ns.data.fetch import fetch

    settings, store = config(tiny_causal), Store()
    fetch(settings.dataset, store)
    for file in (workplace / "sums").iterdir():
        file.unlink()
    (workplace / "sums").rmdir()
    assert look_ahead([settings], Store()) == []
    misspelt = config(tiny_causal, **{"dataset.prompt_template": "{qestion}"})
    assert "names the column 'qestion'" in look_ahead([misspelt], Store())[0].text


def test_what_many_methods_share_is_said_once(workplace: Path, tiny_causal: Path) -> None:
    runs = [config(tiny_causal, **{"peft.r": rank, "dataset.prompt_template": "{qestion}"}) for rank in (1, 2, 4)]
    assert len([f for f in look_ahead(runs, Store()) if "(train)" in f.text]) == 1


@pytest.mark.parametrize("name", ["gsm8k", "glue_mrpc", "glue_cola"])
def test_ready_configs_fit_the_real_data(name: str, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from support import REPOSITORY

    from lora_ns.config import load_config

    folder = {"gsm8k": "gsm8k", "glue_mrpc": "glue/MRPC", "glue_cola": "glue/CoLA"}[name]
    settings = {"dataset.name": str(shared_data / folder)}
    monkeypatch.chdir(REPOSITORY)
    assert look_ahead([load_config(Path(f"configs/{name}.yaml"), settings)], Store()) == []

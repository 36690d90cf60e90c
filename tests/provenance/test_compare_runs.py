"""What differs between two runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lora_ns.experiment.study import load_experiment
from lora_ns.provenance.compare_runs import as_text, compare_runs
from lora_ns.reporting.score_file import asked_same_rows
from lora_ns.store import record
from lora_ns.store.paths import Store


def test_scores_of_the_same_evaluation_are_compared_though_a_benchmark_is_asked_twice(study: Path) -> None:
    first, second = [run.name for run in load_experiment(Path("experiment.yaml")).runs][:2]
    for run in (first, second):
        path = next(Path("results/scores", run).glob("*.json"))
        content = json.loads(path.read_text())
        for name, value in (("gsm8k-zzzzzzzzzzzz", 0.75), ("gsm8k-000000000000", 0.25)):
            other = {**content, "evaluation": name, "metrics": {"gsm8k_strict": value}}
            (path.parent / f"{name}.json").write_text(json.dumps(record.sealed(other)))
    Path("results/scores", second, "gsm8k-zzzzzzzzzzzz.json").unlink()
    found = compare_runs(first, second, Store())
    assert len(found["scores"]) == 3
    assert found["scores"]["gsm8k-000000000000"]["metrics"] == {"gsm8k_strict": [0.25, 0.25]}
    assert found["scores"]["gsm8k-zzzzzzzzzzzz"] == {"only": "first"}
    assert "gsm8k-zzzzzzzzzzzz: only the first run has a score" in as_text(found)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (("r", "a", "test"), ("s", "a", "test"), True),
        (("r", "a", "test"), ("r", "b", "test"), False),
        (("r", None, "test"), ("r", "a", "test"), True),
        (("r", None, "test"), ("s", None, "test"), False),
        (("r", None, "test"), ("r", None, "validation"), False),
    ],
)
def test_which_scores_are_of_the_same_rows(first: tuple[str, ...], second: tuple[str, ...], same: bool) -> None:
    scores = [
        {"inputs": {"rows": rows} | ({"asked": asked} if asked else {}), "config": {"split": split}}
        for rows, asked, split in (first, second)
    ]
    assert asked_same_rows(*scores) is asked_same_rows(*scores[::-1]) is same


def test_examples_of_other_rows_are_not_counted_as_shared(study: Path) -> None:
    first, second = [run.name for run in load_experiment(Path("experiment.yaml")).runs][:2]
    (before,) = [score["examples"] for score in compare_runs(first, second, Store())["scores"].values()]
    path = next(Path("results/scores", second).glob("*.json"))
    content = json.loads(path.read_text())
    path.write_text(json.dumps(record.sealed({**content, "inputs": {**content["inputs"], "asked": "others"}})))
    (after,) = [score["examples"] for score in compare_runs(first, second, Store())["scores"].values()]
    assert before["shared"] > 0 and after is None

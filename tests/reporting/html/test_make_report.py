"""What goes into the report, and what is said where something is not there."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from support import lora_ns
from synthetic_experiment import HOSTILE

from lora_ns.errors import DamagedError
from lora_ns.experiment.study import load_experiment
from lora_ns.reporting.html.content import overview
from lora_ns.reporting.html.details import details
from lora_ns.reporting.html.make_report import report
from lora_ns.reporting.html.read import read_runs
from lora_ns.reporting.make_tables import tables
from lora_ns.store.paths import Store


def runs() -> Any:
    return read_runs(load_experiment(Path("experiment.yaml")), Store())


def unpacked(path: Path, name: str) -> Any:
    """A packed part of a page, as the browser unpacks it."""
    data = re.search(rf'id="packed-{name}">([^<]*)<', path.read_text(encoding="utf-8"))
    assert data is not None
    return json.loads(gzip.decompress(base64.b64decode(data[1])))


def test_the_page_is_one_file_the_same_bytes_again_that_names_no_address(copy: Path) -> None:
    path = Path("results/report/e/index.html")
    before = path.read_bytes()
    path.unlink()
    assert report(load_experiment(Path("experiment.yaml")), Store()) == path
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["index.html"]
    shown = re.sub(rb'<script type="text/plain".*?</script>', b"", before)
    assert not re.search(rb"""(src|href)\s*=\s*["']?(https?:)?//""", shown)
    assert b"default-src 'none'" in shown


def test_nothing_that_a_model_wrote_can_end_its_element(project: Path) -> None:
    text = (project / "results/report/e/index.html").read_text(encoding="utf-8")
    assert HOSTILE not in text and "onerror" not in text
    assert text.count("</script>") == text.count("<script")


def test_figures_hold_the_numbers_of_the_tables_and_the_scores(copy: Path) -> None:
    content = overview(load_experiment(Path("experiment.yaml")), runs(), Path("results/tables/e"))
    block = next(block for block in content["quality"] if block["task"] == "sums")
    full = next(point for point in block["points"] if point["method"] == "full")
    scores = [run.scores[0] for run in runs() if run.run.config.method == "full" and run.run.config.task_name == "sums"]
    assert full["mean"] == pytest.approx(sum(s["metrics"]["gsm8k_flexible"] for s in scores) / 3)
    assert full["costs"]["train_seconds"] == pytest.approx(sum(s["cost"]["train_seconds"] for s in scores) / 3)
    curve = next(curve for curve in content["curves"] if (curve["task"], curve["method"]) == ("sums", "full"))
    third = [score["trained"]["history"][2]["loss"] for score in scores]
    assert (curve["low"][2], curve["high"][2]) == pytest.approx((min(third), max(third)), abs=1e-5)
    assert {one["task"] for one in content["calibration"]} == {"pairs"}


def test_where_answers_do_not_fit_every_run_shows_the_same_rows_and_all_verdicts_stay(copy: Path) -> None:
    few, all_of_them = details(runs(), text_bytes=100), details(runs())
    for name, eval_set in few.eval_sets.items():
        assert len(eval_set["shown"]) == 20 == len(eval_set["prompts"]) and len(all_of_them.eval_sets[name]["shown"]) == 40
    for small, large in zip(few.runs, all_of_them.runs, strict=True):
        (answered,), (complete,) = small["exams"], large["exams"]
        assert answered["right"] == complete["right"] and len(answered["right"]) == 40
        shown = few.eval_sets[answered["evaluation"]]["shown"]
        assert answered["answers"] == [complete["answers"][row] for row in shown]


def test_without_predictions_the_report_stands_and_says_what_is_not_here(copy: Path) -> None:
    shutil.rmtree("results/predictions")
    path = report(load_experiment(Path("experiment.yaml")), Store())
    run = unpacked(path, "run-3")
    assert run["exams"][0]["answers"] is None and len(run["exams"][0]["right"]) == 40
    assert run["config"].startswith("task_name: sums")


def test_a_run_that_failed_or_is_missing_is_listed_with_the_reason(copy: Path) -> None:
    lost, failed = runs()[3], runs()[4]
    for run in (lost, failed):
        shutil.rmtree(Path("results/scores") / run.name)
    note = {"stage": "train", "reason": "the loss became nan at step 7."}
    Path("results/failures").mkdir()
    Path(f"results/failures/{failed.name}.json").write_text(json.dumps(note))
    experiment = load_experiment(Path("experiment.yaml"))
    tables(experiment, Store())
    lines = {line["name"]: line for line in overview(experiment, runs(), Path("results/tables/e"))["runs"]}
    assert (lines[lost.name]["state"], lines[lost.name]["results"]) == ("missing", [])
    assert lines[failed.name]["state"] == "failed" and "nan at step 7" in lines[failed.name]["reason"]
    assert unpacked(report(experiment, Store()), "run-3")["exams"] == []


def test_a_changed_score_is_not_shown(copy: Path) -> None:
    path = runs()[0].run.scores[0]
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(DamagedError, match=path.name):
        runs()


def test_the_verb_makes_tables_and_report(copy: Path) -> None:
    for made in ("tables", "figures", "report"):
        shutil.rmtree(Path("results") / made)
    done = lora_ns("report", "experiment.yaml", cwd=copy)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "results/report/e/index.html"
    assert Path("results/tables/e/main.md").is_file() and Path("results/report/e/index.html").is_file()

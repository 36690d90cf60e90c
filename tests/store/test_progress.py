"""Where a run's work stands: one small file, whole at every moment, gone at the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from support import causal_task

from lora_ns.config import check
from lora_ns.store import progress
from lora_ns.store.paths import Store
from lora_ns.store.progress import Progress, report_progress
from lora_ns.store.run import Run
from lora_ns.workflow.pipeline import make_score

EVALUATION = {"benchmarks": ["gsm8k"], "generation": {"max_new_tokens": 8}}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set by the test."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "time", lambda: now[0])
    return now


def test_the_file_says_the_step_at_most_once_a_second_and_is_gone_at_the_end(tmp_path: Path, clock: list[float]) -> None:
    store = Store(tmp_path)
    path = store.progress("run")
    with report_progress(store, "run", "train", steps=10, start=2) as report:
        assert (first := Progress.read(path)) is not None and first.step == 2 and first.seconds_a_step is None
        clock[0] = 1000.5
        report(3, 1.5)
        assert Progress.read(path) == first  # too soon
        clock[0] = 1004.0
        report(4, 1.25)
        said = Progress.read(path)
        assert said is not None and (said.step, said.steps, said.loss, said.pid) == (4, 10, 1.25, os.getpid())
        assert said.seconds_a_step == 2.0  # two steps in four seconds; the two before this process count for nothing
        assert said.seconds_left(1004.0) == 12.0 and said.seconds_left(1005.0) == 11.0
        clock[0] = 1004.1
        report(10, 1.0)  # the last is always said
        assert (last := Progress.read(path)) is not None and last.step == 10
        assert [p.name for p in path.parent.iterdir()] == ["progress.json"]
    assert not path.exists() and not path.parent.exists()


def test_a_failure_takes_the_file_away_and_leaves_checkpoints(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (store.scratch("run") / "checkpoint-1").mkdir(parents=True)
    with pytest.raises(RuntimeError), report_progress(store, "run", "train", steps=10):
        raise RuntimeError
    assert [p.name for p in store.scratch("run").iterdir()] == ["checkpoint-1"]


def test_only_the_first_of_several_processes_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with report_progress(Store(tmp_path), "run", "train", steps=1) as report:
        report(1)
        assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_stops_no_work(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file where a folder should be")
    with report_progress(Store(tmp_path), "run", "train", steps=2) as report:
        report(2)


def test_a_killed_process_is_known_by_its_silence(tmp_path: Path) -> None:
    code = (
        "import time; from pathlib import Path; from lora_ns.store.paths import Store\n"
        "from lora_ns.store.progress import report_progress\n"
        f"with report_progress(Store(Path({str(tmp_path)!r})), 'run', 'train', 5): print('here', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"here\n"
    path = Store(tmp_path).progress("run")
    said = Progress.read(path)
    assert said is not None and said.pid == process.pid and not said.is_silent(time.time())
    process.kill()
    process.wait()
    left = Progress.read(path)
    assert left == said and left.is_silent(time.time())


def test_on_another_host_silence_is_measured_in_time_and_in_steps() -> None:
    said = Progress("elsewhere", 1, 0.0, "7", "train", step=4, steps=10, loss=None, time=1000.0, begun=800.0, started_at=0)
    assert not said.is_silent(1100.0)  # a step takes 50 s
    assert not said.is_silent(1499.0) and said.is_silent(1501.0)
    quick = replace(said, begun=999.0)
    assert not quick.is_silent(1119.0) and quick.is_silent(1121.0)


@pytest.mark.parametrize("text", ["", "{", json.dumps({"step": 1}), "[]"])
def test_a_file_that_says_nothing_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "progress.json"
    path.write_text(text)
    assert Progress.read(path) is None


def test_training_and_evaluation_say_every_step(workplace: Path, tiny_causal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[dict[str, object]] = []
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(progress, "write_progress", lambda path, text: said.append({"file": path.name, **json.loads(text)}))
    config = check({**causal_task(tiny_causal), "evaluation": {**EVALUATION, "batch_size": 4}}, "task")
    store = Store()
    evaluation = Run(config, store).evaluation(config.evaluation.benchmarks[0])
    make_score(Run(config, store), evaluation, quiet=True)
    train = [line for line in said if line["stage"] == "train"]
    assert [(line["step"], line["steps"]) for line in train] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert [line["loss"] is None for line in train] == [True, False, False, False]
    assert {line["file"] for line in train} == {"progress.json"}
    asked = [line for line in said if line["stage"] == evaluation.name]
    assert [(line["step"], line["steps"]) for line in asked] == [(row, 10) for row in range(11)]
    assert {line["file"] for line in asked} == {f"progress-{evaluation.name}.json"}

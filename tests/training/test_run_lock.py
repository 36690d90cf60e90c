"""One trainer a run; and `lora_ns.store.owner`, by which a lock tells whether its process is still at work."""

from __future__ import annotations

import json
import os
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from lora_ns.errors import Busy
from lora_ns.store.owner import SILENT_SECONDS
from lora_ns.training.run_lock import run_lock


def test_a_second_trainer_beside_a_living_one_is_told_who_it_is(tmp_path: Path) -> None:
    with run_lock(tmp_path / "run"):
        with pytest.raises(Busy, match=f"run is being trained by process {os.getpid()} on"):
            with run_lock(tmp_path / "run"):
                raise AssertionError("two trainers")
        assert (tmp_path / "run/lock").exists(), "the first still holds it"
    assert not (tmp_path / "run/lock").exists()


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        with run_lock(tmp_path / "run"):
            os._exit(9)  # as a kill: nothing is cleaned up
    os.waitpid(child, 0)
    assert json.loads((tmp_path / "run/lock").read_text())["pid"] == child
    with run_lock(tmp_path / "run"):
        assert json.loads((tmp_path / "run/lock").read_text())["pid"] == os.getpid()


def test_a_number_that_another_process_has_by_now_is_no_holder(tmp_path: Path) -> None:
    with run_lock(tmp_path / "run"):
        content = json.loads((tmp_path / "run/lock").read_text())
    (tmp_path / "run/lock").write_text(json.dumps({**content, "started": content["started"] - 100}))
    with run_lock(tmp_path / "run"):
        pass


@pytest.mark.parametrize(("silent", "alive"), [(1, True), (SILENT_SECONDS + 5, False)])
def test_on_another_machine_a_holder_lives_as_long_as_it_touches_the_lock(tmp_path: Path, silent: int, alive: bool) -> None:
    path = tmp_path / "lock"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": 0.0, "job": None}))
    os.utime(path, (time.time() - silent,) * 2)
    with pytest.raises(Busy, match="by process 1 on elsewhere") if alive else nullcontext(), run_lock(tmp_path):
        assert not alive


@pytest.mark.parametrize(("state", "alive"), [("RUNNING", True), ("PENDING", False), ("", False)])
def test_what_slurm_says_of_a_holders_job_counts_more_than_its_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, alive: bool
) -> None:
    squeue = tmp_path / "bin/squeue"
    squeue.parent.mkdir()
    said = f"echo {state}" if state else "echo 'Invalid job id specified' >&2; exit 1"
    squeue.write_text(f'#!/bin/sh\n[ "$3" = --job=77 ] || exit 2\n{said}\n')
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(squeue.parent), prepend=":")
    (tmp_path / "lock").write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": 0.0, "job": "77"}))
    os.utime(tmp_path / "lock", (time.time() - (SILENT_SECONDS + 5 if alive else 1),) * 2)
    with pytest.raises(Busy, match="SLURM job 77") if alive else nullcontext(), run_lock(tmp_path):
        assert not alive


def test_a_requeued_job_takes_over_from_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lock").write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": 0.0, "job": "77"}))
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    with run_lock(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["job"] == "77"


def test_a_lock_that_cannot_be_read_holds_nobody_up(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("")
    with run_lock(tmp_path):
        pass

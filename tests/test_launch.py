"""Command lines and a cluster's resources, from what a config says of its launch."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import causal_task, write_config

from lora_ns.config import RunConfig, check
from lora_ns.launch import RESOURCES, evaluation_resources, is_plain, training_command, training_resources
from lora_ns.node import command


@pytest.fixture(autouse=True)
def _launch_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path / "my launch.yaml", {"distributed_type": "MULTI_GPU"})


def configured(model: str = "some/model", method: str = "lora", **launch: Any) -> RunConfig:
    task = causal_task(model, launch=launch, peft={"method": method})
    return check({**task, "dataset": {**task["dataset"], "name": "builtin:word_problems"}}, "task.yaml")  # type: ignore[dict-item]


SEVERAL = {"config": "my launch.yaml", "gpus_per_node": 4}


def test_one_process_is_python_alone() -> None:
    assert shlex.split(training_command(configured())) == [sys.executable, "-m", "lora_ns"]
    assert training_command(configured(method="none", **SEVERAL)) == training_command(configured())


def test_several_processes_of_one_machine_are_accelerates() -> None:
    words = shlex.split(training_command(configured(**SEVERAL)))
    assert words[:2] == ["env", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT=170"]
    assert words[2:5] == [sys.executable, "-m", "accelerate.commands.launch"]
    assert words[5:] == shlex.split(
        "--config_file 'my launch.yaml' --num_processes 4 --num_machines 1 --main_process_port 0 -m lora_ns"
    )


def test_a_launch_file_is_used_for_one_process_too() -> None:
    assert "--num_processes 1 " in training_command(configured(config="my launch.yaml"))


def test_several_machines_are_started_by_srun_one_launcher_on_each() -> None:
    words = shlex.split(training_command(configured(nodes=2, cpus_per_process=3, **SEVERAL)))
    srun = words.index("srun")
    assert words[srun + 1 : srun + 7] == [
        "--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--gres=gpu:4", "--cpus-per-task=12", "--kill-on-bad-exit=1",
    ]  # fmt: skip
    assert words[srun + 7 :] == [
        sys.executable, "-m", "lora_ns.node", "--config_file", "my launch.yaml", "--num_processes", "8", "--",
    ]  # fmt: skip


def test_each_machine_joins_with_its_own_rank_at_a_port_of_the_job() -> None:
    step = {
        "SLURM_NODEID": "1",
        "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7",
        "SLURM_STEP_NUM_NODES": "2",
        "SLURM_JOB_ID": "123456",
    }
    words = command(["--num_processes", "8", "--", "train", "--config", "r u n.yaml"], step)
    assert words == [
        sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "8", "--machine_rank", "1",
        "--main_process_ip", "10.0.0.7", "--deepspeed_multinode_launcher", "standard", "--num_machines", "2",
        "--main_process_port", "23456", "-m", "lora_ns", "train", "--config", "r u n.yaml",
    ]  # fmt: skip


def test_a_machine_that_srun_did_not_start_is_told_so() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lora_ns.node", "--num_processes", "2", "--", "train"],
        capture_output=True, text=True, timeout=60, check=False, env={"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 1 and "started by srun" in done.stderr and "Traceback" not in done.stderr


def asked(config: RunConfig, attempt: int = 1) -> dict[str, Any]:
    """What is asked for at all."""
    resources = training_resources([config], attempt)
    assert tuple(resources) == RESOURCES
    return {name: value for name, value in resources.items() if value is not None}


def test_a_small_model_is_trained_without_a_gpu() -> None:
    found = asked(configured("builtin:tiny-llama"))
    assert found == {"mem_mb": 3000, "runtime": 60, "cpus_per_task": 4, "nodes": 1}


def test_gpus_of_one_machine_are_a_number_that_snakemake_counts() -> None:
    found = asked(configured(**SEVERAL))
    assert (found["nodes"], found["gpu"], found["cpus_per_task"]) == (1, 4, 16)
    assert found["mem_mb"] == 4 * asked(configured())["mem_mb"]
    assert not {"gres", "mpi", "tasks"} & set(found)


def test_gpus_of_several_machines_are_so_many_on_each() -> None:
    found = asked(configured(nodes=2, **SEVERAL))
    assert {name: found[name] for name in ("nodes", "gres", "tasks", "tasks_per_gpu", "mpi")} == {
        "nodes": 2, "gres": "gpu:4", "tasks": 2, "tasks_per_gpu": 0, "mpi": "srun",
    }  # fmt: skip
    assert "gpu" not in found
    assert found["cpus_per_task"] == 16, "of one machine"


def test_memory_and_time_grow_with_every_try() -> None:
    first, third = asked(configured()), asked(configured(), attempt=3)
    assert (third["mem_mb"], third["runtime"]) == (3 * first["mem_mb"], 3 * first["runtime"])
    assert {k: v for k, v in third.items() if k not in ("mem_mb", "runtime")} == {
        k: v for k, v in first.items() if k not in ("mem_mb", "runtime")
    }


def test_runs_that_share_a_job_need_what_the_largest_needs_and_their_evaluations_the_time_of_all() -> None:
    small, large = configured("builtin:tiny-llama"), configured()
    assert training_resources([small, large, small], 1) == training_resources([large], 1)
    asked_one, asked_three = (evaluation_resources([configured()], 1, in_turn=n) for n in (1, 3))
    assert asked_three == {**asked_one, "runtime": 3 * int(asked_one["runtime"] or 0)}


def test_only_a_run_of_one_process_without_a_launcher_shares_a_job() -> None:
    assert is_plain(configured()) and is_plain(configured(method="none", **SEVERAL))
    assert not is_plain(configured(**SEVERAL)) and not is_plain(configured(config="my launch.yaml"))


def test_every_evaluation_of_an_experiment_asks_for_what_the_largest_needs() -> None:
    small, large = configured("builtin:tiny-llama"), configured(**SEVERAL)
    mixed = evaluation_resources([small, large], 1)
    assert mixed == evaluation_resources([large], 1) != evaluation_resources([small], 1)
    assert (mixed["gpu"], mixed["nodes"], mixed["mpi"]) == (1, 1, None), "one process, whatever the training had"
    assert evaluation_resources([small], 1)["gpu"] is None

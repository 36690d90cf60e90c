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
from lora_ns.errors import ConfigError
from lora_ns.workflow.launch_command import is_plain, training_command
from lora_ns.workflow.node_launcher import command
from lora_ns.workflow.resources import RESOURCES, START_MINUTES, Cost, evaluation_resources, training_resources


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
        sys.executable, "-m", "lora_ns.workflow.node_launcher", "--config_file", "my launch.yaml", "--num_processes", "8", "--",
    ]  # fmt: skip


def test_each_machine_joins_with_its_own_rank_at_a_port_of_the_job() -> None:
    step = {"SLURM_NODEID": "1", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7", "SLURM_STEP_NUM_NODES": "2", "SLURM_JOB_ID": "123456"}
    words = command(["--num_processes", "8", "--", "train", "--config", "r u n.yaml"], step)
    assert words == [
        sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "8", "--machine_rank", "1",
        "--main_process_ip", "10.0.0.7", "--deepspeed_multinode_launcher", "standard", "--num_machines", "2",
        "--main_process_port", "23456", "-m", "lora_ns", "train", "--config", "r u n.yaml",
    ]  # fmt: skip


def test_a_machine_that_srun_did_not_start_is_told_so() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lora_ns.workflow.node_launcher", "--num_processes", "2", "--", "train"],
        capture_output=True, text=True, timeout=60, check=False, env={"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 1 and "started by srun" in done.stderr and "Traceback" not in done.stderr


def asked(config: RunConfig, attempt: int = 1) -> dict[str, Any]:
    """What is asked for at all."""
    resources = training_resources([config], [None], attempt)
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


def test_runs_of_a_job_share_the_base_and_take_the_time_of_all() -> None:
    configs = [configured("builtin:tiny-llama")] * 2
    costs = [Cost(1000, 200, minutes=3), Cost(1100, 500, minutes=4)]
    in_turn, at_once = (training_resources(configs, costs, 1, at_once=both) for both in (False, True))
    assert (in_turn["mem_mb"], in_turn["runtime"]) == (1600, START_MINUTES + 7)
    assert (at_once["mem_mb"], at_once["runtime"]) == (1800, START_MINUTES + 7)
    asked = evaluation_resources(configs, costs, 2)
    assert (asked["mem_mb"], asked["runtime"]) == (2 * 1600, 2 * (START_MINUTES + 7))


def test_runs_of_a_job_that_are_not_known_are_guessed_once() -> None:
    small, large = configured("builtin:tiny-llama"), configured()
    unknown = [None] * 3
    assert training_resources([small, large, small], unknown, 1) == training_resources([large], [None], 1)
    mixed = training_resources([small, small, small], [Cost(1000, 200, minutes=3), None, None], 1)
    assert (mixed["mem_mb"], mixed["runtime"]) == (3200, 63)
    asked_one, asked_three = (evaluation_resources([configured()] * n, [None] * n, 1) for n in (1, 3))
    assert asked_three["mem_mb"] == asked_one["mem_mb"] and asked_three["runtime"] == 10 + 3 * 110


def test_only_a_run_of_one_process_without_a_launcher_shares_a_job() -> None:
    assert is_plain(configured()) and is_plain(configured(method="none", **SEVERAL))
    assert not is_plain(configured(**SEVERAL)) and not is_plain(configured(config="my launch.yaml"))


def test_an_evaluation_has_one_gpu_whatever_the_training_had() -> None:
    small, large = configured("builtin:tiny-llama"), configured(**SEVERAL)
    mixed = evaluation_resources([small, large], [None, None], 1)
    assert (mixed["gpu"], mixed["nodes"], mixed["mpi"]) == (1, 1, None)
    assert evaluation_resources([small], [None], 1)["gpu"] is None


def test_an_unknown_kind_of_gpu_is_refused_with_the_names() -> None:
    with pytest.raises(ConfigError, match=r"launch.gpu: no kind 'a100' is known.*a100-40gb"):
        configured(gpu="a100")
    assert configured(gpu="h100").launch.gpu == "h100"

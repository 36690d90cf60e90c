"""One run in one process, in two, and under DeepSpeed's ZeRO-2 and ZeRO-3: the same run.  On processors, by gloo."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support import REPOSITORY, causal_task, sums, write_config

from lora_ns.store.artifact import read_record

LAUNCHES = {
    "two processes": "configs/launch/ddp.yaml",
    "zero-2": "configs/accelerate_config.yaml",
    "zero-3": "configs/launch/zero3.yaml",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_causal: Path) -> Path:
    """Rows and a task without dropout, whose masks would hang on which process a row is in."""
    folder = tmp_path_factory.mktemp("distributed")
    (folder / "configs").symlink_to(REPOSITORY / "configs")
    (folder / "sums").mkdir()
    for split, rows in {"train": sums(40), "test": sums(10, 45)}.items():
        (folder / "sums" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    training = {"max_steps": 6, "global_batch_size": 8, "per_device_train_batch_size": 2, "learning_rate": 1e-2}
    write_config(folder / "task.yaml", causal_task(tiny_causal, training=training))
    return folder


def trained(project: Path, *launcher: str) -> Path:
    """The adapter, moved out of the way of the next."""
    done = subprocess.run(
        [sys.executable, "-m", *launcher, "lora_ns", "train", "--quiet", "--config", "task.yaml"],
        cwd=project, capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    [said] = [line for line in done.stdout.splitlines() if line.startswith("results/adapters/")]
    kept = project / "kept" / str(len(list(project.glob("kept/*"))))
    shutil.move(project / said, kept)
    return kept


@pytest.fixture(scope="module")
def alone(project: Path) -> Path:
    return trained(project)


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "history.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("launch", LAUNCHES)
def test_several_processes_train_the_same_adapter(project: Path, alone: Path, launch: str) -> None:
    options = ["accelerate.commands.launch", "--config_file", LAUNCHES[launch], "--num_processes", "2"]
    shared = trained(project, *options, "--main_process_port", "0", "-m")
    one, two = read_record(alone), read_record(shared)
    assert two["circumstances"]["processes"] == 2
    assert two["training"]["order_sha256"] == one["training"]["order_sha256"]
    assert two["parameters"] == one["parameters"]
    assert losses(shared) == pytest.approx(losses(alone), rel=1e-4) and len(losses(alone)) == 6
    a, b = (load_file(folder / "adapter_model.safetensors") for folder in (alone, shared))
    assert a.keys() == b.keys(), "the whole adapter, gathered"
    far = sum(float((a[name] - b[name]).double().square().sum()) for name in a) ** 0.5
    assert far <= 1e-4 * sum(float(tensor.double().square().sum()) for tensor in a.values()) ** 0.5

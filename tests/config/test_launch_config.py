"""The `launch` section and the files of `accelerate config` that it names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import REPOSITORY, causal_task, lora_ns, write_config

from lora_ns.config import RunConfig, check
from lora_ns.config.launch import launch_file_problems
from lora_ns.errors import ConfigError
from lora_ns.store.paths import Store
from lora_ns.store.run import Run

LAUNCH_FILES = [REPOSITORY / "configs/accelerate_config.yaml", *sorted((REPOSITORY / "configs/launch").glob("*.yaml"))]


def configured(name: str = "some/model", **sections: Any) -> RunConfig:
    return check({**causal_task(name), "dataset": {**causal_task("")["dataset"], "name": "some/set"}, **sections}, "c")  # type: ignore[dict-item]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to write launch files in, and to start from."""
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path / "ddp.yaml", {"distributed_type": "MULTI_GPU"})
    return tmp_path


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda path: path.stem)
def test_a_launch_file_of_the_project_is_one_that_accelerate_reads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    monkeypatch.chdir(REPOSITORY)
    assert launch_file_problems(str(path.relative_to(REPOSITORY))) == ()
    read = load_config_from_file(str(path))
    assert (read.num_machines, read.num_processes) == (1, 2)


@pytest.mark.parametrize(
    ("launch", "expected"),
    [
        ({}, (1, 1, 1)),
        ({"gpus_per_node": 0}, (1, 0, 1)),
        ({"gpus_per_node": 4, "config": "ddp.yaml"}, (1, 4, 4)),
        ({"gpus_per_node": 0, "processes": 2, "config": "ddp.yaml"}, (1, 0, 2)),
        ({"nodes": 2, "gpus_per_node": 4, "config": "ddp.yaml"}, (2, 4, 8)),
    ],
)
def test_a_launch_comes_to_nodes_gpus_and_processes(files: Path, launch: dict[str, Any], expected: tuple[int, ...]) -> None:
    assert configured(launch=launch).topology == expected


def test_a_small_model_of_the_projects_own_wants_no_gpu_and_an_untrained_one_no_second_process(files: Path) -> None:
    assert configured("builtin:tiny-llama").topology == (1, 0, 1)
    several = {"gpus_per_node": 4, "config": "ddp.yaml"}
    assert configured(peft={"method": "none"}, launch=several).topology == (1, 0, 1)


def test_a_run_is_the_same_on_a_laptop_and_on_sixteen_gpus(files: Path) -> None:
    store = Store(files)
    laptop, cluster = configured(), configured(launch={"nodes": 2, "gpus_per_node": 4, "config": "ddp.yaml"})
    assert Run(laptop, store).name == Run(cluster, store).name
    assert Run(laptop, store).merged == Run(cluster, store).merged
    run_file = Run(laptop, store).write_file().read_bytes()
    assert Run(cluster, store).write_file().read_bytes() == run_file


WRONG = {
    "nodes without GPUs": ({"nodes": 2, "gpus_per_node": 0, "config": "ddp.yaml"}, "launch.nodes: 2 nodes without GPUs"),
    "uneven nodes": ({"nodes": 2, "gpus_per_node": 1, "processes": 3, "config": "ddp.yaml"}, "cannot be spread evenly"),
    "too few": ({"gpus_per_node": 4, "processes": 2, "config": "ddp.yaml"}, r"launch.processes: 2 for 4 GPUs \(1 x 4\)"),
    "batch": ({"gpus_per_node": 3, "config": "ddp.yaml"}, "global_batch_size 8 .* over 3 processes; .* can: 6, 9"),
    "no file": ({"gpus_per_node": 2}, "launch.config: is missing; 2 processes"),
    "lost file": ({"config": "ddp.yml"}, "launch.config: ddp.yml: there is no such file. Did you mean 'ddp.yaml'"),
    "unknown key": ({"gpus_per_nod": 2}, "launch.gpus_per_nod: there is no such key. Did you mean 'gpus_per_node'"),
    "wrong type": ({"nodes": "two"}, "launch.nodes: expected a whole number"),
    "none at all": ({"nodes": 0}, "launch.nodes: expected|launch.nodes: .*greater than 0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_started_is_said_with_the_reason(files: Path, name: str) -> None:
    launch, expected = WRONG[name]
    with pytest.raises(ConfigError, match=expected):
        configured(launch=launch)


def zero(content: object) -> dict[str, Any]:
    Path("ds.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return {"distributed_type": "DEEPSPEED", "deepspeed_config": {"deepspeed_config_file": "ds.json"}}


LAUNCH_FILE_FAULTS = {
    "num_process: accelerate knows no such key. Did you mean 'num_processes'": {
        "distributed_type": "MULTI_GPU",
        "num_process": 2,
    },
    "distributed_type: is missing": {"num_processes": 2},
    "distributed_type: a run cannot be started with 'XLA'": {"distributed_type": "XLA"},
    "mixed_precision: bf16 changes what is computed": {"distributed_type": "MULTI_GPU", "mixed_precision": "bf16"},
    "YAML reads a bare no as false": {"distributed_type": "MULTI_GPU", "mixed_precision": False},
    "deepspeed_config: is missing": {"distributed_type": "DEEPSPEED"},
    "deepspeed_config.gradient_accumulation_steps: it follows": {
        "distributed_type": "DEEPSPEED",
        "deepspeed_config": {"zero_stage": 2, "gradient_accumulation_steps": 4},
    },
}
DEEPSPEED_FILE_FAULTS = {
    "cannot be read as JSON": "{",
    "expected keys and values, found a list": [],
    'train_batch_size: 32 would change the run; write "auto"': {"train_batch_size": 32},
    "optimizer: it changes what is computed": {"optimizer": {"type": "AdamW"}},
    "bf16: it changes what is computed": {"bf16": {"enabled": True}},
}


@pytest.mark.parametrize("expected", [*LAUNCH_FILE_FAULTS, *DEEPSPEED_FILE_FAULTS])
def test_a_launch_file_that_is_wrong_or_would_change_the_run_is_refused(files: Path, expected: str) -> None:
    content = LAUNCH_FILE_FAULTS.get(expected) or zero(DEEPSPEED_FILE_FAULTS[expected])
    write_config(files / "wrong.yaml", content)
    with pytest.raises(ConfigError) as caught:
        configured(launch={"config": "wrong.yaml"})
    assert len(caught.value.problems) == 1 and expected in caught.value.problems[0]


def test_quantised_weights_are_not_sharded_and_deepspeed_is_named_once(files: Path) -> None:
    write_config(files / "zero3.yaml", zero({"zero_optimization": {"stage": 3}}))
    write_config(files / "fsdp.yaml", {"distributed_type": "FSDP"})
    quantised = {"name_or_path": "some/model", "quantization": "4bit"}
    for name in ("zero3.yaml", "fsdp.yaml"):
        with pytest.raises(ConfigError, match="shards the weights"):
            configured(model=quantised, launch={"config": name})
    assert configured(model=quantised, launch={"config": "ddp.yaml"})
    with pytest.raises(ConfigError, match=r"training.deepspeed with launch.config: the launch file says it"):
        configured(training={"deepspeed": "ds.json"}, launch={"config": "ddp.yaml"})


def test_validate_reads_launch_files_and_names_every_fault_of_a_launch(files: Path) -> None:
    write_config(files / "wrong.yaml", {"distributed_type": "MULTI_GPU", "num_process": 2})
    write_config(files / "task.yaml", {**causal_task("builtin:tiny-llama"), "launch": {"nodes": 2, "config": "wrong.yaml"}})
    content = yaml.safe_load((files / "task.yaml").read_text())
    content["dataset"]["name"] = "builtin:word_problems"
    write_config(files / "task.yaml", content)
    done = lora_ns("validate", "ddp.yaml", "wrong.yaml", "task.yaml", cwd=files)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "wrong.yaml: num_process: accelerate knows no such key" in done.stderr
    assert "task.yaml: launch.nodes: 2 nodes without GPUs" in done.stderr
    assert lora_ns("validate", "ddp.yaml", cwd=files).returncode == 0

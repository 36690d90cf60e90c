"""Launch settings: processes, GPUs and nodes of a run.  They do not change the result and are in no digest."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from lora_ns.config.base import Section
from lora_ns.config.gpus import DATA_SHEETS
from lora_ns.config.library_fields import described
from lora_ns.config.yaml_io import nearest, read_mapping
from lora_ns.errors import ConfigError


class Topology(NamedTuple):
    """The numbers of nodes, GPUs and processes of a launch."""

    nodes: int
    gpus_per_node: int
    processes: int
    """Number of processes on all nodes together."""

    @property
    def processes_per_node(self) -> int:
        return self.processes // self.nodes


class LaunchConfig(Section):
    """How a run is spread over processes, GPUs and nodes.  Without it, one process."""

    config: str | None = None
    """accelerate's own file, for several processes: configs/accelerate_config.yaml, or one of configs/launch."""
    nodes: int = Field(default=1, gt=0)
    """Machines; more than one needs SLURM."""
    gpus_per_node: int | None = Field(default=None, ge=0)
    """None: one; none for the project's own small base models."""
    processes: int | None = Field(default=None, gt=0)
    """On all nodes together.  None: one a GPU, or a single one."""
    gpu: str | None = None
    """The kind of GPU that a cluster gives, by its name in `lora-ns plan`: jobs then ask for the time that it takes."""
    cpus_per_process: int = Field(default=4, gt=0)
    """Cores that a cluster is asked for beside each process."""

    def topology(self, *, needs_gpu: bool) -> Topology:
        """Return the numbers of nodes, GPUs and processes.  needs_gpu: whether the default of gpus_per_node is 1, not 0."""
        gpus = self.gpus_per_node if self.gpus_per_node is not None else int(needs_gpu)
        return Topology(self.nodes, gpus, self.processes or self.nodes * max(gpus, 1))


STARTERS = ("NO", "MULTI_CPU", "MULTI_GPU", "DEEPSPEED", "FSDP")
"""Supported values of distributed_type in a launch file."""

DERIVED = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
"""Keys of a DeepSpeed file that are derived from the run's config."""


OLDER = ("dynamo_backend",)
"""Keys of older versions' files that accelerate still reads."""


def launch_problems(launch: LaunchConfig, topology: Topology, global_batch_size: int) -> list[str]:
    """Return the problems of a launch, as `key path: reason`."""
    nodes, gpus, processes = topology
    problems = []
    if launch.gpu is not None and launch.gpu not in DATA_SHEETS:
        near = nearest(launch.gpu, DATA_SHEETS)
        problems.append(f"launch.gpu: no kind {launch.gpu!r} is known.{near} Known: {', '.join(DATA_SHEETS)}.")
    if nodes > 1 and gpus == 0:
        problems.append(f"launch.nodes: {nodes} nodes without GPUs; set launch.gpus_per_node, or take one node.")
    if processes % nodes:
        problems.append(f"launch.processes: {processes} cannot be spread evenly over {nodes} nodes.")
    elif gpus and processes != nodes * gpus:
        problems.append(
            f"launch.processes: {processes} for {nodes * gpus} GPUs ({nodes} x {gpus}); a process has one GPU of its own: "
            "leave launch.processes out."
        )
    if not problems and global_batch_size % processes:
        lower = global_batch_size // processes * processes
        near = ", ".join(str(size) for size in (lower, lower + processes) if size)
        problems.append(
            f"launch: training.global_batch_size {global_batch_size} cannot be spread evenly over {processes} processes; "
            f"near values that can: {near}."
        )
    if launch.config is None:
        if processes > 1:
            problems.append(
                f"launch.config: is missing; {processes} processes are started by accelerate, with a file such as "
                "configs/launch/ddp.yaml."
            )
        return problems
    return problems + [f"launch.config: {problem}" for problem in launch_file_problems(launch.config)]


def is_launch_file(content: Mapping[str, Any]) -> bool:
    """Whether a file's content comes from `accelerate config`."""
    return "distributed_type" in content or "compute_environment" in content


def is_sharded(name: str) -> bool:
    """Whether the launch file shards the weights (FSDP, ZeRO-3)."""
    try:
        content = read_mapping(Path(name))
    except ConfigError:
        return False
    return content.get("distributed_type") == "FSDP" or _zero_stage(content) == 3


def launch_file_problems(name: str) -> tuple[str, ...]:
    """Return the settings of an accelerate launch file that are invalid or would change the result of a run."""
    return _problems_of(Path(name), Path.cwd())


@cache
def _problems_of(path: Path, folder: Path) -> tuple[str, ...]:
    """Cached launch_file_problems, so that an experiment's runs read a file once.  folder: base of the path (cache key)."""
    try:
        content = read_mapping(path)
    except ConfigError as error:
        return tuple(error.problems)
    known = {*described("accelerate")["ClusterConfig"], *OLDER}
    problems = [f"{path}: {key}: accelerate knows no such key.{nearest(key, known)}" for key in content if key not in known]
    starter = content.get("distributed_type")
    if starter not in STARTERS:
        found = "is missing" if starter is None else f"a run cannot be started with {starter!r}"
        problems.append(f"{path}: distributed_type: {found}; known: {', '.join(STARTERS)}.")
    if content.get("mixed_precision") is False:
        problems.append(f"{path}: mixed_precision: YAML reads a bare no as false, which accelerate does not; write 'no'.")
    elif content.get("mixed_precision") not in (None, "no"):
        problems.append(
            f"{path}: mixed_precision: {content['mixed_precision']} changes what is computed, so it belongs to the run: "
            "set training.bf16 or training.fp16 there, and mixed_precision: 'no' here."
        )
    if starter == "DEEPSPEED":
        problems += _deepspeed_problems(path, content.get("deepspeed_config"))
    return tuple(problems)


def _deepspeed_problems(path: Path, stated: Any) -> list[str]:
    if not isinstance(stated, Mapping):
        return [f"{path}: deepspeed_config: is missing; name a deepspeed_config_file, or state zero_stage."]
    problems = [
        f"{path}: deepspeed_config.{key}: it follows from the config; leave it out."
        for key in DERIVED
        if stated.get(key, "auto") != "auto"
    ]
    name = stated.get("deepspeed_config_file")
    if name is None:
        return problems
    try:
        content = json.loads(Path(str(name)).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return [*problems, f"{path}: deepspeed_config.deepspeed_config_file: there is no file {name} (looked from here)."]
    except (OSError, ValueError) as error:
        return [*problems, f"{path}: deepspeed_config.deepspeed_config_file: {name} cannot be read as JSON: {error}"]
    if not isinstance(content, dict):
        return [*problems, f"{name}: expected keys and values, found a {type(content).__name__}."]
    problems += [
        f'{name}: {key}: {content[key]!r} would change the run; write "auto": it follows from the config.'
        for key in DERIVED
        if content.get(key, "auto") != "auto"
    ]
    problems += [
        f"{name}: {key}: it changes what is computed, so it belongs to the run (training.*); leave it out."
        for key in ("optimizer", "scheduler", "fp16", "bf16", "amp")
        if _computes(content.get(key))
    ]
    return problems


def _computes(section: Any) -> bool:
    """Whether a section of a DeepSpeed file is set, other than to auto or disabled."""
    return section is not None and section != {"enabled": "auto"} and section != {"enabled": False}


def _zero_stage(content: Mapping[str, Any]) -> int | None:
    """Return the ZeRO stage of a launch file; None if it has none."""
    stated = content.get("deepspeed_config")
    if content.get("distributed_type") != "DEEPSPEED" or not isinstance(stated, Mapping):
        return None
    if "deepspeed_config_file" not in stated:
        return stated.get("zero_stage", 2)
    try:
        return json.loads(Path(str(stated["deepspeed_config_file"])).read_text())["zero_optimization"]["stage"]
    except (OSError, ValueError, KeyError, TypeError):
        return None

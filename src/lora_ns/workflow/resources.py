"""Cluster resources of a training or evaluation: memory, time, CPUs, GPUs, nodes."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from lora_ns.config import RunConfig
from lora_ns.config.launch import Topology

Resources = dict[str, int | str | None]
"""Resource name -> value for Snakemake's SLURM executor.  None: not requested."""


RESOURCES = ("mem_mb", "runtime", "cpus_per_task", "nodes", "gpu", "gres", "tasks", "tasks_per_gpu", "mpi")
"""Every resource that a training or an evaluation may request."""


class Cost(NamedTuple):
    """Memory and time of one stage of a run, without GPU memory."""

    shared_mb: int
    """Memory of the libraries and the base model, shared by the runs of one process."""
    own_mb: int
    """Memory of this run alone."""
    minutes: int
    """Time without the start of a job."""


START_MINUTES = 10
"""Time to load libraries, model and rows from a slow disk."""


def training_resources(
    configs: Sequence[RunConfig], costs: Sequence[Cost | None], attempt: int, *, at_once: bool = False
) -> Resources:
    """Return the resources of a job that trains one run, or several single-process runs in turn or at once.

    costs: cost of each run; None if unknown.  All unknown runs together count as one guessed cost: if the time is too
    short, the job is requeued and resumes.  attempt: 1 for the first; memory and time grow with it.
    """
    largest = max(configs, key=lambda config: config.topology.gpus_per_node)
    known = [cost for cost in costs if cost is not None]
    unknown = [config for config, cost in zip(configs, costs, strict=True) if cost is None]
    guessed = [max(map(_guessed_training, unknown))] if unknown else []
    cost = _together([*known, *guessed], at_once)
    return _resources(largest.topology, largest.launch.cpus_per_process, cost, attempt)


def evaluation_resources(configs: Sequence[RunConfig], costs: Sequence[Cost | None], attempt: int) -> Resources:
    """Return the resources of a job that evaluates these runs one after another in one process.

    costs: cost of each run; None if unknown, which is guessed.
    """
    cost = _together([cost or _guessed_evaluation(config) for config, cost in zip(configs, costs, strict=True)])
    gpus = max(min(1, config.launch.topology(needs_gpu=config.needs_gpu).gpus_per_node) for config in configs)
    cpus = max(config.launch.cpus_per_process for config in configs)
    return _resources(Topology(nodes=1, gpus_per_node=gpus, processes=1), cpus, cost, attempt)


def _together(costs: Sequence[Cost], at_once: bool = False) -> Cost:
    """Cost of one process for all runs, one after another or at once."""
    own = [cost.own_mb for cost in costs]
    minutes = sum(cost.minutes for cost in costs)
    return Cost(max(cost.shared_mb for cost in costs), sum(own) if at_once else max(own), minutes)


def each_of(resources: Callable[[Any, int], Resources]) -> dict[str, Any]:
    """Resource name -> function of wildcards and attempt, as Snakemake calls it."""

    def asked(name: str) -> Any:
        return lambda wildcards, attempt: resources(wildcards, attempt)[name]

    return {name: asked(name) for name in RESOURCES}


def _resources(topology: Topology, cpus_per_process: int, cost: Cost, attempt: int) -> Resources:
    nodes, gpus, _ = topology
    several = nodes > 1
    return {
        "mem_mb": (cost.shared_mb + cost.own_mb) * topology.processes_per_node * attempt,
        "runtime": (START_MINUTES + cost.minutes) * attempt,
        "cpus_per_task": cpus_per_process * topology.processes_per_node,
        "nodes": nodes,
        # on one node a number, which Snakemake counts; on several nodes the number for each
        "gpu": gpus if gpus and not several else None,
        "gres": f"gpu:{gpus}" if several else None,
        # the job's own srun starts one task a node, so SLURM must not start a task for each GPU
        "tasks": nodes if several else None,
        "tasks_per_gpu": 0 if several else None,
        "mpi": "srun" if several else None,
    }


def _guessed_training(config: RunConfig) -> Cost:
    """A generous guess for one process.  A run that exceeds its time is resumed in the next job."""
    return Cost(16_000, 0, minutes=470) if config.needs_gpu else Cost(3_000, 0, minutes=50)


def _guessed_evaluation(config: RunConfig) -> Cost:
    return Cost(16_000, 0, minutes=110) if config.needs_gpu else Cost(3_000, 0, minutes=20)

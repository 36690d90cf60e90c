"""What a cluster is asked for to train or evaluate a run: memory, time, processors, GPUs, nodes."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from lora_ns.config import RunConfig
from lora_ns.config.launch import Topology

Resources = dict[str, int | str | None]
"""Name -> value, as Snakemake's executor for SLURM reads them; None: not asked for."""


RESOURCES = ("mem_mb", "runtime", "cpus_per_task", "nodes", "gpu", "gres", "tasks", "tasks_per_gpu", "mpi")
"""Every resource that a training or an evaluation may ask for."""


class Cost(NamedTuple):
    """What a stage of one run needs, of the machine and not of its GPUs."""

    shared_mb: int
    """Memory of the libraries and the base model, which runs of one process have in common."""
    own_mb: int
    """The rest."""
    minutes: int
    """Without what every job begins with."""


START_MINUTES = 10
"""Loading libraries, model and rows, from a slow disk."""


def training_resources(
    configs: Sequence[RunConfig], costs: Sequence[Cost | None], attempt: int, *, at_once: bool = False
) -> Resources:
    """What one job is asked to have that trains a run, or several that are plain, in turn or at once.

    costs: of each run; None where it is not known.  Those are counted as one, by a guess: where the time is not enough
    for all, the job goes on in the queue.  attempt: 1 for the first; memory and time grow with it.
    """
    largest = max(configs, key=lambda config: config.topology.gpus_per_node)
    known = [cost for cost in costs if cost is not None]
    unknown = [config for config, cost in zip(configs, costs, strict=True) if cost is None]
    guessed = [max(map(_guessed_training, unknown))] if unknown else []
    cost = _together([*known, *guessed], at_once)
    return _resources(largest.topology, largest.launch.cpus_per_process, cost, attempt)


def evaluation_resources(configs: Sequence[RunConfig], costs: Sequence[Cost | None], attempt: int) -> Resources:
    """What a job is asked to have that evaluates these runs one after another, in one process.

    costs: of each run; None where it is not known.
    """
    cost = _together([cost or _guessed_evaluation(config) for config, cost in zip(configs, costs, strict=True)])
    gpus = max(min(1, config.launch.topology(needs_gpu=config.needs_gpu).gpus_per_node) for config in configs)
    cpus = max(config.launch.cpus_per_process for config in configs)
    return _resources(Topology(nodes=1, gpus_per_node=gpus, processes=1), cpus, cost, attempt)


def _together(costs: Sequence[Cost], at_once: bool = False) -> Cost:
    """Of a process that goes through all of them: in turn, or with all that is their own there at once."""
    own = [cost.own_mb for cost in costs]
    minutes = sum(cost.minutes for cost in costs)
    return Cost(max(cost.shared_mb for cost in costs), sum(own) if at_once else max(own), minutes)


def each_of(resources: Callable[[Any, int], Resources]) -> dict[str, Any]:
    """Resource name -> the function that Snakemake asks for its value, of wildcards and attempt."""

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
        # on one node a number, which Snakemake can count; on several so many on each
        "gpu": gpus if gpus and not several else None,
        "gres": f"gpu:{gpus}" if several else None,
        # the job's own srun starts one task a node, so SLURM is to make no tasks of GPUs
        "tasks": nodes if several else None,
        "tasks_per_gpu": 0 if several else None,
        "mpi": "srun" if several else None,
    }


def _guessed_training(config: RunConfig) -> Cost:
    """Of one process.  Generous: a run that outlives its time is told so and goes on in the next."""
    return Cost(16_000, 0, minutes=470) if config.needs_gpu else Cost(3_000, 0, minutes=50)


def _guessed_evaluation(config: RunConfig) -> Cost:
    return Cost(16_000, 0, minutes=110) if config.needs_gpu else Cost(3_000, 0, minutes=20)

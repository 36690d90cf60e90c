"""Build the command line that starts a training, from the run's `launch:` settings.

one process                  python -m lora_ns
several, on one machine      accelerate launch … -m lora_ns
several machines             srun lora_ns.workflow.node_launcher, which calls accelerate launch with the machine's rank
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from lora_ns.config import RunConfig

GRACE_SECONDS = 170
"""Seconds that torch's launcher waits for a checkpoint after SIGTERM, which profiles/slurm sends 180 s before the limit."""

PROGRAM = [sys.executable, "-m", "lora_ns"]


def is_plain(config: RunConfig) -> bool:
    """Whether training is one process without a launcher, which other runs may share."""
    return config.peft.method == "none" or (config.topology.processes == 1 and config.launch.config is None)


def training_command(config: RunConfig) -> str:
    """Return the command before `train …`, quoted for a shell."""
    if is_plain(config):
        return shlex.join(PROGRAM)
    launch, topology = config.launch, config.topology
    numbers = ["--config_file", str(launch.config), "--num_processes", str(topology.processes)]
    grace = ["env", f"TORCH_ELASTIC_SHUTDOWN_TIMEOUT={GRACE_SECONDS}"]
    if topology.nodes == 1:
        return shlex.join([*grace, *accelerate(numbers, machines=1, port=0)])
    spread = [f"--nodes={topology.nodes}", f"--ntasks={topology.nodes}", "--ntasks-per-node=1"]
    cpus = launch.cpus_per_process * topology.processes_per_node
    share = [f"--gres=gpu:{topology.gpus_per_node}", f"--cpus-per-task={cpus}"]
    return shlex.join(
        [
            *grace,
            "srun",
            *spread,
            *share,
            "--kill-on-bad-exit=1",
            sys.executable,
            "-m",
            "lora_ns.workflow.node_launcher",
            *numbers,
            "--",
        ]
    )


def accelerate(options: Sequence[str], *, machines: int, port: int) -> list[str]:
    """Return this Python's `accelerate launch` command up to the lora-ns subcommand.  port: 0 for any free port."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *options]
    return [*launcher, "--num_machines", str(machines), "--main_process_port", str(port), "-m", "lora_ns"]

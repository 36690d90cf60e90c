"""The command line that starts the processes of a run, from its `launch:` section.

one process                  python -m lora_ns
several, on one machine      accelerate launch … -m lora_ns
several machines             srun, which starts lora_ns.workflow.node_launcher (accelerate launch with its own rank) on each
"""

import shlex
import sys
from collections.abc import Sequence

from lora_ns.config import RunConfig

GRACE_SECONDS = 170
"""Seconds that torch's launcher waits for a checkpoint after SIGTERM, which profiles/slurm sends 180 s before the limit."""

PROGRAM = [sys.executable, "-m", "lora_ns"]


def is_plain(config: RunConfig) -> bool:
    """Whether a training is one process without a launcher.  Other runs may share it."""
    return config.peft.method == "none" or (config.topology.processes == 1 and config.launch.config is None)


def training_command(config: RunConfig) -> str:
    """The shell command before `train …`, quoted."""
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
    """`accelerate launch` with this Python, up to the verb of lora-ns.  port: 0 for any free one."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *options]
    return [*launcher, "--num_machines", str(machines), "--main_process_port", str(port), "-m", "lora_ns"]

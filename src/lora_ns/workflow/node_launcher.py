"""Start one machine's processes in a multi-machine run: srun calls this on each machine, to run `accelerate launch`.

srun … python -m lora_ns.workflow.node_launcher --config_file F --num_processes 16 -- train --config RUN
"""

import os
import sys
from collections.abc import Mapping, Sequence

from lora_ns.workflow.launch_command import accelerate

FIRST_PORT, PORTS = 20_000, 10_000
"""Port range below the ephemeral ports. The port depends on the job id, so that jobs on one machine do not collide."""


def command(arguments: Sequence[str], step: Mapping[str, str]) -> list[str]:
    """Return the command line.  step: environment of a task of srun.  Raises KeyError outside srun."""
    options, verb = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    port = FIRST_PORT + int(step["SLURM_JOB_ID"]) % PORTS
    # srun runs on the job's first machine, which therefore has rank 0
    place = ["--machine_rank", step["SLURM_NODEID"], "--main_process_ip", step["SLURM_LAUNCH_NODE_IPADDR"]]
    place += ["--deepspeed_multinode_launcher", "standard"]  # the default launcher would log in to the other machines
    return [*accelerate([*options, *place], machines=int(step["SLURM_STEP_NUM_NODES"]), port=port), *verb]


def main() -> None:
    """Replace this process with accelerate's launcher."""
    try:
        words = command(sys.argv[1:], os.environ)
    except KeyError as missing:
        sys.exit(f"Failed: several machines are started by srun, inside a SLURM job, which would set {missing.args[0]}.")
    os.execv(words[0], words)


if __name__ == "__main__":
    main()

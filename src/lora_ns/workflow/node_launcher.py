"""One machine of a run on several, started by srun on each: `accelerate launch` with the machine's own rank.

srun … python -m lora_ns.workflow.node_launcher --config_file F --num_processes 16 -- train --config RUN
"""

import os
import sys
from collections.abc import Mapping, Sequence

from lora_ns.workflow.launch_command import accelerate

FIRST_PORT, PORTS = 20_000, 10_000
"""Below those that the system gives out; a job's own, so that two jobs of one machine do not meet."""


def command(arguments: Sequence[str], step: Mapping[str, str]) -> list[str]:
    """The command line.  step: the environment that srun gives its tasks.  Raises KeyError where there is none."""
    options, verb = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    port = FIRST_PORT + int(step["SLURM_JOB_ID"]) % PORTS
    # srun runs on the job's first machine, which therefore has rank 0
    place = ["--machine_rank", step["SLURM_NODEID"], "--main_process_ip", step["SLURM_LAUNCH_NODE_IPADDR"]]
    place += ["--deepspeed_multinode_launcher", "standard"]  # by itself it would log in to the others
    return [*accelerate([*options, *place], machines=int(step["SLURM_STEP_NUM_NODES"]), port=port), *verb]


def main() -> None:
    """Becomes accelerate's launcher."""
    try:
        words = command(sys.argv[1:], os.environ)
    except KeyError as missing:
        sys.exit(f"Failed: several machines are started by srun, inside a SLURM job, which would set {missing.args[0]}.")
    os.execv(words[0], words)


if __name__ == "__main__":
    main()

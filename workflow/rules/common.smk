"""What all rules share: no name of an artefact is taken apart, each is a whole wildcard."""

from lora_ns.workflow.dag_inputs import missing_inputs
from lora_ns.workflow.slurm import cancel_leftovers


wildcard_constraints:
    run=r"[^/]+",
    evaluation=r"[^/]+",
    rows=r"[^/]+",
    tokens=r"[^/]+",
    base=r"[^/]+",
    model=r"[^/]+",
    merged=r"[^/]+",
    choice=r"[^/]+",
    job=r"[^/]+",


onstart:
    # the folder is locked by now: whatever it has in the queue belongs to a call that was killed
    for job in cancel_leftovers():
        logger.warning(f"Cancelled SLURM job {job}, which an earlier call left.")

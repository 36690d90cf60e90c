"""Settings of all rules. Each artefact name is one whole wildcard."""

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
    # Snakemake holds the folder's lock now, so jobs in the queue belong to a killed call
    for job in cancel_leftovers():
        logger.warning(f"Cancelled SLURM job {job}, which an earlier call left.")

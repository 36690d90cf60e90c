"""Make the paper's tables from one experiment file:  snakemake --cores N [--config experiment=configs/experiments/X.yaml]

workflow/rules states what each rule reads and writes. lora_ns.workflow.dag_inputs finds what an experiment needs.
"""

from lora_ns.workflow.dag_inputs import local_cores, open_experiment


report: "workflow/report/workflow.rst"


study = open_experiment(
    config.get("experiment", "configs/experiments/demo.yaml"),
    checkpoints,
    plans=workflow.is_main_process,
    cores=local_cores(workflow),
)


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/tune.smk"
include: "workflow/rules/merge.smk"
include: "workflow/rules/tables.smk"


rule all:
    """The experiment's scores and tables, and its merged models if `merge: true`."""
    default_target: True
    input:
        study.scores,
        study.tables,
        study.merged_records,


rule data:
    """Rows, base models and tokens."""
    input:
        study.data,


rule adapters:
    """Every adapter of the experiment."""
    input:
        study.every_adapter,


rule scores:
    """Every score of the experiment."""
    input:
        study.scores,

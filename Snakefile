"""One experiment file in, the paper's tables out:  snakemake --cores N [--config experiment=configs/experiments/X.yaml]

What each rule reads and writes stands in workflow/rules; what an experiment needs is worked out by lora_ns.workflow.dag_inputs.
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
    """The experiment's scores and tables, and its merged models where it asks for them."""
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

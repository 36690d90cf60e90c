"""Merged models, if the experiment sets `merge: true`.

READS   adapter, base model      WRITES  results/merged
"""


rule merge:
    """Merge one adapter into its base model."""
    input:
        missing_inputs(study.for_merged),
    output:
        record="results/merged/{merged}/record.json",
    log:
        "logs/merge/{merged}.log",
    benchmark:
        "logs/merge/{merged}.benchmark.tsv"
    conda:
        "../../environment.yml"
    params:
        program=study.commands.program_of,
        run=study.commands.run_file_of,
    shell:
        "exec {params.program} merge --config {params.run:q} > {log:q} 2>&1"

"""Adapters.

READS   results/runs/<run>.yaml, tokens, base model      WRITES  results/adapters/<run>
"""


rule train:
    """One adapter per run."""
    input:
        study.for_adapter,
    output:
        record="results/adapters/{run}/record.json",
    log:
        "logs/train/{run}.log",
    benchmark:
        "logs/train/{run}.benchmark.tsv"
    conda:
        "../../environment.yml"
    params:
        program=study.program,
        run=study.run_file_of,
        trial=study.trial_flag_of,
    shell:
        "exec {params.program} train {params.trial} --config {params.run:q} > {log:q} 2>&1"

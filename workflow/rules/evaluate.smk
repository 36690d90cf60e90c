"""Scores.

READS   adapter, rows, results/evaluations/<benchmark>.yaml      WRITES  results/scores, results/predictions
"""


rule evaluate:
    """One trained model asked one benchmark.  Its predictions lie beside, and are not needed again."""
    input:
        study.for_score,
    output:
        score="results/scores/{run}/{evaluation}.json",
    log:
        "logs/evaluate/{run}/{evaluation}.log",
    benchmark:
        "logs/evaluate/{run}/{evaluation}.benchmark.tsv"
    conda:
        "../../environment.yml"
    params:
        program=study.program,
        run=study.run_file_of,
        evaluation=study.evaluation_file_of,
    shell:
        "exec {params.program} evaluate --config {params.run:q} --evaluation {params.evaluation:q} > {log:q} 2>&1"

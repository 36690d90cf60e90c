"""Scores, with one run or several in a process.

READS   adapter, rows, results/evaluations/<benchmark>.yaml      WRITES  results/scores, results/predictions
"""


rule evaluate:
    """Evaluate one run on one benchmark.  The predictions are also saved; no rule reads them."""
    input:
        missing_inputs(study.for_score),
    output:
        score="results/scores/{run}/{evaluation}.json",
    log:
        "logs/evaluate/{run}/{evaluation}.log",
    benchmark:
        "logs/evaluate/{run}/{evaluation}.benchmark.tsv"
    conda:
        "../../environment.yml"
    resources:
        **study.commands.evaluation_resources,
    params:
        program=study.commands.program_of,
        run=study.commands.run_file_of,
        evaluation=study.commands.evaluation_file_of,
    shell:
        "exec {params.program} evaluate --config {params.run:q} --evaluation {params.evaluation:q} > {log:q} 2>&1"


rule evaluate_together:
    """Evaluate several runs of one base model on one benchmark.  Each score is saved as soon as it is done."""
    input:
        missing_inputs(study.for_scores),
    output:
        done=temp("results/scratch/together/{job}.{evaluation}.asked"),
    log:
        "logs/evaluate/{job}/{evaluation}.log",
    benchmark:
        "logs/evaluate/{job}/{evaluation}.benchmark.tsv"
    conda:
        "../../environment.yml"
    resources:
        **study.commands.evaluation_resources,
    params:
        program=study.commands.program_of,
        runs=study.commands.run_files_of,
        evaluation=study.commands.evaluation_file_of,
        members=study.commands.members_of,
    message:
        "evaluate {wildcards.job} on {wildcards.evaluation}: {params.members}"
    shell:
        "exec {params.program} evaluate --marker {output.done:q} --evaluation {params.evaluation:q} {params.runs}"
        " > {log:q} 2>&1"

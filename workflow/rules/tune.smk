"""The choice of settings, if the experiment searches for them.

READS   results/scores of the trials, on validation rows      WRITES  results/tuning/<experiment>
"""


localrules:
    choose,


checkpoint choose:
    """Choose the settings of each method and task.  The compared runs are known only after that."""
    input:
        missing_inputs(study.for_choice),
    output:
        choice="results/tuning/{choice}.json",
    log:
        "logs/tune/{choice}.log",
    conda:
        "../../environment.yml"
    params:
        program=study.commands.program,
        experiment=study.experiment_file,
    shell:
        "exec {params.program} choose {params.experiment:q} > {log:q} 2>&1"

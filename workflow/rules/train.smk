"""Adapters, one a process or several.

READS   results/runs/<run>.yaml, tokens, base model      WRITES  results/adapters/<run>
"""


rule train:
    """One adapter per run."""
    input:
        missing_inputs(study.for_adapter),
    output:
        record="results/adapters/{run}/record.json",
    log:
        "logs/train/{run}.log",
    benchmark:
        "logs/train/{run}.benchmark.tsv"
    conda:
        "../../environment.yml"
    resources:
        **study.commands.training_resources,
    params:
        launch=study.commands.launch_of,
        run=study.commands.run_file_of,
        trial=study.commands.trial_flag_of,
    shell:
        "exec {params.launch} train {params.trial} --config {params.run:q} > {log:q} 2>&1"


rule train_together:
    """Several adapters in a process: at once where they can share a forward pass, else in turn.

    Each is put in its place as soon as it is done; what is declared here says only that all are.
    """
    input:
        missing_inputs(study.for_adapters),
    output:
        done=temp("results/scratch/together/{job}.trained"),
    log:
        "logs/train/{job}.log",
    benchmark:
        "logs/train/{job}.benchmark.tsv"
    conda:
        "../../environment.yml"
    resources:
        **study.commands.training_resources,
    params:
        program=study.commands.program_of,
        runs=study.commands.run_files_of,
        trial=study.commands.trial_flag_of,
        limits=study.commands.limits_of,
        members=study.commands.members_of,
    message:
        "train {wildcards.job}: {params.members}"
    shell:
        "exec {params.program} train --marker {output.done:q} {params.limits} {params.trial} {params.runs}"
        " > {log:q} 2>&1"


localrules:
    all_are_trained,


rule all_are_trained:
    """Asked for where adapters alone are: a job of several runs is done also where one of them failed."""
    input:
        missing_inputs(study.adapters),
    output:
        done=temp("results/scratch/together/adapters.complete"),
    log:
        "logs/train/all.log",
    run:
        if study.untrained:
            raise WorkflowError(f"not trained: {', '.join(study.untrained)}")
        Path(output.done).touch()

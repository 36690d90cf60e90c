"""Adapters, one or several in a process.

READS   results/runs/<run>.yaml, tokens, base model      WRITES  results/adapters/<run>
"""


rule train:
    """Train one adapter."""
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
    """Train several adapters in one process: in one loop if they can share a forward pass, else one after another.

    Each adapter is saved as soon as it is done. The declared output only marks that all runs were tried.
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
    """Check that no adapter is missing, for target `adapters`: a job of several runs completes even if one run failed."""
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

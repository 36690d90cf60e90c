"""Tables, figures and the report.

READS   results/scores, results/tuning      WRITES  results/tables, results/figures and results/report of <experiment>
"""


localrules:
    tables,
    report,


rule tables:
    """Make tables and figures from the scores."""
    input:
        missing_inputs(study.scores),
    output:
        record=study.tables,
        main=report(
            study.table("main"),
            caption="../report/main.rst",
            category="Tables",
            labels={"table": "1 results"},
        ),
        comparison=report(
            study.table("comparison"),
            caption="../report/comparison.rst",
            category="Tables",
            labels={"table": "2 against the baseline"},
        ),
        over_tasks=report(
            study.table("over_tasks"),
            caption="../report/over_tasks.rst",
            category="Tables",
            labels={"table": "3 over tasks"},
        ),
        cost=report(
            study.table("cost"),
            caption="../report/cost.rst",
            category="Tables",
            labels={"table": "4 cost"},
        ),
        forgetting=report(
            study.table("forgetting"),
            caption="../report/forgetting.rst",
            category="Tables",
            labels={"table": "5 forgetting"},
        ),
        tuning=report(
            study.table("tuning"),
            caption="../report/tuning.rst",
            category="Tables",
            labels={"table": "6 tuning"},
        ),
        figures=report(
            directory(study.figures),
            patterns=["{name}.png"],
            caption="../report/figures.rst",
            category="Figures",
            labels={"figure": "{name}"},
        ),
    log:
        "logs/tables.log",
    conda:
        "../../environment.yml"
    params:
        program=study.commands.program,
        experiment=study.experiment_file,
    shell:
        "exec {params.program} tables --quiet {params.experiment:q} > {log:q} 2>&1"


rule report:
    """Make one HTML report, with each run's predictions if they are on this machine:  snakemake --cores 1 report"""
    input:
        study.tables,
    log:
        "logs/report.log",
    conda:
        "../../environment.yml"
    params:
        program=study.commands.program,
        experiment=study.experiment_file,
    shell:
        "exec {params.program} report {params.experiment:q} > {log:q} 2>&1"

"""Rows, tokens, base models.  What may need the network runs where Snakemake does.

READS   the hub, local files or a generator      WRITES  data/raw, data/models, data/tokens, results/scratch/hub
"""


localrules:
    fetch,
    fetch_model,
    tokenize,


rule fetch:
    """Rows of one data set."""
    output:
        record="data/raw/{rows}/record.json",
    log:
        "logs/fetch/{rows}.log",
    benchmark:
        "logs/fetch/{rows}.benchmark.tsv"
    conda:
        "../../environment.yml"
    params:
        program=study.commands.program,
        request=study.commands.request_of_rows,
    shell:
        "exec {params.program} fetch {params.request} > {log:q} 2>&1"


rule fetch_model:
    """The files of one model of the hub, in this machine's cache; what is written says so."""
    output:
        note="results/scratch/hub/{model}.json",
    log:
        "logs/fetch/{model}.log",
    conda:
        "../../environment.yml"
    params:
        program=study.commands.program,
        run=study.commands.run_file_of,
    shell:
        "exec {params.program} fetch --model --config {params.run:q} > {log:q} 2>&1"


rule pretrain:
    """One of the project's own base models, shared by all runs."""
    output:
        record="data/models/{base}/record.json",
    log:
        "logs/pretrain/{base}.log",
    benchmark:
        "logs/pretrain/{base}.benchmark.tsv"
    conda:
        "../../environment.yml"
    params:
        program=study.commands.program,
        name=study.commands.base_model_of,
    shell:
        "exec {params.program} pretrain {params.name:q} > {log:q} 2>&1"


rule tokenize:
    """Tokens, once for all runs that share template, tokenizer and rows."""
    input:
        missing_inputs(study.for_tokens),
    output:
        record="data/tokens/{tokens}/record.json",
    log:
        "logs/tokenize/{tokens}.log",
    benchmark:
        "logs/tokenize/{tokens}.benchmark.tsv"
    conda:
        "../../environment.yml"
    params:
        program=study.commands.program,
        run=study.commands.run_file_of,
    shell:
        "exec {params.program} tokenize --config {params.run:q} > {log:q} 2>&1"

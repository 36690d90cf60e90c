"""Rows, tokens, base models.  Rules that may need the network run on Snakemake's own machine.

READS   the hub, local files or a generator      WRITES  data/raw, data/models, data/tokens, results/scratch/hub
"""


localrules:
    fetch,
    fetch_model,
    tokenize,


rule fetch:
    """Fetch the rows of one data set."""
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
    """Download one hub model into this machine's cache; the output is a note that it is there."""
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
    """Pretrain one builtin base model, shared by all runs."""
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
    """Tokenise rows, once for all runs with the same template, tokenizer and rows."""
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

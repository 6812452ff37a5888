# Snakemake empties folders that are outputs, and this one may hold files of others: the output is
# what the figures were made from. Which files they are, the manifest in their folder says.
# What was drawn is kept by what it shows, so that an edit draws only the figures that differ.


rule figures:
    input:
        study="results/studies/{study}/study.json",
        summary="results/studies/{study}/tables/summary.csv",
    output:
        "results/studies/{study}/.figures-of",
    log:
        "results/logs/figures/{study}.log",
    benchmark:
        "results/benchmarks/figures/{study}.tsv"
    conda:
        "../envs/simlib.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * 2 ** (attempt - 1),
        runtime=30,
    params:
        study=lambda wildcards, output: f"{results}/studies/{wildcards.study}",
    message:
        "figures of study {wildcards.study}"
    shell:
        "python -m simlib.cli.run study figures {input.study:q}"
        " --tables {params.study:q}/tables --output {params.study:q}/figures"
        " --kept {params.study:q}/.drawn > {log:q} 2>&1;"
        " cat {input:q} > {output:q}"

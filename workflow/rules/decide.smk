# The rounds of a decision. A job looks at some deployments of an architecture: it chooses rates and
# replicates itself, keeps what every simulation says, and goes on from those that there are. It
# reads what the round before found, if there is one. A request is named by the hash of all that can
# change the outcome, so its time does not matter (ancient).


rule capacity:
    input:
        request=ancient("results/capacity/{request}.request.json"),
        round_before=lambda wildcards: ancient(plan.outcomes_read(wildcards.request)),
        tables=lambda wildcards: ancient(plan.tables_of_job(wildcards.request)),
    output:
        "results/capacity/{request}.json",
    log:
        "results/logs/capacity/{request}.log",
    benchmark:
        "results/benchmarks/capacity/{request}.tsv"
    conda:
        "../envs/simlib.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 1000 * 2 ** (attempt - 1),
        runtime=lambda wildcards, attempt: 60 * 2 ** (attempt - 1),
    params:
        results=lambda wildcards, output: results,
    message:
        "finding a capacity: {wildcards.request}"
    shell:
        "python -m simlib.cli.run study capacity {input.request:q}"
        " --results {params.results:q} --output {output:q} > {log:q} 2>&1"

# One job for each deployment of a decision: it chooses its rates and replicates itself, keeps what
# every simulation says, and goes on from those that there are. A second one goes on to the accuracy
# asked for, if the first ones say that its deployment may be the best. A request is named by the
# hash of all that can change the outcome, so its time does not matter (ancient).


rule capacity:
    input:
        request=ancient("results/capacity/{request}.request.json"),
        first_round=lambda wildcards: ancient(plan.first_round(wildcards.request)),
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

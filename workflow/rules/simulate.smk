# A point's file is named by the hash of all that can change its result, so its time does not
# matter (ancient), and it is no input: it is written before any job is planned.


rule simulate:
    """One job per point and replicate."""
    input:
        lambda wildcards: ancient(plan.latency_tables(wildcards.point_id)),
    output:
        "results/points/{point_id}/r{replicate}.npz",
    log:
        "results/logs/points/{point_id}/r{replicate}.log",
    benchmark:
        "results/benchmarks/points/{point_id}/r{replicate}.tsv"
    conda:
        "../envs/simlib.yaml"
    # from the point's size; a retry may have twice the memory and time, then four times
    resources:
        mem_mb=lambda wildcards, attempt: plan.memory_mb(wildcards.point_id)
        * 2 ** (attempt - 1),
        runtime=lambda wildcards, attempt: plan.minutes(wildcards.point_id)
        * 2 ** (attempt - 1),
    params:
        point=lambda wildcards, output: f"{results}/points/{wildcards.point_id}/point.json",
    message:
        "simulating point {wildcards.point_id}, replicate {wildcards.replicate}"
    shell:
        "python -m simlib.study.jobs.run_point {params.point:q}"
        " {wildcards.replicate:q} {output:q} > {log:q} 2>&1"


# One job for many simulations that are missing, and that together take seconds. A rule without
# wildcards comes before `simulate`, which makes the others.
for batch in plan.batches:

    rule:
        name:
            f"simulate_{batch.name}"
        input:
            ancient(plan.latency_tables(*batch.points)),
        output:
            batch.files(plan.named),
        log:
            f"results/logs/batches/{batch.name}.log",
        benchmark:
            f"results/benchmarks/batches/{batch.name}.tsv"
        conda:
            "../envs/simlib.yaml"
        resources:
            mem_mb=lambda wildcards, attempt, batch=batch: plan.memory_mb(
                *batch.points
            )
            * 2 ** (attempt - 1),
            runtime=lambda wildcards, attempt, batch=batch: plan.minutes(
                *(point for point, _ in batch.simulations)
            )
            * 2 ** (attempt - 1),
        params:
            results=lambda wildcards, output: results,
            name=lambda wildcards, output, name=batch.name: name,
        message:
            f"{len(batch.simulations)} simulations in one job"
        shell:
            "python -m simlib.study.jobs.run_batch {params.results:q} {params.name:q} > {log:q} 2>&1"


rule make_precise:
    """One job for points that are compared with each other: their runs have one length."""
    input:
        request=ancient("results/precision/{request}.request.json"),
        shared=lambda wildcards: ancient(plan.shared_results(wildcards.request)),
    output:
        "results/precision/{request}.json",
    log:
        "results/logs/precision/{request}.log",
    benchmark:
        "results/benchmarks/precision/{request}.tsv"
    conda:
        "../envs/simlib.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 1000 * 2 ** (attempt - 1),
        runtime=lambda wildcards, attempt: 60 * 2 ** (attempt - 1),
    params:
        results=lambda wildcards, output: results,
    message:
        "lengthening and replicating until precise: {wildcards.request}"
    shell:
        "python -m simlib.cli.run study precise {input.request:q}"
        " --results {params.results:q} --output {output:q} > {log:q} 2>&1"


rule latency_table:
    """Ask aiconfigurator once per model, GPU and tensor parallelism; jobs only read the table."""
    input:
        request=ancient("results/latency/{table}.request.json"),
    output:
        "results/latency/{table}.json",
    log:
        "results/logs/latency/{table}.log",
    conda:
        "../envs/simlib.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    message:
        "latencies that {input.request} asks for"
    shell:
        "python -m simlib.cli.run study latency-table --request {input.request:q}"
        " --output {output:q} > {log:q} 2>&1"

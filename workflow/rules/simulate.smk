# One job per point and replicate. A point's file is named by the hash of all that can change
# its result, so its time does not matter (ancient).


rule simulate:
    input:
        point=ancient("results/points/{point_id}/point.json"),
    output:
        "results/points/{point_id}/r{replicate}.npz",
    log:
        "results/logs/points/{point_id}/r{replicate}.log",
    benchmark:
        "results/benchmarks/points/{point_id}/r{replicate}.tsv"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=500,
        runtime=10,
    message:
        "simulating point {wildcards.point_id}, replicate {wildcards.replicate}"
    shell:
        "python -m simlib.study.point {input.point} {wildcards.replicate} {output}"
        " > {log} 2>&1"


rule replicate_until_precise:
    input:
        request=ancient("results/precision/{request}.request.json"),
    output:
        "results/precision/{request}.json",
    log:
        "results/logs/precision/{request}.log",
    benchmark:
        "results/benchmarks/precision/{request}.tsv"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=1000,
        runtime=60,
    message:
        "adding replicates until precise: {wildcards.request}"
    shell:
        "python -m simlib.cli.run study replicate {input.request}"
        " --results results --output {output} > {log} 2>&1"

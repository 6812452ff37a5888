# Results are named by content and checked before each run, so their times do not matter either
# (ancient). The last command notes what the tables were made from. Refused results mean that a
# file changed behind its time: the next run then checks every byte.


rule tables:
    input:
        study="results/studies/{study}/study.json",
        results=lambda wildcards: ancient(results_of(wildcards.study)),
    output:
        report(
            "results/studies/{study}/tables/summary.csv",
            category="{study}",
            labels={"kind": "table", "name": "summary"},
            caption="../report/summary.rst",
        ),
        "results/studies/{study}/tables/provenance.json",
    log:
        "results/logs/tables/{study}.log",
    benchmark:
        "results/benchmarks/tables/{study}.tsv"
    conda:
        "../envs/simlib.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * 2 ** (attempt - 1),
        runtime=30,
    params:
        results=lambda wildcards, output: results,
        study=lambda wildcards, output: f"{results}/studies/{wildcards.study}",
    message:
        "tables of study {wildcards.study}"
    shell:
        "rm -f {params.study:q}/.tables-of;"
        " python -m simlib.cli.run study tables {input.study:q}"
        " --results {params.results:q} --output {params.study:q}/tables"
        " > {log:q} 2>&1 || {{ rm -f {params.results:q}/.verified.json; exit 1; }};"
        " cat {input.study:q} > {params.study:q}/.tables-of"

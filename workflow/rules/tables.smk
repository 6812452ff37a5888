rule tables:
    input:
        study="results/studies/{study}/study.json",
        results=lambda wildcards: plan.results_of(wildcards.study),
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
        "../../environment.yml"
    resources:
        mem_mb=2000,
        runtime=30,
    message:
        "tables of study {wildcards.study}"
    shell:
        "python -m simlib.cli.run study tables {input.study}"
        " --results results --output results/studies/{wildcards.study}/tables"
        " > {log} 2>&1"

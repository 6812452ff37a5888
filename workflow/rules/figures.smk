rule figures:
    input:
        study="results/studies/{study}/study.json",
        summary="results/studies/{study}/tables/summary.csv",
    output:
        report(
            directory("results/studies/{study}/figures"),
            patterns=["{name}.svg"],
            category="{study}",
            labels={"kind": "figure", "name": "{name}"},
            caption="../report/figure.rst",
        ),
    log:
        "results/logs/figures/{study}.log",
    benchmark:
        "results/benchmarks/figures/{study}.tsv"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=2000,
        runtime=30,
    message:
        "figures of study {wildcards.study}"
    shell:
        "rm -f results/studies/{wildcards.study}/.figures-of;"
        " python -m simlib.cli.run study figures {input.study}"
        " --tables results/studies/{wildcards.study}/tables --output {output} > {log} 2>&1;"
        " cat {input} > results/studies/{wildcards.study}/.figures-of"

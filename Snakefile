"""Studies of time to first token: `snakemake --cores N` runs all that config.yaml describes.

`snakemake scoreboard` instead simulates measured servers, of the files that MEASURED names.
"""


include: "workflow/Snakefile"


workflow.default_target = "all"  # an included file sets none


rule scoreboard:
    """Simulate every measured row and report errors, verdicts and peers."""
    input:
        measured=os.environ.get("MEASURED", "").split(),
    output:
        rows="results/scoreboard/rows.csv",
        page="results/scoreboard/scoreboard.md",
    log:
        "results/logs/scoreboard.log",
    conda:
        "workflow/envs/simlib.yaml"
    params:
        benchmarks=os.path.join(workflow.basedir, "benchmarks"),
        peer_every=os.environ.get("PEER_EVERY", "1"),
    message:
        "simulating measured servers: {output.page}"
    shell:
        "PYTHONPATH={params.benchmarks:q}:${{PYTHONPATH:-}}"
        " python {params.benchmarks:q}/scoreboard.py {input.measured:q} --rows {output.rows:q}"
        " --output {output.page:q} --peer-every {params.peer_every:q} > {log:q} 2>&1"

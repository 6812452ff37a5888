"""Studies of time to first token: `snakemake --cores N` runs all that config.yaml describes."""


include: "workflow/Snakefile"


workflow.default_target = "all"  # an included file sets none

"""Studies of time to first token: `snakemake --cores N` runs all that config.yaml describes."""

import os
import shlex
import sys

from snakemake.logging import logger
from snakemake.utils import min_version

from simlib.core.reading import read_yaml
from simlib.errors import InvalidParameterError
from simlib.study.jobs.lock import FolderInUseError
from simlib.study.jobs.progress import show
from simlib.study.jobs.session import start

min_version("9.0")


if workflow.is_main_process:
    # before Snakemake reads it, which runs what a YAML file asks for (YTE)
    try:
        for path in dict.fromkeys(["config.yaml", *map(str, workflow.configfiles)]):
            if os.path.lexists(path):
                read_yaml(path)
    except InvalidParameterError as error:
        sys.exit(f"error: {error}")

    # jobs read what their run read, in results/.config.json
    configfile: "config.yaml"


python = os.path.dirname(sys.executable).replace("{", "{{").replace("}", "}}")
# jobs run with this Python, whatever is first on their PATH
shell.prefix(
    f"set -euo pipefail; PATH={shlex.quote(python)}:$PATH; "
    # one thread a job: idle BLAS threads cost more CPU than a small simulation
    "export PYTHONSAFEPATH=1 OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1; "
)

try:
    plan = start(
        config,
        results="results",
        source=workflow.basedir,
        main=workflow.is_main_process,
        dryrun=workflow.is_main_process and workflow.output_settings.dryrun,
    )
except (InvalidParameterError, FolderInUseError, OSError) as error:
    sys.exit(f"error: {error}")

if workflow.is_main_process:
    show(
        logger,
        {f"simulate_{batch.name}": len(batch.simulations) for batch in plan.batches},
        dryrun=workflow.output_settings.dryrun,
    )


# what stands in a path is a study's name, a hash or a number, and nothing else
wildcard_constraints:
    study="[a-z_][a-z0-9_]*",
    point_id="[0-9a-f]{16}",
    replicate="[0-9]+",
    request="[0-9a-f]{16}",
    table="[0-9a-f]{16}",


include: "workflow/rules/simulate.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/figures.smk"


report: "workflow/report/workflow.rst"


# for the report; not those that this run draws anew, of which it may drop some
in_report = report
drawn = [
    in_report(
        figure,
        category=study,
        labels={
            "kind": "figure",
            "name": os.path.splitext(os.path.basename(figure))[0],
        },
        caption="workflow/report/figure.rst",
    )
    for study in plan.studies
    if os.path.exists(plan.figures(study))
    for figure in plan.drawn(study)
]


localrules:
    all,
    simulations,


rule all:
    default_target: True
    input:
        [plan.results_of(study) for study in plan.studies],
        [plan.tables(study) for study in plan.studies],
        [plan.figures(study) for study in plan.studies],
        drawn,
    message:
        "all studies are up to date"


rule simulations:
    """Only the simulations: for clusters where tables and figures are made elsewhere."""
    input:
        [plan.results_of(study) for study in plan.studies],
    message:
        "all simulations are up to date"

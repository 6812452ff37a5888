"""Studies of time to first token: `snakemake --cores N` runs all that config.yaml describes."""

import os
import shlex
import sys

from snakemake.logging import logger
from snakemake.utils import min_version

from simlib.errors import InvalidParameterError
from simlib.study.jobs.lock import FolderInUseError
from simlib.study.jobs.progress import show
from simlib.study.jobs.session import start

min_version("9.0")


configfile: "config.yaml"


# jobs run with this Python, whatever is first on their PATH
shell.prefix(
    f"set -euo pipefail; PATH={shlex.quote(os.path.dirname(sys.executable))}:$PATH; "
    # one thread a job: idle BLAS threads cost more CPU than a small simulation
    "export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1; "
)

try:
    plan = start(
        config,
        results="results",
        source=workflow.basedir,
        main=workflow.is_main_process,
    )
except (InvalidParameterError, FolderInUseError, OSError) as error:
    sys.exit(f"error: {error}")

if workflow.is_main_process:
    show(
        logger,
        {f"simulate_{batch.name}": len(batch.simulations) for batch in plan.batches},
        dryrun=workflow.output_settings.dryrun,
    )


wildcard_constraints:
    study="[a-z0-9_]+",
    point_id="[0-9a-f]{16}",
    replicate="[0-9]+",


include: "workflow/rules/simulate.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/figures.smk"


report: "workflow/report/workflow.rst"


localrules:
    all,
    simulations,


rule all:
    default_target: True
    input:
        [plan.results_of(study) for study in plan.studies],
        [plan.tables(study) for study in plan.studies],
        [plan.figures(study) for study in plan.studies],
    message:
        "all studies are up to date"


rule simulations:
    """Only the simulations: for clusters where tables and figures are made elsewhere."""
    input:
        [plan.results_of(study) for study in plan.studies],
    message:
        "all simulations are up to date"

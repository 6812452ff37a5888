"""Studies of time to first token: `snakemake --cores N` runs all that config.yaml describes."""

import os
import shlex
import sys

from snakemake.utils import min_version

from simlib.errors import InvalidParameterError
from simlib.study.plan import Plan

min_version("9.0")


configfile: "config.yaml"


# jobs run with this Python, whatever is first on their PATH
shell.prefix(
    f"set -euo pipefail; PATH={shlex.quote(os.path.dirname(sys.executable))}:$PATH; "
)

try:
    plan = Plan.of(config, results="results", source=workflow.basedir)
except InvalidParameterError as error:
    sys.exit(f"error: {error}")

if workflow.is_main_process:
    plan.write()


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

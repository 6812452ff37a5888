"""What rules ask for."""

from snakemake.settings.types import RerunTrigger


def results_of(study):
    """Return the results of a study that a run plans: where it only makes what is missing, those.

    A place in the graph for each result that is there would cost more than all else of such a run.
    """
    dag = workflow.dag_settings
    about_all = (
        not workflow.is_main_process
        or workflow.execution_settings is None  # a summary, a report, an archive, ...
        or workflow.touch
        or dag.forceall
        or dag.forcetargets
        or dag.forcerun
        or dag.until
        or dag.omit_from
        or RerunTrigger.INPUT in dag.rerun_triggers
    )
    return plan.results_of(study, missing=not about_all)


def planned_results(wildcards):
    """Return the results of all studies that a run plans."""
    return [result for study in plan.studies for result in results_of(study)]

# What submission costs: a study of POINTS simulations (40) of a fraction of a second each, from
# the start of snakemake to its end. Sourced by run.sh for MODE=measure.
points=${POINTS:-40}

measure() { # NAME OPTIONS...
    local begun=$SECONDS code=0
    study "$1"
    cat >config.yaml <<C
defaults: {sim_seconds: 600, warmup_seconds: 60}
replicates: $((points / 4))
studies:
  rates:
    sweep: {grid: {mode: [mono, disagg], arrival.rate_per_s: [1, 2]}}
    compare: {factor: mode, baseline: mono}
C
    on_slurm "${@:2}" || code=$?
    echo "$1: $((SECONDS - begun)) s, exit code $code," \
        "$(grep -cE 'has been submitted with|Submitted array job' log) submissions, $(grep -c '^FAILED' log) failed jobs"
    scancel --partition=main
    within 20 queue_is_empty
}

enough=(--set-resources simulate:mem_mb=1000) # an array's tasks start snakemake three times
measure batches
measure one_by_one "${one_each[@]}" "${enough[@]}"
measure arrays "${one_each[@]}" "${enough[@]}" --slurm-array-jobs simulate
measure groups "${one_each[@]}" --groups simulate=points --group-components points="$points" --cores 2

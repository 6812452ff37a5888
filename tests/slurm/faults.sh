# One function per fault: it is injected into a run on Slurm, the run or the next one ends the study,
# and nothing that was whole is simulated again. Sourced by run.sh; each runs in a shell of its own.

cancelled() { # by the user, one job of four
    study cancelled
    begin "${one_each[@]}"
    freeze
    within 60 has_a_result || fail "no other job ended"
    remember
    scancel "$job"
    ended
    says "FAILED simulate:"
    same_tables
    kept
}

has_a_result() { compgen -G "results/points/*/r*.npz" >/dev/null; }

requeued() { # by an administrator, a job in the middle of a batch
    study requeued
    begin
    freeze batch
    remember
    scontrol requeue "$job"
    ended
    same_tables
    kept
}

out_of_time() { # a job that hangs: Slurm ends it after a whole minute, its retry has twice the time
    study out_of_time
    begin
    freeze batch
    remember
    scontrol update "JobId=$job" TimeLimit=1
    ended
    says "FAILED (batch|simulate):"
    squeue --noheader --states=TIMEOUT --format=%i | grep -qx "$job" || fail "no job ran out of time"
    same_tables
    kept
}

out_of_memory() { # Slurm kills what exceeds its memory; the retry has twice as much
    study out_of_memory
    PATH=$here/little_memory:$PATH begin
    ended
    says "FAILED (batch|simulate):"
    grep -q "exceeded memory limit" .snakemake/slurm_logs/*/*.log || fail "no job was killed for its memory"
    same_tables
    echo "$(grep -c '^FAILED' log) attempts were killed"
}

daemons_restarted() { # both daemons killed while a job runs, which lives on
    study daemons_restarted
    begin
    freeze batch
    remember
    sleep 12 # the controller saves its state every few seconds: it must not forget that the job runs
    kill_daemon KILL slurmd
    kill_daemon KILL slurmctld
    sleep 3
    start_controller && start_node || fail "Slurm does not start again"
    kill -CONT "$frozen"
    ended
    same_tables
    kept
}

node_lost() { # the node loses power: slurmd and all jobs vanish; it is declared down, then comes back
    study node_lost
    begin
    freeze batch
    remember
    kill_daemon KILL slurmd
    for process in $(processes_beneath "$work"); do
        if belongs_to_job "$process"; then kill -KILL "$process"; fi
    done
    scontrol update "NodeName=$host" State=DOWN Reason=lost
    start_node || fail "the node does not come back"
    ended
    same_tables
    kept
}
belongs_to_job() {
    [ "$(cat "/proc/$1/comm" 2>/dev/null)" = slurmstepd ] || grep -qsz '^SLURM_JOB_ID=' "/proc/$1/environ"
}

late_files() { # what a job has written is seen 10 s after Snakemake began to look for it (epilog.sh)
    local later
    study late_files
    touch .late
    if on_slurm --latency-wait 1 --retries 0; then fail "nobody waits for files, yet none was missed"; fi
    says "Missing files after 1 seconds"
    appear
    [ "$(find results/points -name 'r*.npz' | wc -l)" = 4 ] || fail "late results never came"
    remember
    appear_when_awaited & later=$!
    on_slurm || fail "the profile does not wait for late files"
    kill $later 2>/dev/null || true
    says "Waiting at most 60 seconds for missing files"
    says "^ran 1 tables"
    same_tables
    kept
}
appear() { find results -name '*.late' -exec sh -c 'mv "$1" "${1%.late}"' - {} \;; }
appear_when_awaited() {
    until grep -q "Waiting at most 60 seconds for missing files" log; do sleep 0.2; done
    sleep 10
    appear
}

read_only_source() { # a source tree that the user may read only
    study read_only_source
    local nobody=(setpriv --reuid nobody --regid nogroup --clear-groups env "HOME=$PWD/home")
    mkdir -p home "$work/source"
    if "${nobody[@]}" env "$snakemake" --version >/dev/null 2>&1; then
        if "${nobody[@]}" test -w "$repo/simlib"; then fail "user nobody may write the source tree"; fi
        chown -R nobody: .
        user=("${nobody[@]}")
        echo "as user nobody"
    elif copy_read_only; then
        if touch "$work/source/simlib/x" 2>/dev/null; then fail "the source tree can be written"; fi
        source=$work/source
        export PYTHONPATH=$source
        echo "mounted read-only"
    else
        echo "NOT RUN: user nobody cannot read this source tree or its Python, and nothing can be mounted"
        return
    fi
    on_slurm || fail "the run failed"
    same_tables
}

copy_read_only() { # a copy, so that nothing that is done beneath $work ever reaches the source itself
    cp -r "$repo"/{Snakefile,profiles,workflow,simlib,data} "$work/source"
    mount --bind "$work/source" "$work/source" 2>/dev/null && mount -o remount,bind,ro "$work/source"
}

together() { # three studies at once
    local folder runs=()
    for folder in together1 together2 together3; do
        study $folder
        begin
        runs+=("$run")
    done
    for run in "${runs[@]}"; do ended; done
    for folder in together1 together2 together3; do
        cd "$work/$folder"
        says "^ran 4 simulate"
        same_tables
    done
    echo "3 studies at once"
}

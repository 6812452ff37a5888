# Studies of four simulations, in folders beneath $work, and what a scenario says about their runs.
# Sourced by run.sh.
tables=results/studies/rates/tables
user=() # a command that runs another as some user

study() { # FOLDER: make a folder with a study and go there
    mkdir -p "$work/$1"
    cd "$work/$1"
    cat >config.yaml <<C
defaults: {engine: simpy, sim_seconds: 6000, warmup_seconds: 60, arrival.rate_per_s: 4}
replicates: 2
studies:
  rates:
    sweep: {grid: {mode: [mono, disagg]}}
    compare: {factor: mode, baseline: mono}
C
}

run_locally() { # what tables must be
    study local
    timeout -k 10 120 "$snakemake" --snakefile "$repo/Snakefile" --cores 2 --nocolor \
        $tables/summary.csv >log 2>&1 || fail "the local run failed"
}

on_slurm() { # [OPTIONS]: the profile; what differs is due to a node without accounts, and to haste
    "${user[@]}" timeout -k 10 "${MOST_S:-280}" "$snakemake" --snakefile "${source:-$repo}/Snakefile" \
        --profile "${source:-$repo}/workflow/profiles/slurm" --nocolor \
        --slurm-no-account --slurm-status-command squeue --slurm-init-seconds-before-status-checks 2 \
        --seconds-between-status-checks 2 "$@" -- $tables/summary.csv </dev/null >>log 2>&1
}

one_each=(--config batch_seconds=0) # one simulation per job, rather than all in one as by the profile

begin() { on_slurm "$@" & run=$!; } # in the background

simulation() { # the process that simulates in this folder, if there is one
    local process
    for process in $(pgrep -f 'python -m simlib\.study\.jobs\.run_(point|batch)'); do
        if [ "$(readlink "/proc/$process/cwd")" = "$PWD" ] && [ "$(cat "/proc/$process/comm")" != bash ]; then
            echo "$process"
            return
        fi
    done
    false
}
starts_simulating() { frozen=$(simulation); }
has_staged() { compgen -G "results/points/*/r*.staged" >/dev/null; }

freeze() { # stop a simulation in the middle, so that the fault meets it there; sets `frozen`, `job`
    within 120 starts_simulating || fail "no simulation started"
    [ "${1:-}" != batch ] || within 60 has_staged || fail "no simulation of the batch ended"
    kill -STOP "$frozen"
    job=$(tr '\0' '\n' <"/proc/$frozen/environ" | sed -n 's/^SLURM_JOB_ID=//p')
    [ -n "$job" ] || fail "the simulation belongs to no job"
}

whole() { # results that are there; inode and time of birth tell whether one is written anew
    [ -d results/points ] || return 0
    find results/points \( -name 'r*.npz' -o -name 'r*.staged' \) -exec stat --format='%i %W' {} + | sort
}
remember() { whole >before; }

ended() { wait "$run" || fail "the run failed"; }
same_tables() { diff -r "$work/local/$tables" $tables >>log || fail "tables differ from those of the local run"; }
kept() { # what was whole at the fault still is, unwritten since; tells how many of four
    local lost
    lost=$(whole | comm -23 before - | wc -l)
    [ "$lost" = 0 ] || fail "$lost valid results were simulated again"
    echo "$(wc -l <before) of $(whole | wc -l) results kept"
}
says() { grep -qE -- "$1" log || fail "the run does not say: $1"; }
fail() {
    echo "test-slurm: ${PWD##*/}: $*" >&2
    tail -25 log >&2
    exit 1
}

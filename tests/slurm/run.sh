#!/usr/bin/env bash
# A real Slurm of one node for the time of this test: studies run on it through the Slurm profile,
# faults are injected (faults.sh), and tables must be those of a local run, byte for byte. Needs root
# and Debian; installs munge, slurmctld and slurmd where they are missing; stops what it started.
# Where it cannot run, it says NOT RUN and why, and ends with exit code 0.
#
#   run.sh                 all faults
#   run.sh FAULT...        these, one after the other
#   MODE=measure run.sh    what submission costs (measure.sh)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
snakemake=${SNAKEMAKE:-$repo/.venv-slurm/bin/snakemake}
exec </dev/null
work=$(mktemp -d)
chmod 755 "$work"

source "$here/cluster.sh"
source "$here/studies.sh"
source "$here/faults.sh"

clean_up() {
    code=$?
    trap - EXIT
    trap '' INT TERM HUP
    cluster_down
    if [ $code = 0 ]; then rm -rf "$work"; else echo "test-slurm: FAILED ($code), see $work" >&2; fi
    exit $code
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

declare -A shell_of
inject() { # FAULT...: all at once, each in a shell of its own
    local fault
    for fault in "$@"; do
        (cd "$work" && "$fault") >"$work/$fault.out" 2>&1 &
        shell_of[$fault]=$!
    done
}
failures=0
await() { # FAULT...: say how each went
    local fault
    for fault in "$@"; do
        if wait "${shell_of[$fault]}"; then
            echo "test-slurm: $fault: tables as of the local run; $(tail -1 "$work/$fault.out")"
        else
            echo "test-slurm: $fault: FAILED"
            cat "$work/$fault.out"
            failures=$((failures + 1))
        fi
    done
}

main() {
    check_machine
    install_slurm
    # nothing waits for long, and if something does, all ends here
    (cd "$work" && sleep 900 && echo "test-slurm: not done after 15 minutes" && kill -TERM $$) &
    disown
    cluster_up

    if [ "${MODE:-}" = measure ]; then
        source "$here/measure.sh"
        return
    fi

    (run_locally)
    if [ $# -gt 0 ]; then
        for fault in "$@"; do
            inject "$fault"
            await "$fault"
        done
    else
        inject out_of_time cancelled requeued out_of_memory
        await cancelled requeued out_of_memory
        inject late_files read_only_source together
        await late_files read_only_source together out_of_time
        for fault in daemons_restarted node_lost; do # these concern every job
            inject $fault
            await $fault
        done
    fi
    echo "test-slurm: $failures failed, after $SECONDS s"
    [ $failures = 0 ]
}

main "$@"
exit

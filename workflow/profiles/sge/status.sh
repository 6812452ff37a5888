#!/bin/sh
# Tells Snakemake how an SGE job stands, also one that SGE has killed, which can leave no mark itself.
if qstat -j "$1" >/dev/null 2>&1; then
    echo running
    exit
fi
qacct -j "$1" 2>/dev/null | awk '
    $1 == "failed" { found = 1; failed += $2 }
    $1 == "exit_status" { failed += $2 }
    END { print (!found ? "running" : failed ? "failed" : "success") } # accounting comes a little later
'

#!/usr/bin/env bash
# A real Slurm of one node for the time of this test: a small study through the Slurm profile gives
# the tables of a local run, byte for byte, also when a job of it is cancelled. Needs root and
# Debian; installs munge, slurmctld and slurmd where they are missing; stops what it started.
#
# MODE=cancel (default) or measure: submissions in groups, in arrays, one by one.
set -euo pipefail
repo=$(cd "$(dirname "$0")/../.." && pwd)
snakemake=${SNAKEMAKE:-$repo/.venv-slurm/bin/snakemake}
python=$(dirname "$snakemake")/python

not_here() { echo "test-slurm: NOT RUN: $*"; exit 0; }
[ "$(id -u)" = 0 ] || not_here "starting Slurm needs root"
command -v apt-get >/dev/null || not_here "Slurm is installed from Debian packages, and this is no Debian"
if [ -e /etc/slurm/slurm.conf ] || [ -L /etc/slurm/slurm.conf ]; then
    not_here "/etc/slurm/slurm.conf exists: this machine belongs to a cluster"
fi
if ! command -v slurmctld slurmd munged sbatch >/dev/null; then
    log=$(mktemp)
    policy=/usr/sbin/policy-rc.d # daemons are started here, not by their packages
    made=0
    [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && made=1; }
    installed=1
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
        --no-install-recommends slurmctld slurmd slurm-client munge; } >"$log" 2>&1 || installed=0
    [ $made = 0 ] || rm -f $policy
    [ $installed = 1 ] || { tail -3 "$log"; not_here "the packages of Slurm cannot be installed"; }
fi

work=$(mktemp -d)
chmod 755 "$work"
slurm=$work/slurm
host=$(hostname -s)
stop() {
    [ -f "$1" ] || return 0
    kill "$(cat "$1")" 2>/dev/null || return 0
    for _ in $(seq 50); do kill -0 "$(cat "$1" 2>/dev/null)" 2>/dev/null || return 0; sleep 0.1; done
}
clean_up() {
    code=$?
    scancel --user=root 2>/dev/null || true
    for daemon in slurmd slurmctld munged; do stop "$slurm/$daemon.pid"; done
    rm -f /etc/slurm/slurm.conf /etc/slurm/cgroup.conf
    if [ $code = 0 ]; then rm -rf "$work"; else echo "test-slurm: FAILED, see $work" >&2; fi
}
trap clean_up EXIT

mkdir -p "$slurm"/{state,spool,log,munge} /etc/slurm
head -c 1024 /dev/urandom >"$slurm/munge/key"
chown -R munge: "$slurm/munge"
chmod 400 "$slurm/munge/key"
su -s /bin/sh munge -c "/usr/sbin/munged --force --key-file=$slurm/munge/key \
    --socket=$slurm/munge/socket --pid-file=$slurm/munge/pid --log-file=$slurm/munge/log \
    --seed-file=$slurm/munge/seed"
for _ in $(seq 50); do [ -s "$slurm/munge/pid" ] && break; sleep 0.1; done
cp "$slurm/munge/pid" "$slurm/munged.pid"
cat >"$slurm/slurm.conf" <<C
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$slurm/munge/socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SlurmctldPidFile=$slurm/slurmctld.pid
SlurmdPidFile=$slurm/slurmd.pid
SlurmctldPort=26817
SlurmdPort=26818
StateSaveLocation=$slurm/state
SlurmdSpoolDir=$slurm/spool
SlurmctldLogFile=$slurm/log/slurmctld.log
SlurmdLogFile=$slurm/log/slurmd.log
MinJobAge=300
MaxArraySize=2001
AccountingStorageType=accounting_storage/none
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
C
echo "CgroupAutomount=no" >"$slurm/cgroup.conf"
# job steps lose SLURM_CONF, so that the default place must lead there
ln -s "$slurm/slurm.conf" /etc/slurm/slurm.conf
ln -sf "$slurm/cgroup.conf" /etc/slurm/cgroup.conf
slurmctld
for _ in $(seq 100); do scontrol ping 2>/dev/null | grep -q "is UP" && break; sleep 0.1; done
slurmd -N "$host"
for _ in $(seq 100); do sinfo -h -o %T | grep -qE '^(idle|mixed|allocated)' && break; sleep 0.1; done
sinfo -h -o %T | grep -qE '^(idle|mixed|allocated)' || { tail "$slurm"/log/*; exit 1; }
echo "test-slurm: Slurm $(sinfo --version | cut -d' ' -f2) is up"

study() { # a working directory with a study of 8 simulations
    mkdir -p "$work/$1"
    cat >"$work/$1/config.yaml" <<C
defaults: {sim_seconds: 60, warmup_seconds: 5}
replicates: ${REPLICATES:-2}
studies:
  rates:
    sweep: {grid: {mode: [mono, disagg], arrival.rate_per_s: [1, 2]}}
    compare: {factor: mode, baseline: mono}
C
    cd "$work/$1"
}
tables=results/studies/rates/tables
on_slurm() { # the profile; a node of two CPUs without accounts is all that differs
    "$snakemake" --snakefile "$repo/Snakefile" --profile "$repo/workflow/profiles/slurm" \
        --slurm-no-account --slurm-status-command squeue --nocolor --cores 2 \
        --slurm-init-seconds-before-status-checks 2 --seconds-between-status-checks 2 \
        --latency-wait 10 "$@" "$tables/summary.csv"
}

if [ "${MODE:-cancel}" = measure ]; then
    for how in grouped array single; do
        study $how
        options=()
        [ $how = array ] || options+=(--slurm-array-jobs none)
        [ $how = grouped ] && options+=(--groups simulate=points --group-components points=50)
        begin=$(date +%s)
        timeout -k 5 150 bash -c "$(declare -f on_slurm); snakemake='$snakemake' repo='$repo' \
            tables='$tables'; on_slurm ${options[*]:-}" >log 2>&1 || echo "$how: failed"
        ids=$(grep -c "has been submitted" log || true)
        echo "$how: $(($(date +%s) - begin)) s, $ids submissions"
        scancel --user=root
    done
    exit 0
fi

study local
"$snakemake" --snakefile "$repo/Snakefile" --cores 2 --nocolor "$tables/summary.csv" >log 2>&1 \
    || { cat log; exit 1; }
study cluster
on_slurm >log 2>&1 &
run=$!
for _ in $(seq 600); do # the last of the running ones: the others go on
    job=$(squeue --noheader --array --states=RUNNING --format=%i | tail -1)
    [ -n "$job" ] && break
    kill -0 $run 2>/dev/null || break
    sleep 0.1
done
[ -n "$job" ] || { tail -50 log; exit 1; }
scancel "$job"
echo "test-slurm: cancelled job $job while it ran"
wait $run || { tail -50 log; exit 1; }
grep -q "FAILED simulate" log || { echo "the cancelled job was not noticed"; tail -50 log; exit 1; }
diff -r "$work/local/$tables" "$work/cluster/$tables"
grep -E "^ran " log
echo "test-slurm: the tables of the run on Slurm are those of the local run, byte for byte"

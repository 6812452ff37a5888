# A Slurm of one node, started in $work and stopped again. Sourced by run.sh.
slurm=$work/slurm
host=$(hostname -s)

not_here() { echo "test-slurm: NOT RUN: $*"; exit 0; }

within() { # SECONDS COMMAND...: wait until the command succeeds
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.05
    done
}

check_machine() {
    [ "$(uname -s)" = Linux ] || not_here "Slurm runs on Linux only"
    [ -x "$snakemake" ] || not_here "$snakemake is missing; \`make test-slurm\` installs it"
    [ "$(id -u)" = 0 ] || not_here "starting Slurm needs root"
    command -v apt-get >/dev/null || not_here "Slurm is installed from Debian packages, and this is no Debian"
    [ -z "${SLURM_CONF:-}" ] || not_here "SLURM_CONF is set: this machine belongs to a cluster"
    clear_after_killed_test
    [ ! -e /etc/slurm/slurm.conf ] || not_here "/etc/slurm/slurm.conf exists: this machine belongs to a cluster"
}

clear_after_killed_test() { # kill -9 of this test leaves its Slurm running
    local conf left
    conf=$(readlink /etc/slurm/slurm.conf) || return 0
    left=${conf%/slurm/slurm.conf}
    [ -n "$left" ] && [ -f "$left/owner" ] || return 0
    gone "$(cat "$left/owner")" || not_here "this test runs already"
    (work=$left slurm=$left/slurm && cluster_down)
    rm -rf "$left"
}

is_installed() { command -v "$1" >/dev/null; }

install_slurm() {
    is_installed slurmctld && is_installed slurmd && is_installed sbatch && is_installed munged && return
    local policy=/usr/sbin/policy-rc.d made=0 installed=1 # daemons are started here, not by their packages
    [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && made=1; }
    export DEBIAN_FRONTEND=noninteractive
    { timeout 120 apt-get -o Acquire::Retries=1 -o DPkg::Lock::Timeout=60 update -qq &&
        timeout 300 apt-get -o DPkg::Lock::Timeout=60 install -y -qq --no-install-recommends \
            slurmctld slurmd slurm-client munge; } </dev/null >"$work/apt.log" 2>&1 || installed=0
    [ $made = 0 ] || rm -f $policy
    [ $installed = 1 ] || { tail -3 "$work/apt.log"; not_here "the packages of Slurm cannot be installed"; }
}

write_settings() {
    echo $$ >"$work/owner"
    mkdir -p "$slurm"/{state,spool,log,munge} /etc/slurm
    # More CPUs and memory than there are: jobs of this test mostly wait. Requests are small, so
    # that status and memory are checked often, and killed jobs end soon.
    cat >"$slurm/slurm.conf" <<C
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$slurm/munge/socket,cred_expire=5
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
KillWait=2
OverTimeLimit=0
ReturnToService=2
SlurmdTimeout=60
SlurmdParameters=config_overrides
Epilog=$here/epilog.sh
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
NodeName=$host NodeAddr=127.0.0.1 CPUs=${SLURM_TEST_CPUS:-8} RealMemory=64000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
C
    echo "CgroupAutomount=no" >"$slurm/cgroup.conf"
    # job steps lose SLURM_CONF, so that the default place must lead there
    ln -s "$slurm/slurm.conf" /etc/slurm/slurm.conf
    ln -sf "$slurm/cgroup.conf" /etc/slurm/cgroup.conf
}

start_munge() {
    head -c 1024 /dev/urandom >"$slurm/munge/key"
    chown -R munge: "$slurm/munge"
    chmod 400 "$slurm/munge/key"
    su -s /bin/sh munge -c "/usr/sbin/munged --force --key-file=$slurm/munge/key \
        --socket=$slurm/munge/socket --pid-file=$slurm/munge/pid --log-file=$slurm/munge/log \
        --seed-file=$slurm/munge/seed" </dev/null
    within 10 test -s "$slurm/munge/pid"
    cp "$slurm/munge/pid" "$slurm/munged.pid"
}

controller_is_up() { timeout 5 scontrol ping 2>/dev/null | grep -q "is UP"; }
node_is_up() { timeout 5 sinfo -h -o %T 2>/dev/null | grep -qE '^(idle|mixed|allocated|completing)$'; }

start_controller() { timeout 20 slurmctld </dev/null && within 20 controller_is_up; }
start_node() { timeout 20 slurmd -N "$host" </dev/null && within 20 node_is_up; }

cluster_up() {
    write_settings
    start_munge
    start_controller && start_node || { tail "$slurm"/log/*; return 1; }
    echo "test-slurm: Slurm $(sinfo --version | cut -d' ' -f2) is up"
}

gone() { ! kill -0 "$1" 2>/dev/null; }
kill_daemon() { # SIGNAL NAME: end one of ours
    local pid
    pid=$(cat "$slurm/$2.pid" 2>/dev/null) || return 0
    kill "-$1" "$pid" 2>/dev/null || return 0
    within 5 gone "$pid" || kill -KILL "$pid" 2>/dev/null || true
}

processes_beneath() { # FOLDER: those that work there
    local process place
    for process in /proc/[0-9]*; do
        place=$(readlink "$process/cwd" 2>/dev/null) || continue
        case $place/ in "$1"/*) [ "${process#/proc/}" = $$ ] || echo "${process#/proc/}" ;; esac
    done
}

queue_is_empty() { [ -z "$(timeout 5 squeue --noheader 2>/dev/null)" ]; }

cluster_down() {
    cd /
    if [ -f "$slurm/slurmctld.pid" ]; then
        timeout 10 scancel --partition=main 2>/dev/null || true
        within 8 queue_is_empty || true
    fi
    for daemon in slurmd slurmctld munged; do kill_daemon TERM $daemon; done
    for _ in 1 2 3; do # scenarios, snakemake, job steps, frozen simulations
        for process in $(processes_beneath "$work"); do kill -KILL "$process" 2>/dev/null || true; done
    done
    umount "$work/source" 2>/dev/null || true
    if [ "$(readlink /etc/slurm/slurm.conf)" = "$slurm/slurm.conf" ]; then
        rm -f /etc/slurm/slurm.conf /etc/slurm/cgroup.conf
    fi
}

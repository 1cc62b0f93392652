#!/usr/bin/env bash
# Kills parts of a running fleet: `orderfleet up --data-dir DIR` must be running, and starts each of them again.
#
#   fleet-tests/chaos.sh DIR SECONDS [SEED [EVERY]]
#
# kill -9 a random worker every EVERY seconds (1) and the API every ten; PostgreSQL stops in immediate mode three times, spread over
# the run. Touches only processes named in DIR/pids.json and the postmaster of DIR, and stops when `up` is gone. Prints what
# it did, also when it is told to stop.
set -euo pipefail

dir=${1:?usage: chaos.sh DIR SECONDS [SEED [EVERY]]}
seconds=${2:?usage: chaos.sh DIR SECONDS [SEED [EVERY]]}
RANDOM=${3:-1}
every=${4:-1}

# Read by the shell itself, since a round must cost next to nothing: the file has one `"role": pid,` a line.
pids_of() { # pids_of ROLE: the pids of the roles that match the whole regular expression, into `pids`
    pids=()
    local line
    while read -r line || [[ $line ]]; do
        if [[ $line =~ ^\"($1)\":\ ([0-9]+) ]]; then pids+=("${BASH_REMATCH[2]}"); fi
    done <"$dir/pids.json" || true
}

workers=0 apis=0 databases=0
start=$(date +%s%N)
tell() {
    local took=$((($(date +%s%N) - start) / 1000000000))
    echo "killed: $workers workers, $apis APIs, $databases postmasters, in $took s"
}
trap tell EXIT
trap 'exit 0' TERM INT
# By the clock, not by pauses: on a busy machine one round alone may take a second.
for second in $(seq 1 "$seconds"); do
    # The numbers of processes that are gone may be somebody else's by now.
    pids_of up
    if ((${#pids[@]} == 0)) || ! kill -0 "${pids[0]}" 2>/dev/null; then break; fi
    pids_of 'worker[^"]*'
    if ((${#pids[@]} && second % every == 0)); then
        kill -9 "${pids[RANDOM % ${#pids[@]}]}" 2>/dev/null && workers=$((workers + 1)) || true
    fi
    if ((second % 10 == 0)); then
        pids_of api
        for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null && apis=$((apis + 1)) || true; done
    fi
    if ((second == seconds / 4 || second == seconds / 2 || second == seconds * 3 / 4)); then
        # SIGQUIT to the postmaster is what `pg_ctl stop -m immediate` sends.
        kill -QUIT "$(head -1 "$(find "$dir" -name postmaster.pid | head -1)")" && databases=$((databases + 1)) || true
    fi
    left=$((start + second * 1000000000 - $(date +%s%N)))
    if ((left > 0)); then sleep "$(printf '%d.%09d' $((left / 1000000000)) $((left % 1000000000)))"; fi
done

#!/usr/bin/env bash
# Kills parts of a running fleet: `orderfleet up --data-dir DIR` must be running, and starts each of them again.
#
#   fleet-tests/chaos.sh DIR SECONDS [SEED]
#
# kill -9 a random worker every second and the API every ten; PostgreSQL stops in immediate mode three times, spread over
# the run. Touches only processes named in DIR/pids.json and the postmaster of DIR. Prints what it did.
set -euo pipefail

dir=${1:?usage: chaos.sh DIR SECONDS [SEED]}
seconds=${2:?usage: chaos.sh DIR SECONDS [SEED]}
RANDOM=${3:-1}

# Read by the shell itself, since a round must cost next to nothing: the file has one `"role": pid,` a line.
pids_of() { # pids_of ROLE: the pids of the roles that match the whole regular expression, into `pids`
    pids=()
    local line
    while read -r line || [[ $line ]]; do
        if [[ $line =~ ^\"($1)\":\ ([0-9]+) ]]; then pids+=("${BASH_REMATCH[2]}"); fi
    done <"$dir/pids.json" || true
}

workers=0 apis=0 databases=0
# By the clock, not by pauses: on a busy machine one round alone may take a second.
start=$(date +%s%N)
for second in $(seq 1 "$seconds"); do
    pids_of 'worker[^"]*'
    if ((${#pids[@]})); then
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
took=$((($(date +%s%N) - start) / 1000000000))
echo "killed: $workers workers, $apis APIs, $databases postmasters, in $took s"

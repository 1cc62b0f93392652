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

pids_of() { # pids_of REGEX: the pids of the roles that match, one a line
    python3 - "$dir/pids.json" "$1" <<'PY'
import json, re, sys
try:
    roles = json.load(open(sys.argv[1]))
except (OSError, ValueError):  # being rewritten, or gone
    roles = {}
for role, pid in roles.items():
    if re.match(sys.argv[2], role):
        print(pid)
PY
}

workers=0 apis=0 databases=0
# By the clock, not by pauses: on a busy machine one round alone may take a second.
start=$(date +%s%N)
for second in $(seq 1 "$seconds"); do
    mapfile -t alive < <(pids_of '^worker')
    if ((${#alive[@]})); then
        kill -9 "${alive[RANDOM % ${#alive[@]}]}" 2>/dev/null && workers=$((workers + 1)) || true
    fi
    if ((second % 10 == 0)); then
        for pid in $(pids_of '^api$'); do kill -9 "$pid" 2>/dev/null && apis=$((apis + 1)) || true; done
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

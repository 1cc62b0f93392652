#!/usr/bin/env bash
# Orders against a gateway that fails on purpose, with workers killed all the while: then everything must agree to the cent.
#
#   fleet-tests/faults.sh ORDERS [SEED]        100000 7 is the run that docs/operating.md describes
#
# The gateway loses 5 % of its answers after executing, stores 1 % 500s (half of them although it has executed), and sends
# its events twice, late and out of order. A twentieth of the orders are cancelled at once. Every FAULTS_KILL_EVERY seconds (2) a
# worker is killed, now and then the API and PostgreSQL. When nothing is left to do, `orderfleet verify` compares with the gateway's ledger.
#
# The seed repeats the orders, which of them are cancelled, what the gateway does to the n-th request of each kind about an
# order and to each of its events (every order has an amount of its own, and luck hangs on that, not on the order of requests),
# and the sequence of roles that are killed. Not repeated are moments: which request a blow hits, who wins a race.
#
# Builds nothing: build `orderfleet` first (ORDERFLEET_EXECUTABLE names another one). Needs curl and python3. Everything is in
# ${TMPDIR:-/tmp}/orderfleet-faults-SEED, which must not be there yet and stays. Takes FAULTS_MINUTES at most (20, and one more
# for every 150 orders). Its last line is the verdict, and it exits with 0 when all is well, 1 when not, 2 when it cannot run.
# However it ends, it leaves no process behind.
set -euo pipefail

orders=${1:?usage: faults.sh ORDERS [SEED]}
seed=${2:-7}
minutes=${FAULTS_MINUTES:-$((20 + orders / 150))}
every=${FAULTS_KILL_EVERY:-2}
for number in "$orders" "$seed" "$minutes" "$every"; do
    case $number in
        '' | *[!0-9]*) echo "faults.sh: ORDERS, SEED, FAULTS_MINUTES and FAULTS_KILL_EVERY are whole numbers" >&2 && exit 2 ;;
    esac
done
if ((orders < 1 || orders > 1000000 || every < 1)); then
    echo "faults.sh: 1 to 1000000 orders, and at least 1 second between blows" >&2 && exit 2
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=${ORDERFLEET_EXECUTABLE:-${CARGO_TARGET_DIR:-$here/../target}/debug/orderfleet}
dir=${TMPDIR:-/tmp}/orderfleet-faults-$seed
for program in "$bin" curl python3; do
    command -v "$program" >/dev/null || { echo "faults.sh: there is no $program" >&2 && exit 2; }
done
mkdir "$dir" || { echo "faults.sh: take $dir away, or choose another seed" >&2 && exit 2; }
# A fleet of its own, whatever the shell has at hand.
unset DATABASE_URL ORDERFLEET_DATA_DIR

up= killing= cancelling= step= verdict="stopped"
started=$SECONDS
# Where the verdict goes, whatever is redirected when the end comes.
exec 3>&1
seconds_left() { echo $((minutes * 60 - (SECONDS - started))); }
say() { echo "faults.sh: $((SECONDS - started)) s: $*" >&2; }
fail() { verdict=$1 && exit 1; }
# Waits for a command in the background, since a signal is only heeded between commands or while waiting.
run() {
    "$@" 3>&- 9>&- &
    step=$!
    local code=0
    wait "$step" || code=$?
    step=
    return $code
}
stop() {
    local code=$?
    trap '' INT TERM HUP
    for child in $step $killing $cancelling; do kill "$child" 2>/dev/null && wait "$child" 2>/dev/null || true; done
    if [ -n "$up" ]; then kill "$up" 2>/dev/null && wait "$up" || true; fi
    if ((code == 0)); then
        echo "faults.sh: ok: $verdict" >&3
    else
        echo "faults.sh: FAILED: $verdict (seed $seed, after $((SECONDS - started)) s; everything is in $dir)" >&3
    fi
}
trap stop EXIT
trap 'exit 130' INT TERM HUP

# The orders: two products each, so chosen that no two orders cost the same.
python3 - "$orders" "$seed" >"$dir/orders.csv" <<'END'
import random, sys
orders, random = int(sys.argv[1]), random.Random(int(sys.argv[2]))
print("InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country")
numbers = list(range(orders))
random.shuffle(numbers)
for invoice, n in enumerate(numbers):
    customer = 17000 + random.randrange(500)
    for product, pence in ((f"LOW{n % 250}", n % 250 + 1), (f"HIGH{n // 250}", (n // 250 + 1) * 250)):
        print(f"{500000 + invoice},{product},PRODUCT {product},1,2010-12-01T08:00:00,{pence / 100:.2f},{customer},United Kingdom")
END

# The pipe is held open by this script alone: even when it is killed, the fleet ends.
mkfifo "$dir/pipe"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
ORDERFLEET_PARENT_PIPE=1 setsid "$bin" up --data-dir "$dir/up" --api-port "$port" --no-demo --cancel-window 0 \
    <"$dir/pipe" >"$dir/up.log" 2>&1 3>&- &
up=$!
exec 9>"$dir/pipe"
say "starting a fleet at port $port, $minutes minutes at most"
until grep -q '^ready ' "$dir/up.log"; do
    kill -0 "$up" 2>/dev/null || { tail "$dir/up.log" >&2 && fail "the fleet did not start"; }
    (($(seconds_left) > 0)) || fail "the fleet was not ready in time"
    sleep 0.2
done
# shellcheck disable=SC1091
. "$dir/up/env"

# One endpoint takes all webhooks, and this is about money: they shall not be what takes so long.
"$bin" limits set endpoint --concurrency 16 --reason "one endpoint for all" --actor faults.sh 9>&- >/dev/null
gateway="${ORDERFLEET_GATEWAY_URL%/}/_simulator"
order() { curl -fsS -m 10 -o /dev/null -d "$1" "$gateway/faults"; }
order "{\"route\": \"POST *\", \"fault\": \"answer_lost\", \"probability\": 0.05, \"seed\": $seed, \"by\": \"amount\"}"
order "{\"route\": \"POST *\", \"fault\": \"error_stored\", \"probability\": 0.005, \"seed\": $((seed + 1)), \"by\": \"amount\"}"
order "{\"route\": \"POST *\", \"fault\": \"error_stored_after\", \"probability\": 0.005, \"seed\": $((seed + 2)), \"by\": \"amount\"}"
order "{\"route\": \"webhooks\", \"fault\": \"duplicate\", \"seed\": $((seed + 3))}"
order "{\"route\": \"webhooks\", \"fault\": \"reorder\", \"delay_ms\": 5000, \"seed\": $((seed + 4)), \"by\": \"amount\"}"

# In rounds, each of which kills PostgreSQL three times too: seldom enough that something gets done in between.
round=180
(
    exec 3>&- 9>&-
    trap 'kill "$blows" 2>/dev/null; exit' TERM
    for n in $(seq 0 100000); do
        "$here/chaos.sh" "$dir/up" "$round" $((seed + n)) "$every" &
        blows=$!
        wait "$blows" || exit
    done
) >"$dir/chaos.log" 2>&1 &
killing=$!

python3 - "$dir/up/orders.results.state" "$seed" "$dir/cancels" >"$dir/cancels.log" 2>&1 3>&- 9>&- <<'END' &
# Cancels a twentieth of the orders as soon as they are taken in, until told to stop; says how it went.
import collections, json, os, random, signal, sys, time, urllib.error, urllib.request
state, seed, tally_file = sys.argv[1:]
api, key = os.environ["ORDERFLEET_API_URL"], os.environ["ORDERFLEET_API_KEY"]
tally = collections.Counter()

def cancel(order):
    headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": f"faults:{order}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{api}/api/v1/orders/{order}/cancel", b'{"reason": "changed my mind"}', headers)
    while True:
        try:
            urllib.request.urlopen(request, timeout=10).read()
            return "cancelled"
        except urllib.error.HTTPError as error:
            # With a Retry-After the same request may do better later; without one this is the answer.
            if error.code < 500 and "Retry-After" not in error.headers:
                return json.load(error).get("code", str(error.code))
        except OSError:
            pass
        time.sleep(0.2)

parent = os.getppid()
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
while not os.path.exists(state) and os.getppid() == parent:
    time.sleep(0.1)
with open(state) as lines:
    part = ""
    while os.getppid() == parent:
        part += lines.readline()
        if not part.endswith("\n"):
            time.sleep(0.05)
            continue
        line, part = part, ""
        if line.startswith("{"):
            line = json.loads(line)
            if "order" in line and random.Random(f"{seed} {line['invoice']}").random() < 0.05:
                tally[cancel(line["order"])] += 1
                with open(tally_file, "w") as file:
                    print(", ".join(f"{count} {what}" for what, count in sorted(tally.items())), file=file)
END
cancelling=$!

say "importing $orders orders; a worker is killed every $every s"
run timeout "$(seconds_left)" "$bin" import online-retail "$dir/orders.csv" >"$dir/import.log" ||
    fail "the import did not come through"
imported=$((SECONDS - started))
say "imported; waiting until nothing is left, and killing on"
left=$(($(seconds_left) / 2))
run "$bin" drain --timeout "$((left > 1 ? left : 1))" || say "not idle yet"
kill "$killing" "$cancelling" 2>/dev/null || true
wait "$killing" "$cancelling" 2>/dev/null || true
killing= cancelling=
drained=$((SECONDS - started))

say "no more killing, no more faults; what is left is done"
struck=$(curl -fsS -m 10 "$gateway/faults" | python3 -c '
import collections, json, sys
rules, tally = json.load(sys.stdin), collections.Counter()
for rule in rules.get("data", []) if isinstance(rules, dict) else rules:
    tally[rule["fault"]] += rule["fired"]
print(", ".join(f"{count} {fault}" for fault, count in sorted(tally.items())))')
curl -fsS -m 10 -X DELETE -o /dev/null "$gateway/faults"
left=$(seconds_left)
idle=ok
run "$bin" drain --timeout "$((left > 1 ? left : 1))" || idle=
verified=ok
run "$bin" verify --ledger "$ORDERFLEET_LEDGER" --receiver "$ORDERFLEET_RECEIVER_LOG" || verified=
say "cancels: $(cat "$dir/cancels" 2>/dev/null || echo none)"
say "faults: $struck"
sed 's/^/faults.sh: /' "$dir/chaos.log" >&2
[ -n "$verified" ] || fail "the books do not agree: see the lines with FAIL"
[ -n "$idle" ] || fail "time was up before the fleet was idle"
took=$((drained > 0 ? drained : 1))
verdict="$orders orders, seed $seed, taken in after $imported s, done after $drained s: $((orders * 60 / took)) a minute"

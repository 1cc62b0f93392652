#!/usr/bin/env bash
# Orders against a gateway that fails on purpose, with workers killed all the while: then everything must agree to the cent.
#
#   fleet-tests/faults.sh ORDERS [SEED]        100000 7 is the run that docs/operating.md describes
#
# The gateway loses 5 % of its answers after executing, stores 1 % 500s (half of them although it has executed), and sends
# its events twice, late and out of order. Builds nothing: build `orderfleet` first. Needs curl and python3. Everything is in
# ${TMPDIR:-/tmp}/orderfleet-faults-SEED, which must not be there yet. Ends with `orderfleet verify`, and fails as it does.
set -euo pipefail

orders=${1:?usage: faults.sh ORDERS [SEED]}
seed=${2:-7}
case $orders$seed in *[!0-9]*) echo "faults.sh: ORDERS and SEED are whole numbers" >&2 && exit 2 ;; esac
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=${ORDERFLEET_EXECUTABLE:-${CARGO_TARGET_DIR:-$here/../target}/debug/orderfleet}
dir=${TMPDIR:-/tmp}/orderfleet-faults-$seed
[ -x "$bin" ] || { echo "faults.sh: there is no $bin: cargo build -p orderfleet" >&2 && exit 2; }
mkdir "$dir" || { echo "faults.sh: take $dir away, or choose another seed" >&2 && exit 2; }

# The orders: one invoice each, with the seed's products and amounts.
python3 - "$orders" "$seed" >"$dir/orders.csv" <<'END'
import random, sys
orders, random = int(sys.argv[1]), random.Random(int(sys.argv[2]))
print("InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country")
for n in range(orders):
    product = random.randrange(200)
    print(f"{500000 + n},P{product:03},PRODUCT {product},{random.randint(1, 9)},2010-12-01T08:00:00,"
          f"{random.randint(1, 9)}.50,{17000 + random.randrange(500)},United Kingdom")
END

"$bin" up --data-dir "$dir/up" --no-demo --cancel-window 0 >"$dir/up.log" 2>&1 &
up=$!
chaos=
stop() {
    [ -z "$chaos" ] || kill "$chaos" 2>/dev/null || true
    kill "$up" 2>/dev/null && wait "$up" || true
}
trap stop EXIT
for _ in $(seq 600); do
    grep -q '^ready ' "$dir/up.log" && break
    kill -0 "$up" 2>/dev/null || { cat "$dir/up.log" >&2 && exit 1; }
    sleep 0.2
done
# shellcheck disable=SC1091
. "$dir/up/env"

order() { curl -fsS -o /dev/null -d "$1" "${ORDERFLEET_GATEWAY_URL%/}/_simulator/faults"; }
order "{\"route\": \"POST *\", \"fault\": \"answer_lost\", \"probability\": 0.05, \"seed\": $seed}"
order "{\"route\": \"POST *\", \"fault\": \"error_stored\", \"probability\": 0.005, \"seed\": $((seed + 1))}"
order "{\"route\": \"POST *\", \"fault\": \"error_stored_after\", \"probability\": 0.005, \"seed\": $((seed + 2))}"
order "{\"route\": \"webhooks\", \"fault\": \"duplicate\", \"seed\": $((seed + 3))}"
order "{\"route\": \"webhooks\", \"fault\": \"reorder\", \"delay_ms\": 5000, \"seed\": $((seed + 4))}"

"$here/chaos.sh" "$dir/up" 86400 "$seed" >"$dir/chaos.log" 2>&1 &
chaos=$!
"$bin" import online-retail "$dir/orders.csv" >"$dir/import.log" 2>&1 || { tail "$dir/import.log" >&2 && exit 1; }
kill "$chaos" 2>/dev/null || true
chaos=
curl -fsS -X DELETE -o /dev/null "${ORDERFLEET_GATEWAY_URL%/}/_simulator/faults"
"$bin" drain --timeout 3600
"$bin" verify --ledger "$ORDERFLEET_LEDGER" --receiver "$ORDERFLEET_RECEIVER_LOG"

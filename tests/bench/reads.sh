#!/usr/bin/env bash
# Reads against the Express baseline in one run, as it is and with compound indexes, over the same 200,000 messages: list 50,
# get by id, conversations. Needs Node, and the baseline folder with its load generator; loopback only, ends by itself.
#   tests/bench/reads.sh <baseline folder>      RUNS=3 SECONDS_EACH=10 CONNECTIONS=16
source "$(dirname "$0")/common.sh"
prepare "${1:?the folder of the baseline}"
runs=${RUNS:-3} each=${SECONDS_EACH:-10} connections=${CONNECTIONS:-16}
out=$work/reads.jsonl
: >"$out"

measure() { # label base-url contact
  for _ in $(seq "$runs"); do
    "$loadgen" reads --base-url "$2" --contact "$3" --connections "$connections" --duration "$each" --server-pid "$pids" --label "$1" --json |
      tee -a "$out" | python3 -c '
import json, sys
for line in sys.stdin:
    r = json.loads(line)
    print("%-9s %s" % (r["label"], {k: v for k, v in r.items() if k in ("what", "req_per_s", "errors", "latency")} or line))'
  done
}

baseline_up
measure baseline http://127.0.0.1:4100 c0ffee010000000000000000
baseline_down
COMPOUND_INDEXES=1 baseline_up
measure compound http://127.0.0.1:4100 c0ffee010000000000000000
baseline_down

(cd "$work/baseline" && node seed-data.js --ndjson "$work/seed" >&2)
petbuddy_up
hot=$(python3 tests/bench/seed.py "$gateway" "$("$loadgen" mint)" "$work/seed")
behind
measure petbuddy "$gateway" "$hot"

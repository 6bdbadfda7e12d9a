#!/usr/bin/env bash
# Ingest against the Express baseline in one run: creates per second at some numbers of connections, ours with an fsync before
# every 201 and the persister on. Needs Node, and the baseline folder with its load generator; loopback only, ends by itself.
#   tests/bench/ingest.sh <baseline folder> [connections …]      RUNS=3 SECONDS_EACH=15
source "$(dirname "$0")/common.sh"
prepare "${1:?the folder of the baseline}"
shift
conns=("${@:-64}")
runs=${RUNS:-3} each=${SECONDS_EACH:-15}
out=$work/ingest.jsonl
: >"$out"

measure() { # label base-url pids
  for _ in $(seq "$runs"); do
    for c in "${conns[@]}"; do
      "$loadgen" ingest --base-url "$2" --connections "$c" --duration "$each" --server-pid "$3" --label "$1" --json | tee -a "$out" |
        python3 -c 'import json,sys; r=json.load(sys.stdin); print("%-9s %4d connections %8.0f/s  p50 %6.2f ms  p99 %7.2f ms  errors %s" % (r["label"], r["connections"], r["req_per_s"], r["latency"]["p50_ms"], r["latency"]["p99_ms"], r["errors"]))'
      if [ "$1" = petbuddy ]; then behind; fi
    done
  done
}

baseline_up --drop
measure baseline http://127.0.0.1:4100 "$pids"
baseline_down
petbuddy_up
measure petbuddy "$gateway" "$pids"

python3 - "$out" <<'PY'
import collections, json, statistics, sys
rates = collections.defaultdict(list)
for line in open(sys.argv[1]):
    r = json.loads(line)
    rates[r["connections"], r["label"]].append(r["req_per_s"])
for c in sorted({c for c, _ in rates}):
    ours, theirs = (statistics.median(rates[c, label]) for label in ("petbuddy", "baseline"))
    print(f"{c} connections: {ours:.0f}/s against {theirs:.0f}/s, {ours / theirs:.2f} x (medians)")
PY

#!/usr/bin/env bash
# Idle sockets against the Express baseline in one run: KiB of resident memory for each of 10,000 authenticated sockets, of a
# freshly started process each time; ours by both doors. Needs Node, and the baseline folder with its load generator; loopback
# only, ends by itself.
#   tests/bench/idle.sh <baseline folder>      RUNS=3  STEPS=0,1000,5000,10000  SETTLE=10 (seconds)  DOORS="json socketio"
source "$(dirname "$0")/common.sh"
prepare "${1:?the folder of the baseline}"
runs=${RUNS:-3} steps=${STEPS:-0,1000,5000,10000} settle=${SETTLE:-10} doors=${DOORS:-json socketio}
room_for "${steps##*,}"
out=$work/idle.jsonl
: >"$out"

measure() { # label socket-url mode pid
  "$loadgen" idle --ws-url "$2" --ws-mode "$3" --steps "$steps" --settle "$settle" --server-pid "$4" --label "$1" --json | tee -a "$out" |
    python3 -c '
import json, sys
r = json.load(sys.stdin)
for s in r["steps"]:
    print("%-17s %6d sockets  %9d KiB  %s KiB each  %d closed, %d not opened" % (
        r["label"], s["sockets"], s["rss_kib"], s["kib_per_socket"], s["closed"], r["failed"]))'
}

for _ in $(seq "$runs"); do
  baseline_up --drop
  measure baseline http://127.0.0.1:4100 socketio "$server"
  baseline_down
  for door in $doors; do
    petbuddy_up
    measure "$(door_name "$door")" "$(of_run 'r["realtime"]')" "$door" "$(of_run 'r["pids"]["realtime"]')"
    petbuddy_down
  done
done

python3 - "$out" <<'PY'
import collections, json, statistics, sys
found = collections.defaultdict(list)
for line in open(sys.argv[1]):
    r = json.loads(line)
    for s in r["steps"]:
        if s["kib_per_socket"] is not None:
            found[s["sockets"], r["label"]].append(s["kib_per_socket"])
median = {key: statistics.median(values) for key, values in found.items()}
print("\nmedians, and as a part of the baseline")
for (sockets, label), value in sorted(median.items()):
    theirs = median.get((sockets, "baseline"))
    print(f"{sockets:6d} sockets  {label:17s} {value:7.2f} KiB each  {f'{value / theirs:.2f} x' if theirs else ''}")
PY

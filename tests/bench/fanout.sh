#!/usr/bin/env bash
# Fan-out against the Express baseline in one run: messages posted over REST, received by every socket of one company. Deliveries
# per second and p99 from the POST to the last byte of the frame, at a fixed rate and at the highest rate with p99 < 250 ms; ours
# by both doors. Needs Node, and the baseline folder with its load generator; loopback only, ends by itself.
#   tests/bench/fanout.sh <baseline folder> [sockets …]
#   RUNS=3  SECONDS_EACH=15  RATE=20 (messages a second)  TRIAL=5 (seconds of one trial of the search)  DOORS="json socketio"
#   WHAT="rate max" (at RATE, the highest rate)
source "$(dirname "$0")/common.sh"
prepare "${1:?the folder of the baseline}"
shift
sockets=("${@:-1000}")
[ $# -gt 0 ] || sockets=(1000 5000)
runs=${RUNS:-3} each=${SECONDS_EACH:-15} rate=${RATE:-20} trial=${TRIAL:-5} what=${WHAT:-rate max} doors=${DOORS:-json socketio}
most=$(printf '%s\n' "${sockets[@]}" | sort -n | tail -1)
room_for "$most"
out=$work/fanout.jsonl
: >"$out"

measure() { # label base-url socket-url mode pids
  for _ in $(seq "$runs"); do
    for n in "${sockets[@]}"; do
      common=(--base-url "$2" --ws-url "$3" --ws-mode "$4" --sockets "$n" --server-pid "$5" --label "$1" --json)
      for w in $what; do
        case $w in
          rate) "$loadgen" fanout --rate "$rate" --duration "$each" "${common[@]}" ;;
          # It starts where the baseline is about at its end, and halves or doubles from there.
          max) "$loadgen" fanout --find-max --rate "$((n < 100 ? 200 : 20000 / n + 1))" --trial "$trial" "${common[@]}" ;;
        esac | tee -a "$out" | show
        sleep 1
      done
    done
  done
}

show() {
  python3 -c '
import json, sys
for line in sys.stdin:
    r = json.loads(line)
    head = "%-17s %5d sockets " % (r["label"], r["sockets"])
    if r["scenario"] == "fanout-max":
        print(head + "%8.1f messages/s at most, %9.0f deliveries/s" % (r["max_rate"], r["max_deliveries_per_s"]))
    else:
        print(head + "%9.0f deliveries/s  p50 %7.2f ms  p99 %8.2f ms  lost %d  twice %d  sockets closed %d" % (
            r["deliveries_per_s"], r["end_to_end"]["p50_ms"], r["end_to_end"]["p99_ms"], r["lost"], r["duplicates"], r["sockets_closed"]))
    if r["sockets_failed"]:
        print("          %d sockets could not be opened" % r["sockets_failed"])'
}

baseline_up --drop
measure baseline http://127.0.0.1:4100 http://127.0.0.1:4100 socketio "$pids"
baseline_down
petbuddy_up
realtime=$(of_run 'r["realtime"]')
for door in $doors; do
  measure "$(door_name "$door")" "$gateway" "$realtime" "$door" "$pids"
done
petbuddy_down

python3 - "$out" <<'PY'
import collections, json, statistics, sys
found = collections.defaultdict(list)
for line in open(sys.argv[1]):
    r = json.loads(line)
    at = r["sockets"], r["label"]
    if r["scenario"] == "fanout-max":
        found[at, "most"].append(r["max_deliveries_per_s"])
    else:
        found[at, "rate"].append(r["deliveries_per_s"])
        found[at, "p99"].append(r["end_to_end"]["p99_ms"])
        found[at, "lost"].append(r["lost"])
median = {key: statistics.median(values) for key, values in found.items()}
print("\nmedians, and as a multiple of the baseline")
for (at, name), value in sorted(median.items()):
    theirs = median.get(((at[0], "baseline"), name))
    words = {"most": "deliveries/s with p99 < 250 ms", "rate": "deliveries/s", "p99": "ms, p99", "lost": "lost"}[name]
    times = f"{value / theirs:.2f} x" if theirs and name != "lost" else ""
    print(f"{at[0]:6d} sockets  {at[1]:17s} {value:12.1f} {words:31s} {times}")
PY

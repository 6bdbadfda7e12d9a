#!/usr/bin/env bash
# Ingest against the Express baseline in one run: creates per second at some numbers of connections, ours with an fsync before
# every 201 and the persister on. Needs Node, and the baseline folder with its load generator; loopback only, ends by itself.
#   tests/bench/ingest.sh <baseline folder> [connections …]      RUNS=3 SECONDS_EACH=15
set -euo pipefail
cd "$(dirname "$0")/../.."
baseline=${1:?the folder of the baseline}
shift
conns=("${@:-64}")
runs=${RUNS:-3} each=${SECONDS_EACH:-15}
work=$PWD/target/bench
mkdir -p "$work"
export JWT_ACCESS_SECRET=0123456789abcdef0123456789abcdef
if [ ! -x "$work/baseline/loadgen/target/release/loadgen" ]; then
  rm -rf "$work/baseline" && cp -r "$baseline" "$work/baseline" && chmod -R u+w "$work/baseline"
  (cd "$work/baseline" && npm ci --silent && cd loadgen && cargo build --release --quiet)
fi
cargo build --release --quiet -p petbuddy
loadgen=$work/baseline/loadgen/target/release/loadgen
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

behind() { # how long the persister needs to write what it had not yet
  python3 - "$work/run/run.json" <<'PY'
import json, sys, time, urllib.request
url = json.load(open(sys.argv[1]))["services"]["persister"][0] + "/health"
start, first = time.time(), None
while time.time() - start < 120:
    lag = json.load(urllib.request.urlopen(url))["checks"]["lag"]
    n = lag["detail"]["pending"] + lag["detail"]["in_work"] if isinstance(lag["detail"], dict) else 0
    first = n if first is None else first
    if n == 0:
        break
    time.sleep(0.2)
print("          persister: %d events behind at the end, caught up after %.1f s" % (first, time.time() - start))
PY
}

MONGOD=${MONGOD:-$(command -v mongod || ls "${PETBUDDY_CACHE:-$HOME/.cache/petbuddy}"/*/fiftyone/db/bin/mongod | head -1)}
export MONGOD
cd "$work/baseline"
mongo=$(./mongo.sh standalone)
node seed-data.js --drop
./serve.sh >"$work/baseline.out" 2>&1 &
server=$!
trap 'kill $server $mongo 2>/dev/null || true' EXIT
until curl -fs -o /dev/null http://127.0.0.1:4100/health; do sleep 0.1; done
measure baseline http://127.0.0.1:4100 "$server,$mongo"
kill $server $mongo
wait $server 2>/dev/null || true
trap - EXIT

rm -rf "$work/run"
mkfifo "$work/stdin.$$"
# One caller makes all the load.
RATE_LIMIT_MAX=0 RATE_LIMIT_SERVICE_MAX=0 RATE_LIMIT_AUTH_MAX=0 \
  "$work/../release/petbuddy" up --free-ports --until-stdin-closes --dir "$work/run" <"$work/stdin.$$" >"$work/petbuddy.out" 2>&1 &
server=$!
exec 9>"$work/stdin.$$"
trap 'exec 9>&-; rm -f "$work/stdin.$$"; wait $server 2>/dev/null || true' EXIT
until [ -f "$work/run/run.json" ]; do kill -0 $server; sleep 0.1; done
gateway=$(python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["gateway"])' "$work/run/run.json")
pids=$(python3 -c 'import json,sys; print(",".join(str(p) for p in json.load(open(sys.argv[1]))["pids"].values()))' "$work/run/run.json")
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

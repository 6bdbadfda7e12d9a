# What the benchmarks share; sourced, not run. Loopback only; whatever is started here ends with the script.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
work=$PWD/target/bench
mkdir -p "$work"
export JWT_ACCESS_SECRET=0123456789abcdef0123456789abcdef
# What is measured is the work, not its refusal.
export RATE_LIMIT_MAX=0 RATE_LIMIT_SERVICE_MAX=0 RATE_LIMIT_AUTH_MAX=0

prepare() { # baseline folder
  if [ ! -x "$work/baseline/loadgen/target/release/loadgen" ]; then
    rm -rf "$work/baseline" && cp -r "$1" "$work/baseline" && chmod -R u+w "$work/baseline"
    (cd "$work/baseline" && npm ci --silent && cd loadgen && cargo build --release --quiet)
  fi
  cargo build --release --quiet -p petbuddy
  loadgen=$work/baseline/loadgen/target/release/loadgen
  MONGOD=${MONGOD:-$(command -v mongod || ls "${PETBUDDY_CACHE:-$HOME/.cache/petbuddy}"/*/fiftyone/db/bin/mongod | head -1)}
  export MONGOD
}

baseline_up() { # arguments of seed-data.js; sets $pids
  mongo=$(cd "$work/baseline" && ./mongo.sh standalone)
  trap 'kill $mongo 2>/dev/null || true' EXIT
  (cd "$work/baseline" && node seed-data.js "$@" >&2)
  (cd "$work/baseline" && exec ./serve.sh) >"$work/baseline.out" 2>&1 &
  server=$!
  trap 'kill $server $mongo 2>/dev/null || true' EXIT
  until curl -fs -o /dev/null http://127.0.0.1:4100/health; do sleep 0.1; done
  pids=$server,$mongo
}

baseline_down() {
  kill "$server" "$mongo"
  wait "$server" 2>/dev/null || true
  while kill -0 "$mongo" 2>/dev/null; do sleep 0.1; done
  trap - EXIT
}

petbuddy_up() { # sets $gateway and $pids
  rm -rf "$work/run"
  mkfifo "$work/stdin.$$"
  "$work/../release/petbuddy" up --free-ports --until-stdin-closes --dir "$work/run" <"$work/stdin.$$" >"$work/petbuddy.out" 2>&1 &
  server=$!
  exec 9>"$work/stdin.$$"
  trap petbuddy_down EXIT
  until [ -f "$work/run/run.json" ]; do kill -0 $server; sleep 0.1; done
  gateway=$(of_run 'r["gateway"]')
  pids=$(of_run '",".join(str(p) for p in r["pids"].values())')
}

petbuddy_down() {
  exec 9>&-
  rm -f "$work/stdin.$$"
  wait "$server" 2>/dev/null || true
  trap - EXIT
}

of_run() { # an expression over run.json
  python3 -c 'import json,sys; r=json.load(open(sys.argv[1])); print(eval(sys.argv[2]))' "$work/run/run.json" "$1"
}

behind() { # waits until the persister has written what it had not yet, and says how long
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

room_for() { # sockets: both sides open a file for each, and all of them are one user's
  local files=$(($1 + 2000))
  ulimit -n "$files" 2>/dev/null || { echo "$1 sockets need $files open files; ulimit -n allows $(ulimit -Hn)" >&2; exit 1; }
  export MAX_SOCKETS=$files MAX_SOCKETS_PER_USER=$files
}

door_name() { # mode of the load generator
  case $1 in json) echo /ws ;; socketio) echo /socket.io/ ;; *) echo "no such door: $1" >&2; exit 1 ;; esac
}

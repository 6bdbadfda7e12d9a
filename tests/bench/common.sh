# What the benchmarks share; sourced, not run. README.md beside this file describes the variables.
# Everything listens on loopback only, and everything that is started here ends with the script.
set -euo pipefail
[ -z "${PETBUDDY_BIN:-}" ] || PETBUDDY_BIN=$(realpath "$PETBUDDY_BIN")
[ -z "${AGAINST:-}" ] || AGAINST=$(realpath "$AGAINST")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
bench=$PWD/tests/bench
target=${CARGO_TARGET_DIR:-$PWD/target}
work=$target/bench
results=$work/results
state=$work/state

runs=${RUNS:-3}
warm_seconds=${WARM_SECONDS:-6}
transports=${TRANSPORTS:-ws socketio}

# The systems under test are started here, in settings of their own.
unset NATS_URL MONGODB_URI META_BOT_BASE_URL PETBUDDY_CONFIG LOG_LEVEL NODE_ENV
export JWT_ACCESS_SECRET=0123456789abcdef0123456789abcdef
# The work is measured, not its refusal.
export RATE_LIMIT_MAX=0 RATE_LIMIT_SERVICE_MAX=0 RATE_LIMIT_AUTH_MAX=0
express_url=http://127.0.0.1:4100
mongo_port=37217

fail() {
  echo "$*" >&2
  exit 1
}

# Builds what is measured and what measures, and empties the state and results of the run before.
# Sets `contenders`: express (with Node), against (with AGAINST), petbuddy.
prepare() { # name of the result file
  contenders=()
  petbuddy=${PETBUDDY_BIN:-}
  if [ -z "$petbuddy" ]; then
    cargo build --profile dist --quiet --locked -p petbuddy
    petbuddy=$target/dist/petbuddy
  fi
  [ -x "$petbuddy" ] || fail "there is no program $petbuddy"
  loadgen=$work/loadgen/release/loadgen
  cargo build --release --quiet --locked --manifest-path "$bench/loadgen/Cargo.toml" \
    --target-dir "$work/loadgen"
  rm -rf "$state"
  mkdir -p "$state" "$results"
  out=$results/$1.jsonl
  : >"$out"
  if command -v node >/dev/null && command -v npm >/dev/null; then
    install_express
    contenders+=(express)
  else
    echo 'There is no Node on PATH: the Express backend is not measured.' >&2
  fi
  if [ -n "${AGAINST:-}" ]; then
    [ -x "$AGAINST" ] || fail "there is no program $AGAINST"
    contenders+=(against)
  fi
  contenders+=(petbuddy)
}

install_express() { # the packages go to the target folder, and only when they have changed
  express=$work/express-$(sha256sum <"$bench/baseline/package-lock.json" | cut -c1-16)
  if [ ! -d "$express/node_modules" ]; then
    rm -rf "$express" "$express.part"
    mkdir -p "$express.part"
    cp "$bench/baseline/package.json" "$bench/baseline/package-lock.json" "$express.part"
    (cd "$express.part" && npm ci --silent --no-audit --no-fund >&2)
    mv "$express.part" "$express"
  fi
  cp "$bench"/baseline/*.js "$express"
  find_mongod
  if [ -z "$mongod" ]; then # `petbuddy up` fetches one
    up petbuddy
    down
    find_mongod
  fi
  [ -n "$mongod" ] || fail 'there is no mongod; MONGOD names one'
}

find_mongod() {
  local cached=("${PETBUDDY_CACHE:-$HOME/.cache/petbuddy}"/*/fiftyone/db/bin/mongod)
  mongod=${MONGOD:-$(command -v mongod || true)}
  if [ -z "$mongod" ] && [ -x "${cached[0]}" ]; then mongod=${cached[0]}; fi
}

# The contenders of a round. Every second round is in reverse order, so that a machine that gets
# faster or slower in the course of the run favours nobody.
in_turn() { # round
  if [ $(($1 % 2)) = 1 ]; then
    printf '%s\n' "${contenders[@]}"
  else
    printf '%s\n' "${contenders[@]}" | tac
  fi
}

# Starts a contender on the state that it left in its last round. Sets `label`, `rest_url`,
# `socket_url`, `pids` (all processes, with commas) and `socket_pid` (the one with the sockets).
up() { # express | express+indexes | against | petbuddy
  label=$1
  folder=$state/$label
  mkdir -p "$folder"
  case $label in
    express*) express_up ;;
    against) petbuddy_up "$AGAINST" ;;
    petbuddy) petbuddy_up "$petbuddy" ;;
  esac
}

down() {
  case $label in
    express*) express_down ;;
    *) petbuddy_down ;;
  esac
}

express_up() {
  local indexes=0
  [ "$label" = express ] || indexes=1
  mkdir -p "$folder/db"
  "$mongod" --dbpath "$folder/db" --port $mongo_port --bind_ip 127.0.0.1 --quiet \
    --logpath "$folder/mongod.log" --logappend --unixSocketPrefix "$folder" \
    --wiredTigerCacheSizeGB 2 >/dev/null &
  mongo=$!
  server=
  trap express_down EXIT
  until (exec 3<>/dev/tcp/127.0.0.1/$mongo_port) 2>/dev/null; do
    kill -0 "$mongo" 2>/dev/null || fail "mongod has ended: $folder/mongod.log"
    sleep 0.1
  done
  (
    cd "$express"
    export NODE_ENV=production HOST=127.0.0.1 PORT=${express_url##*:}
    export RATE_LIMIT_MAX=1000000000
    export MONGODB_URI=mongodb://127.0.0.1:$mongo_port/baseline LOG_DIR=$folder/logs
    export COMPOUND_INDEXES=$indexes
    exec node server.js
  ) >>"$folder/server.out" 2>&1 &
  server=$!
  until curl -fs -o /dev/null $express_url/health; do
    kill -0 "$server" 2>/dev/null || fail "the Express backend has ended: $folder/server.out"
    sleep 0.1
  done
  rest_url=$express_url socket_url=$express_url pids=$server,$mongo socket_pid=$server
}

express_down() {
  trap - EXIT
  # shellcheck disable=SC2086 # `server` is empty where mongod did not start
  kill $server "$mongo" 2>/dev/null || true
  wait || true
}

petbuddy_up() { # program
  local stdin=$work/stdin.$$
  rm -f "$folder/run.json" "$stdin"
  mkfifo "$stdin"
  "$1" up --free-ports --until-stdin-closes --dir "$folder" <"$stdin" >>"$folder/console.out" 2>&1 &
  server=$!
  # While this is open the system runs; it closes with the script, however that ends.
  exec 9>"$stdin"
  rm -f "$stdin"
  trap petbuddy_down EXIT
  until [ -f "$folder/run.json" ]; do
    kill -0 "$server" 2>/dev/null || fail "petbuddy has ended: $folder/console.out"
    sleep 0.1
  done
  rest_url=$(of_run 'run["gateway"]')
  socket_url=$(of_run 'run["realtime"]')
  pids=$(of_run '",".join(str(pid) for pid in run["pids"].values())')
  socket_pid=$(of_run 'run["pids"]["realtime"]')
}

petbuddy_down() {
  trap - EXIT
  exec 9>&-
  wait "$server" || true
}

of_run() { # a Python expression over run.json
  python3 -c 'import json, sys; run = json.load(open(sys.argv[1])); print(eval(sys.argv[2]))' \
    "$folder/run.json" "$1"
}

# Load that is not measured: a process that has just been started is slower.
warm_up() {
  [ "$warm_seconds" != 0 ] || return 0
  "$loadgen" ingest --base-url "$rest_url" --connections 32 --warmup 0 \
    --duration "$warm_seconds" >/dev/null
  caught_up >/dev/null
}

# Waits until the persister has written everything that was accepted, and says how long that took.
caught_up() {
  case $label in express*) return 0 ;; esac
  python3 "$bench/caught_up.py" "$folder/run.json"
}

# Runs the load generator on the contender.
measure() { # scenario, its arguments
  "$loadgen" "$@" --base-url "$rest_url" --label "$label" | keep
}

# Keeps a result, and shows it in a line.
keep() {
  tee -a "$out" | python3 "$bench/summary.py" --lines
}

# The transports that a contender has; the Express backend has but one.
transports_of() { # label
  case $1 in express*) echo socketio ;; *) echo "$transports" ;; esac
}

# Both ends open a file for each socket, and all sockets belong to one user.
allow_sockets() { # count
  local files=$(($1 + 2000))
  ulimit -n "$files" 2>/dev/null ||
    fail "$1 sockets need $files open files; ulimit allows $(ulimit -Hn)"
  export MAX_SOCKETS=$files MAX_SOCKETS_PER_USER=$files
}

summary() {
  echo
  python3 "$bench/summary.py" "$out"
}

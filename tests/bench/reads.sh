#!/usr/bin/env bash
# Reads a second over the same 200,000 messages: a page of 50, one message by its id, the list of
# conversations. The Express backend is measured as it is, and with compound indexes.
#   tests/bench/reads.sh [connections]      (16)
#   RUNS=3  SECONDS_EACH=10  and the variables of README.md
source "$(dirname "$0")/common.sh"
connections=${1:-16} seconds=${SECONDS_EACH:-10}
prepare reads
if [ "${contenders[0]}" = express ]; then contenders=(express+indexes "${contenders[@]}"); fi

python3 "$bench/seed.py" write "$state/seed"
for contender in "${contenders[@]}"; do
  echo "$contender takes in the messages" >&2
  up "$contender"
  case $contender in
    express*)
      (cd "$express" && node load.js "mongodb://127.0.0.1:$mongo_port/baseline" "$state/seed")
      echo c0ffee010000000000000000 >"$folder/contact"
      ;;
    *)
      token=$("$loadgen" mint)
      python3 "$bench/seed.py" post "$state/seed" "$rest_url" "$token" >"$folder/contact"
      caught_up
      ;;
  esac
  down
done

for round in $(seq "$runs"); do
  for contender in $(in_turn "$round"); do
    up "$contender"
    reads=(--contact "$(cat "$folder/contact")" --connections "$connections")
    "$loadgen" reads --base-url "$rest_url" "${reads[@]}" --warmup 0 --duration 2 >/dev/null
    measure reads "${reads[@]}" --duration "$seconds" --server-pid "$pids"
    down
  done
done
summary

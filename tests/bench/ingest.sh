#!/usr/bin/env bash
# Messages created a second, at some numbers of connections. Ours are written to disk (fsync) before
# each 201, and the persister writes them to MongoDB meanwhile.
#   tests/bench/ingest.sh [connections …]      (1 64)
#   RUNS=3  SECONDS_EACH=15  and the variables of README.md
source "$(dirname "$0")/common.sh"
connections=("$@")
[ $# -gt 0 ] || connections=(1 64)
seconds=${SECONDS_EACH:-15}
prepare ingest

for round in $(seq "$runs"); do
  for contender in $(in_turn "$round"); do
    up "$contender"
    warm_up
    for count in "${connections[@]}"; do
      measure ingest --connections "$count" --duration "$seconds" --server-pid "$pids"
      caught_up
    done
    down
  done
done
summary

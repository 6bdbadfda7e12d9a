#!/usr/bin/env bash
# Idle sockets: KiB of resident memory for each authenticated socket, of a process that has just
# been started.
#   tests/bench/idle.sh [steps]      (0,1000,5000,10000: sockets that are open at each step)
#   RUNS=3  SETTLE=10 (seconds from the last socket to the reading)  and the variables of README.md
source "$(dirname "$0")/common.sh"
steps=${1:-0,1000,5000,10000} settle=${SETTLE:-10}
allow_sockets "${steps##*,}"
prepare idle

for round in $(seq "$runs"); do
  for contender in $(in_turn "$round"); do
    for transport in $(transports_of "$contender"); do
      up "$contender"
      measure idle --socket-url "$socket_url" --transport "$transport" --steps "$steps" \
        --settle "$settle" --server-pid "$socket_pid"
      down
    done
  done
done
summary

#!/usr/bin/env bash
# Fan-out: messages are posted over REST and received by every socket of one company. Deliveries a
# second and p99 from the POST to the frame, at a fixed rate, and the highest rate with nothing lost
# and p99 < 250 ms.
#   tests/bench/fanout.sh [sockets …]      (1000 5000)
#   RUNS=3  SECONDS_EACH=15  RATE=20 (messages a second)  TRIAL=5 (seconds of a trial of the search)
#   WHAT="rate max" (at RATE, the highest rate)  and the variables of README.md
source "$(dirname "$0")/common.sh"
sockets=("$@")
[ $# -gt 0 ] || sockets=(1000 5000)
seconds=${SECONDS_EACH:-15} rate=${RATE:-20} trial=${TRIAL:-5} what=${WHAT:-rate max}
allow_sockets "$(printf '%s\n' "${sockets[@]}" | sort -n | tail -1)"
prepare fanout

fan_out() { # transport, sockets
  local common=(--socket-url "$socket_url" --transport "$1" --sockets "$2" --server-pid "$pids")
  for kind in $what; do
    case $kind in
      rate) measure fanout --rate "$rate" --duration "$seconds" "${common[@]}" ;;
      # The search begins about where the Express backend ends.
      max)
        local first=$(($2 < 100 ? 200 : 20000 / $2 + 1))
        measure fanout --find-max --rate "$first" --trial "$trial" "${common[@]}"
        ;;
      *) fail "WHAT=$what: rate and max are known" ;;
    esac
    sleep 1
  done
}

for round in $(seq "$runs"); do
  for contender in $(in_turn "$round"); do
    up "$contender"
    warm_up
    for transport in $(transports_of "$contender"); do
      for count in "${sockets[@]}"; do
        fan_out "$transport" "$count"
      done
    done
    down
  done
done
summary

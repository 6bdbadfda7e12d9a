#!/usr/bin/env bash
# Operators' messages a second that reach a bot which answers at once, in some numbers of
# conversations; those of one conversation go one after another. The Express backend does not wait
# for the bot, so it is not measured.
#   tests/bench/deliver.sh [conversations …]      (1 100)
#   RUNS=3  MESSAGES=2000 (of each figure)  and the variables of README.md
source "$(dirname "$0")/common.sh"
conversations=("$@")
[ $# -gt 0 ] || conversations=(1 100)
messages=${MESSAGES:-2000}
prepare deliver
if [ "${contenders[0]}" = express ]; then contenders=("${contenders[@]:1}"); fi
# The work is measured, not its limit.
export FORWARDER_MAX_CALLS_PER_SECOND=10000

for round in $(seq "$runs"); do
  for contender in $(in_turn "$round"); do
    up "$contender"
    warm_up
    for count in "${conversations[@]}"; do
      python3 "$bench/deliver.py" "$folder/run.json" "$label" "$messages" "$count" | keep
      caught_up
    done
    down
  done
done
summary

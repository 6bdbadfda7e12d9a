#!/usr/bin/env bash
# Messages created a second on three nats-servers that keep everything three times, against one
# nats-server, all on this machine. In the table `petbuddy` is the cluster, `single` the one server.
#   tests/bench/cluster.sh [connections …]      (1 64)
#   RUNS=3  SECONDS_EACH=15  and the variables of README.md
source "$(dirname "$0")/common.sh"
connections=("$@")
[ $# -gt 0 ] || connections=(1 64)
seconds=${SECONDS_EACH:-15}
prepare cluster
contenders=(single petbuddy)
nats_server=$("$petbuddy" servers | sed -n 's/^nats-server //p')
password=p-of-the-benchmark
hosts=(127.0.0.31 127.0.0.32 127.0.0.33)

cluster_up() {
  local routes users host
  routes=$(printf '"nats-route://route:%s@%s:6222",' "$password" "${hosts[0]}" \
    "$password" "${hosts[1]}" "$password" "${hosts[2]}")
  for users in GATEWAY PERSISTER FORWARDER SCHEDULER REALTIME OPERATOR; do
    export "NATS_${users}_PASSWORD=$password"
  done
  nats=()
  trap 'kill "${nats[@]}" 2>/dev/null || true' EXIT
  for host in "${hosts[@]}"; do
    NATS_SERVER_NAME=$host NATS_STORE_DIR="\"$folder/$host\"" NATS_MAX_FILE_STORE=16GB \
      NATS_ROUTE_PASSWORD=$password NATS_ROUTES="[${routes%,}]" \
      "$nats_server" -c "$PWD/nats/server/cluster.conf" -a "$host" \
      --cluster "nats://route:$password@$host:6222" >>"$folder/$host.out" 2>&1 &
    nats+=($!)
  done
  for host in "${hosts[@]}"; do
    until curl -fs -o /dev/null "http://$host:8222/healthz"; do sleep 0.1; done
  done
  NATS_URL=$(printf 'nats://%s:4222,' "${hosts[@]}")
  export NATS_URL=${NATS_URL%,} NATS_REPLICAS=3
}

cluster_down() {
  unset NATS_URL NATS_REPLICAS
  kill "${nats[@]}"
  wait "${nats[@]}" || true
}

for round in $(seq "$runs"); do
  for contender in $(in_turn "$round"); do
    label=$contender
    folder=$state/$label
    mkdir -p "$folder"
    [ "$label" = single ] || cluster_up
    petbuddy_up "$petbuddy"
    [ "$label" = single ] || pids=$pids,$(IFS=,; echo "${nats[*]}")
    warm_up
    for count in "${connections[@]}"; do
      measure ingest --connections "$count" --duration "$seconds" --server-pid "$pids"
      caught_up
    done
    petbuddy_down
    [ "$label" = single ] || cluster_down
  done
done
summary

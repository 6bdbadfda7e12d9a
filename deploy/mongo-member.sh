#!/bin/sh
# One member of the replica set, from MONGO_REPLICA_KEY and MONGO_CACHE_GB (GB of memory for its cache).
# mongod takes the key that the members share from a file only, and only from one that nobody else can read.
set -eu
umask 077
key_file=/run/mongodb/replica.key # on a tmpfs
printf '%s' "$MONGO_REPLICA_KEY" > "$key_file"
chown mongodb:mongodb "$key_file"
unset MONGO_REPLICA_KEY
exec docker-entrypoint.sh mongod --replSet rs0 --bind_ip_all --port 27017 --keyFile "$key_file" \
  --wiredTigerCacheSizeGB "$MONGO_CACHE_GB"

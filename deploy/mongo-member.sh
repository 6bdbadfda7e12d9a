#!/bin/sh
# Starts one member of the replica set. Environment: MONGO_REPLICA_KEY, and MONGO_CACHE_GB (memory
# for the cache, in GB). mongod reads the members' shared key only from a file that only its
# owner can read.
set -eu
umask 077
key_file=/run/mongodb/replica.key # on a tmpfs
printf '%s' "$MONGO_REPLICA_KEY" > "$key_file"
chown mongodb:mongodb "$key_file"
unset MONGO_REPLICA_KEY
exec docker-entrypoint.sh mongod --replSet rs0 --bind_ip_all --port 27017 --keyFile "$key_file" \
  --wiredTigerCacheSizeGB "$MONGO_CACHE_GB"

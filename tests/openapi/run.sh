#!/usr/bin/env bash
# Validates gateway/openapi.json, and runs schemathesis, with all checks and phases, against a
# running gateway and its /openapi.json. pip fetches both tools into the cache folder if they are
# missing. Uses loopback only. All processes that the script starts end with it.
#   tests/openapi/run.sh      EXAMPLES=25 (generated inputs for each operation)   SEED=1
set -euo pipefail
cd "$(dirname "$0")/../.."
version=4.32.5
validator=0.9.0
cache=${PETBUDDY_CACHE:-$HOME/.cache/petbuddy}/openapi-$version-$validator
if [ ! -d "$cache" ]; then
  echo "fetching schemathesis $version and openapi-spec-validator $validator into $cache"
  rm -rf "$cache.part"
  python3 -m pip install --quiet --target "$cache.part" "schemathesis==$version" "openapi-spec-validator==$validator"
  mv "$cache.part" "$cache"
fi
PYTHONPATH=$cache python3 -m openapi_spec_validator gateway/openapi.json
cargo build --quiet --locked -p petbuddy
work=$(mktemp -d "${TMPDIR:-/tmp}/petbuddy-openapi.XXXXXX")
mkfifo "$work/stdin"
RATE_LIMIT_MAX=0 RATE_LIMIT_SERVICE_MAX=0 RATE_LIMIT_AUTH_MAX=0 BCRYPT_SALT_ROUNDS=10 \
  target/debug/petbuddy up --free-ports --until-stdin-closes --dir "$work/run" <"$work/stdin" >"$work/petbuddy.out" 2>&1 &
server=$!
exec 9>"$work/stdin"
trap 'exec 9>&-; wait $server 2>/dev/null || true; rm -rf "$work"' EXIT
until [ -f "$work/run/run.json" ]; do kill -0 $server || { cat "$work/petbuddy.out"; exit 1; }; sleep 0.2; done
gateway=$(python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["gateway"])' "$work/run/run.json")
read -r token company < <(python3 - "$gateway" <<'PY'
import json, sys, urllib.request
body = {"company_name": "Schema Clinic", "fullName": "Test Manager", "email": "manager@example.com", "password": "correct horse"}
request = urllib.request.Request(sys.argv[1] + "/api/v1/auth/register", json.dumps(body).encode(), {"Content-Type": "application/json"})
answer = json.load(urllib.request.urlopen(request))
print(answer["accessToken"], answer["company"]["_id"])
PY
)
config=$PWD/tests/openapi/schemathesis.toml
# One worker, because two workers can make CPython's parser fail (gh-106905).
cd "$work" # it keeps what it has found where it runs
COMPANY_ID=$company PYTHONPATH=$cache python3 -m schemathesis.cli --config-file "$config" run "$gateway/openapi.json" --header "Authorization: Bearer $token" \
  --max-examples "${EXAMPLES:-25}" --seed "${SEED:-1}" --workers 1 "$@"

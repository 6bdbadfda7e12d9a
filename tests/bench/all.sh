#!/usr/bin/env bash
# All benchmarks one after another, and one table of their medians at the end. About 70 minutes.
#   tests/bench/all.sh      (the variables of README.md)
set -euo pipefail
bench=$(cd "$(dirname "$0")" && pwd)
results=${CARGO_TARGET_DIR:-$bench/../../target}/bench/results
names=(ingest fanout idle reads)
for name in "${names[@]}"; do
  printf '\n== %s\n' "$name"
  "$bench/$name.sh"
done
printf '\n== all\n'
files=("${names[@]/%/.jsonl}")
python3 "$bench/summary.py" "${files[@]/#/$results/}"

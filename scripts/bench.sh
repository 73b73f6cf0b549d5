#!/usr/bin/env bash
#
# Compares this tool's speed with LightRAG's own migration and with the servers' own loaders and readers, on this machine,
# in one run.
#
#   scripts/bench.sh --quick       a minute or two, to check that it works
#   scripts/bench.sh --help        list the options
#   scripts/bench.sh               everything: an hour or two on a machine of usual speed, and 30 GB of disk
#   scripts/bench.sh --append …    a part of it, such as --records 20000 --workspaces 0, added to the parts before
#   scripts/bench.sh --alone --records 100000,1000000   how the time grows with the cache, without the other programs
#
# It starts its own servers (scripts/services.sh --benchmark) unless they run, and then stops them. The data is generated in
# ${XDG_CACHE_HOME:-~/.cache}/migrate-llm-cache/bench. Run nothing else on the machine at the same time.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONDONTWRITEBYTECODE=1

has_flag() { # FLAG ARGUMENT…
  local flag=$1 argument
  shift
  for argument in "$@"; do
    if [[ $argument == "$flag" || $argument == "$flag="* ]]; then return 0; fi
  done
  return 1
}

for flag in --help -h --from; do
  if has_flag "$flag" "$@"; then exec python3 scripts/bench "$@"; fi
done

bench=""
stop_servers=""
finish() {
  local status=$?
  if [[ -n $bench ]]; then
    kill -TERM "$bench" 2>/dev/null || true
    wait "$bench" || true
  fi
  if [[ -n $stop_servers ]]; then scripts/services.sh --benchmark down || status=1; fi
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if ! has_flag --binary "$@"; then cargo build --release --locked; fi
if ! scripts/services.sh --benchmark status >/dev/null 2>&1; then stop_servers=1; fi
scripts/services.sh --benchmark up >&2
eval "$(scripts/services.sh --benchmark env)"

# In the background, so that this script handles signals immediately.
"$BENCH_LIGHTRAG_PYTHON" scripts/bench "$@" &
bench=$!
wait "$bench"

#!/usr/bin/env bash
#
# How fast this project's tool is, beside LightRAG's own migration and beside the servers' own loaders and readers, on
# this machine, in one run.
#
#   scripts/bench.sh --quick       a minute, to see that it works
#   scripts/bench.sh --help        what can be chosen
#   scripts/bench.sh               everything: two hours and 30 GB of disk
#
# It starts servers of its own (scripts/services.sh --benchmark), stops those it started, and makes the data below
# ${XDG_CACHE_HOME:-~/.cache}/migrate-llm-cache/bench. Nothing else should run on the machine meanwhile.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

has_flag() { # FLAG ARGUMENT…
  local flag=$1 argument
  shift
  for argument in "$@"; do
    if [[ $argument == "$flag" || $argument == "$flag="* ]]; then return 0; fi
  done
  return 1
}

if has_flag --help "$@" || has_flag -h "$@"; then exec python3 scripts/bench --help; fi

stop_servers=""
finish() {
  local status=$?
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
PYTHONDONTWRITEBYTECODE=1 "$BENCH_LIGHTRAG_PYTHON" scripts/bench "$@"

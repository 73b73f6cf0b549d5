#!/usr/bin/env bash
#
# The servers that the tests use, each with a pinned version, on the loopback interface only.
#
#   scripts/services.sh up       install missing servers, start them, wait until each answers
#   eval "$(scripts/services.sh env)"   set their addresses: TEST_REDIS_URI, TEST_POSTGRES_URI …
#   scripts/services.sh status   show which servers run, and where
#   scripts/services.sh down     stop them (`down --wipe` deletes their data too)
#
# `up`, `status` and `down` accept names of servers; `scripts/services.sh list` prints the names. Optional further
# versions start only if named: `scripts/services.sh up redis62`, or all of them with `scripts/services.sh --extra up`.
#
# To use your own server, set TEST_REDIS_URI (TEST_POSTGRES_URI …; `list` prints the variables): it is then neither
# installed nor started. The same applies to TEST_LIGHTRAG_PYTHON.
#
# Data, logs, certificates, passwords and pid files are in .services/ in the repository, which git ignores. Downloads are
# in ${XDG_CACHE_HOME:-~/.cache}/migrate-llm-cache, shared by all clones. Needs Debian or a derivative, with root or sudo
# if a package is missing; python3; a JDK (21 or later) for OpenSearch.
#
# `scripts/services.sh --benchmark up` (env, status, down …) manages a second set for scripts/bench.sh: its state is in
# .services-benchmark/, its addresses are BENCH_REDIS_URI and so on, and the benchmark EMPTIES a server of your own. Its
# replacement for MongoDB is the native build, which needs Rust, cmake and five minutes.
#
# The package registries have no MongoDB server; SecantusDB, which speaks MongoDB's protocol, replaces it. OpenSearch has
# no security plugin here, so nginx in front of it provides TLS and a login.
#
# s3s-fs, compiled with cargo, replaces Amazon S3.
#
# To add a server, add a line to the file of its family in scripts/services/, or a new file for a new family.

set -euo pipefail
umask 022

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly ROOT

PURPOSE="test" # whose servers: the tests' or the benchmark's
ONLY_EXTRA=""
case ${1:-} in
  --benchmark) PURPOSE="benchmark" && shift ;;
  --extra) ONLY_EXTRA=1 && shift ;;
esac
readonly PURPOSE ONLY_EXTRA

if [[ $PURPOSE == test ]]; then
  readonly RUN="$ROOT/.services" PREFIX=TEST
else
  readonly RUN="$ROOT/.services-benchmark" PREFIX=BENCH
fi

# shellcheck source=scripts/services/common.sh
source "$ROOT/scripts/services/common.sh"
# shellcheck source=scripts/services/redis.sh
source "$ROOT/scripts/services/redis.sh"
# shellcheck source=scripts/services/postgres.sh
source "$ROOT/scripts/services/postgres.sh"
# shellcheck source=scripts/services/pgbouncer.sh
source "$ROOT/scripts/services/pgbouncer.sh"
# shellcheck source=scripts/services/mongo.sh
source "$ROOT/scripts/services/mongo.sh"
# shellcheck source=scripts/services/ferretdb.sh
source "$ROOT/scripts/services/ferretdb.sh"
# shellcheck source=scripts/services/s3.sh
source "$ROOT/scripts/services/s3.sh"
# shellcheck source=scripts/services/opensearch.sh
source "$ROOT/scripts/services/opensearch.sh"
# shellcheck source=scripts/services/nginx.sh
source "$ROOT/scripts/services/nginx.sh"
# shellcheck source=scripts/services/lightrag.sh
source "$ROOT/scripts/services/lightrag.sh"

# ---------------------------------------------------------------------------------------------------------------------
# Commands

# run_all FUNCTION SERVER…: runs the function for all servers in parallel; fails if one fails
run_all() {
  local action=$1 server pids=() failed=0 pid
  shift
  for server in "$@"; do
    "$action" "$server" &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
  return "$failed"
}

install() {
  if [[ $1 == lightrag ]]; then install_lightrag; else ask install "$1"; fi
}

# with_those_behind SERVER…: sets WANTED to these servers and those they depend on, the latter first.
with_those_behind() {
  local server
  WANTED=()
  for server in "$@"; do
    if [[ -n ${BEHIND[$server]:-} && " ${WANTED[*]} " != *" ${BEHIND[$server]} "* ]]; then WANTED+=("${BEHIND[$server]}"); fi
    if [[ " ${WANTED[*]} " != *" $server "* ]]; then WANTED+=("$server"); fi
  done
}

up() { # SERVER…
  local server variable start=()
  mkdir -p "$CACHE" "$RUN"
  with_those_behind "$@"
  if ! has openssl || ! has flock; then install_packages; fi
  # One `up` at a time: ports are chosen and the cache is filled under the lock.
  exec 9>"$CACHE/lock"
  flock -w 1800 9 || die "another 'up' has held $CACHE/lock for half an hour"
  prepare_state "${WANTED[@]}"
  for server in "${WANTED[@]}"; do
    if variable=$(somebody_elses "$server"); then
      printf '%-21s yours: %s is set, so it is not started here\n' "$server" "$variable"
    else
      start+=("$server")
    fi
  done
  install_packages "${start[@]}"
  # The postgres user may not have existed before.
  prepare_state "${start[@]}"
  prepare_certificates
  local installs=("${start[@]}")
  if [[ $(lightrag_python) == "$(lightrag_folder)"/* ]]; then installs+=(lightrag); fi
  run_all install "${installs[@]}" || die "an installation failed: see above"
  if ((${#start[@]})); then
    run_all bring_up "${start[@]}" || die "a server did not start: see above"
  fi
  for server in "${WANTED[@]}"; do
    for variable in ${VARIABLES_OF[$server]}; do
      if [[ -z $(address "$server" "$variable") ]]; then
        say "note: $variable is not set, and its server is not managed here"
      fi
    done
  done
}

print_env() {
  local server variable value
  [[ -f $STATE ]] || die "nothing is up: scripts/services.sh up"
  load_state
  for server in "${SERVERS[@]}" "${EXTRA[@]}"; do
    if [[ " ${EXTRA[*]} " == *" $server "* ]] && ! is_running "$server"; then continue; fi
    for variable in ${VARIABLES_OF[$server]}; do
      value=$(address "$server" "$variable")
      if [[ -n $value ]]; then printf 'export %s=%s\n' "$variable" "${value@Q}"; fi
    done
  done
  variable=${PREFIX}_CA_CERT
  value=${!variable:-"$RUN/tls/ca.pem"}
  printf 'export %s=%s\n' "$variable" "${value@Q}"
  value=$(lightrag_python)
  printf 'export %s=%s\n' "${PREFIX}_LIGHTRAG_PYTHON" "${value@Q}"
}

status() { # SERVER…
  local server variable stopped=0
  [[ -f $STATE ]] || die "nothing is up: scripts/services.sh up"
  load_state
  for server in "$@"; do
    if variable=$(somebody_elses "$server"); then
      printf '%-21s yours: %s\n' "$server" "$variable"
    elif ! is_running "$server"; then
      report_line "$server" "stopped"
      stopped=1
    elif ask ready "$server" >/dev/null 2>&1; then
      report_line "$server" "answers"
    else
      report_line "$server" "runs, but does not answer: $RUN/$server/log"
      stopped=1
    fi
  done
  return "$stopped"
}

down() { # SERVER…
  load_state
  run_all stop "$@"
}

wipe() {
  if [[ ${POSTGRES_HOME:-} == /var/tmp/migrate-llm-cache-postgres.* ]]; then rm -rf "$POSTGRES_HOME"; fi
  rm -rf "$RUN"
}

list() {
  local server
  for server in "${SERVERS[@]}"; do printf '%-21s %s\n' "$server" "${VARIABLES_OF[$server]}"; done
  for server in "${EXTRA[@]}"; do printf '%-21s %s (extra)\n' "$server" "${VARIABLES_OF[$server]}"; done
}

# those_that_run SERVER…
those_that_run() {
  local server
  for server in "$@"; do
    if is_running "$server"; then echo "$server"; fi
  done
}

usage() {
  say "usage: scripts/services.sh [--benchmark | --extra] up [SERVER…] | status [SERVER…] | down [--wipe | SERVER…] | env | list"
  exit 2
}

action=${1:-}
named=("${@:2}")
if [[ $action == down && ${named[*]} == --wipe ]]; then
  action=wipe
  named=()
fi
for name in "${named[@]}"; do
  known "$name" || die "unknown server $name: scripts/services.sh list prints the names"
done
if ((${#named[@]} == 0)); then
  if [[ -n $ONLY_EXTRA ]]; then
    named=("${EXTRA[@]}")
  elif [[ $action == up ]]; then
    named=("${SERVERS[@]}")
  else
    mapfile -t named < <(those_that_run "${EXTRA[@]}")
    named=("${SERVERS[@]}" "${named[@]}")
  fi
fi

case $action in
  up | status | down) "$action" "${named[@]}" ;;
  wipe)
    down "${SERVERS[@]}" "${EXTRA[@]}"
    wipe
    ;;
  env) print_env ;;
  list) list ;;
  *) usage ;;
esac

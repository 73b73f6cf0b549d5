# shellcheck shell=bash
#
# Installs the tools that the checks need if they are missing; sourced by the scripts in this folder. Debian packages are
# installed with apt, the linters of tools-requirements.txt and promtool in ${XDG_CACHE_HOME:-~/.cache}.

readonly TOOLS_CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/migrate-llm-cache"
TOOLS_REQUIREMENTS="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/tools-requirements.txt"
readonly TOOLS_REQUIREMENTS

# Checks that call others count from the start of the first one.
export CHECKS_STARTED="${CHECKS_STARTED:-$EPOCHSECONDS}"

# headline TEXT: names the next check, after the minutes and seconds since the start.
headline() {
  local elapsed=$((EPOCHSECONDS - CHECKS_STARTED))
  printf '\n=== %d:%02d %s\n' $((elapsed / 60)) $((elapsed % 60)) "$*"
}
die() {
  printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2
  exit 1
}

as_root() { if ((EUID == 0)); then "$@"; else sudo "$@"; fi; }

# need COMMAND=PACKAGE…: installs the Debian packages whose commands are missing.
need() {
  local pair missing=()
  for pair in "$@"; do
    command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
  done
  if ((${#missing[@]} == 0)); then return; fi
  export DEBIAN_FRONTEND=noninteractive
  { as_root apt-get -q update && as_root apt-get -q -y install --no-install-recommends "${missing[@]}"; } \
    </dev/null >/dev/null || die "cannot install ${missing[*]}"
}

# linter NAME ARGUMENTS…: runs a linter of tools-requirements.txt.
linter() {
  local folder
  folder="$TOOLS_CACHE/tools-$(sha256sum <"$TOOLS_REQUIREMENTS" | cut -c1-12)"
  if [[ ! -f $folder/complete ]]; then
    python3 -c 'import ensurepip, venv' 2>/dev/null || need python3-venv=python3-venv
    rm -rf "$folder"
    { python3 -m venv "$folder" && "$folder/bin/pip" install --no-input --quiet -r "$TOOLS_REQUIREMENTS"; } \
      </dev/null >&2 || die "cannot install the linters"
    touch "$folder/complete"
  fi
  "$folder/bin/$1" "${@:2}"
}

# promtool ARGUMENTS…: runs Prometheus's tool without installing Debian's package, which would start a server.
promtool() {
  local folder="$TOOLS_CACHE/promtool"
  if [[ ! -x $folder/usr/bin/promtool ]]; then
    rm -rf "$folder"
    mkdir -p "$folder/package"
    # In a separate folder, since apt chooses the name of the file.
    (
      cd "$folder/package"
      apt-get -q download prometheus || { apt-get -q update && apt-get -q download prometheus; }
      dpkg-deb -x ./prometheus_*.deb ..
    ) >/dev/null 2>&1 </dev/null || die "cannot get promtool out of Debian's package prometheus"
  fi
  "$folder/usr/bin/promtool" "$@"
}

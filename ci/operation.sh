#!/usr/bin/env bash
#
# Shows what operators use to the tools that it is meant for: metrics and alert rules to Prometheus's promtool, the man
# page to mandoc and groff, completions to their shells; and runs the commands of the README that say so, in a folder
# of their own. Installs these tools where they are missing. Called by ci/test.sh.
#
#   ci/operation.sh

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

ROOT=$PWD
readonly ROOT
readonly CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/migrate-llm-cache"
readonly TOOL="$ROOT/target/debug/migrate-llm-cache"

# Debian's packages, by the command that each is wanted for.
readonly -A PACKAGES=([jq]=jq [mandoc]=mandoc [groff]=groff [zsh]=zsh [fish]=fish)

headline() { printf '\n--- %s\n' "$*"; }
die() {
  echo "operation: $*" >&2
  exit 1
}

install_packages() {
  local command missing=() sudo=()
  for command in "${!PACKAGES[@]}"; do
    command -v "$command" >/dev/null || missing+=("${PACKAGES[$command]}")
  done
  if ((${#missing[@]} == 0)); then return; fi
  if ((EUID != 0)); then sudo=(sudo); fi
  export DEBIAN_FRONTEND=noninteractive
  { "${sudo[@]}" apt-get -q update && "${sudo[@]}" apt-get -q -y install --no-install-recommends "${missing[@]}"; } \
    </dev/null >/dev/null || die "cannot install ${missing[*]}"
}

# promtool alone: Debian's package would start a server.
promtool() {
  local folder="$CACHE/promtool"
  if [[ ! -x $folder/usr/bin/promtool ]]; then
    rm -rf "$folder.new"
    mkdir -p "$folder.new"
    (
      cd "$folder.new"
      apt-get -q download prometheus || { apt-get -q update && apt-get -q download prometheus; }
      dpkg-deb -x ./prometheus_*.deb .
      rm ./prometheus_*.deb
    ) >/dev/null 2>&1 </dev/null || die "cannot get Debian's package prometheus"
    rm -rf "$folder"
    mv "$folder.new" "$folder"
  fi
  "$folder/usr/bin/promtool" "$@"
}

# A folder as a user has it: LightRAG's caches, a job, and nothing else of ours.
scene() {
  local folder
  folder=$(mktemp -d)
  mkdir -p "$folder/tests/fixtures"
  cp -r tests/fixtures/sample "$folder/tests/fixtures/"
  cp -r tests/fixtures/sample/rag_storage migrate.example.yaml "$folder/"
  printf '%s\n' 'source: ./rag_storage' 'target: ./moved' 'workspaces: all' >"$folder/nightly.yaml"
  echo "$folder"
}

# The commands of the README under the mark `<!-- run by ci/operation.sh: NAME -->`.
commands_of_readme() {
  awk -v mark="<!-- run by ci/operation.sh: $1 -->" '
    $0 == mark { found = 1; next }
    found && /^```/ { if (inside) exit; inside = 1; next }
    inside { print }
  ' README.md | grep . || die "the README has no commands for $1"
}

# as_user COMMAND…: in the scene, which is the user's home, with the program in the path.
as_user() {
  (cd "$SCENE" && env -i HOME="$SCENE" PATH="$(dirname "$TOOL"):/usr/local/bin:/usr/bin:/bin" "$@")
}

# run_readme NAME: as its user types them; prints what they print.
run_readme() {
  local commands
  commands=$(commands_of_readme "$1")
  as_user bash -euo pipefail -c "$commands"
}

# expect TEXT WHAT: the text has a line that is just so.
expect() {
  grep -qxF -- "$2" <<<"$1" || die "expected the line \`$2\` in:"$'\n'"$1"
}

install_packages
cargo build --quiet --locked
SCENE=$(scene)
trap 'rm -rf "$SCENE"' EXIT

headline "metrics"
(
  cd "$SCENE"
  "$TOOL" --job nightly.yaml --yes --verify full --metrics moved.prom --output jsonl >/dev/null
  "$TOOL" --source ./none --target ./moved --metrics none.prom --output jsonl >/dev/null 2>&1 && die "./none was moved"
  true
)
for file in "$SCENE"/*.prom; do promtool check metrics <"$file"; done
promtool check rules scripts/examples/alerts.yaml
(cd scripts/examples && promtool test rules alerts.test.yaml)

headline "installation of completions and man page"
run_readme installation
bash -n "$SCENE/.local/share/bash-completion/completions/migrate-llm-cache"
zsh -n "$SCENE/.zfunc/_migrate-llm-cache"
fish --no-execute "$SCENE/.config/fish/completions/migrate-llm-cache.fish"
expect "$(as_user fish -c 'complete -C "migrate-llm-cache --on-conflict n"' | cut -f1)" newer
page=$SCENE/.local/share/man/man1/migrate-llm-cache.1
# The date that mandoc misses would differ from build to build; blank lines around lists are clap's.
complaints=$(mandoc -T lint -W warning "$page" | grep -v -e 'TH migrate' -e 'TH MIGRATE' -e 'skipping paragraph macro: br' || true)
[[ -z $complaints ]] || die "mandoc: $complaints"
complaints=$(groff -man -ww -Tutf8 "$page" 2>&1 >/dev/null)
[[ -z $complaints ]] || die "groff: $complaints"

headline "recipes for jq"
told=$(run_readme "recipes for jq")
expect "$told" "ok: 67 of 67 written"
expect "$told" $'space1\tspace1\t22\t0'
expect "$told" "space2 9/9 100%"
expect "$told" $'space1\t22'
expect "$(run_readme logs)" $'INFO\trun ended\t'
expect "$(run_readme "exit codes")" moved

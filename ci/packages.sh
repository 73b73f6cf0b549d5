#!/usr/bin/env bash
#
# Builds the packages with scripts/package/release.sh (using the quick profile), installs each in an empty place, and runs
# the sample job from it as a new user would. Called by ci/test.sh.
#
#   ci/packages.sh

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source ci/tools.sh

readonly DIST="$PWD/target/dist"
need jq=jq man=man-db systemd-analyze=systemd
python3 -c 'import ensurepip, venv' 2>/dev/null || need python3-venv=python3-venv
WORK=$(mktemp -d)
chmod 755 "$WORK"
trap 'rm -rf "$WORK"' EXIT

# sample COMMAND…: runs the sample job in a folder with only the files that the job names.
sample() {
  rm -rf "$WORK/sample"
  mkdir -p "$WORK/sample/tests/fixtures"
  cp -r tests/fixtures/sample "$WORK/sample/tests/fixtures/"
  cp migrate.example.yaml "$WORK/sample/"
  local written
  written=$(cd "$WORK/sample" && "$@" --job migrate.example.yaml --yes --output jsonl | jq -r 'select(.event == "report") | .totals.written')
  [[ $written == 67 ]] || die "$* moved $written records of 67"
}

headline "every combination of features compiles without warnings"
# Whether code is compiled depends on one feature at a time, so if it compiles without features, with each alone and with
# all of them, it compiles in every combination. Warnings of dead code are on where all storages are there.
joined=$(grep -rnE 'cfg(_attr)?\(.*feature.*feature' src | grep -v 'allow(dead_code)' || true)
[[ -z $joined ]] || die "this depends on two features at once, so more combinations need a check: $joined"
storages=archive,redis,postgres,mongo,opensearch
for features in "" archive bucket redis postgres mongo opensearch push "$storages" "$storages,bucket" "$storages,push" "$storages,bucket,push"; do
  printf '%s\n' "${features:-json alone}"
  cargo clippy --quiet --locked --no-default-features --features "$features" -- -D warnings
done

headline "the first command of the README"
cargo run --quiet --locked --profile quick --no-default-features -- --job migrate.example.yaml --yes --output jsonl |
  jq -e 'select(.event == "report") | .totals.written == 67' >/dev/null || die "the sample job did not move 67 records"
status=0
printed=$(target/quick/migrate-llm-cache --source ./tests/fixtures/sample/rag_storage --target redis://localhost --dry-run 2>&1 >/dev/null) || status=$?
[[ $status == 2 && $printed == *"does not include Redis"* ]] || die "a build without Redis printed (exit code $status): $printed"
status=0
printed=$(target/quick/migrate-llm-cache --job migrate.example.yaml --metrics-push http://localhost --dry-run 2>&1 >/dev/null) || status=$?
[[ $status == 2 && $printed == *"does not include --metrics-push"* ]] || die "a build without pushing printed (exit code $status): $printed"

headline "packages"
scripts/package/release.sh --profile quick
(cd "$DIST" && sha256sum --quiet -c SHA256SUMS)

headline "wheel"
python3 -m venv "$WORK/venv"
"$WORK/venv/bin/pip" install --quiet --no-index "$DIST"/*.whl
"$WORK/venv/bin/migrate-llm-cache" --version
"$WORK/venv/bin/migrate-llm-cache" --help >/dev/null
sample "$WORK/venv/bin/migrate-llm-cache"
sample "$WORK/venv/bin/python" -m migrate_llm_cache
"$WORK/venv/bin/pip" check
files=$(python3 -m zipfile -l "$DIST"/*.whl)
[[ $files == *THIRD_PARTY_LICENSES.txt* ]] || die "the wheel has no license texts"
[[ $files == */sboms/* ]] || die "the wheel has no SBOM"

headline "wheel, with uv and pipx"
python3 -m venv "$WORK/installers"
"$WORK/installers/bin/pip" install --quiet uv==0.13.9 pipx==1.18.4
export UV_TOOL_DIR="$WORK/uv" UV_TOOL_BIN_DIR="$WORK/uv/bin" PIPX_HOME="$WORK/pipx" PIPX_BIN_DIR="$WORK/pipx/bin"
"$WORK/installers/bin/uvx" --quiet --from "$DIST"/*.whl migrate-llm-cache --version
"$WORK/installers/bin/uv" tool install --quiet "$DIST"/*.whl
sample "$UV_TOOL_BIN_DIR/migrate-llm-cache"
"$WORK/installers/bin/pipx" install --quiet "$DIST"/*.whl
sample "$PIPX_BIN_DIR/migrate-llm-cache"

headline "sdist"
python3 -m venv "$WORK/compiled"
# New files, since cargo would take files as old as the commit for those that it has compiled.
tar -xmzf "$DIST"/migrate_llm_cache-*.tar.gz -C "$WORK"
# With JSON alone, whose crates are compiled already.
MATURIN_PEP517_ARGS="--profile quick --no-default-features" CARGO_TARGET_DIR="$PWD/target" \
  "$WORK/compiled/bin/pip" install --quiet "$WORK"/migrate_llm_cache-*
sample "$WORK/compiled/bin/migrate-llm-cache"

headline ".tar.gz"
tar -xzf "$DIST"/*-linux-gnu.tar.gz -C "$WORK"
sample "$WORK"/migrate-llm-cache-*/migrate-llm-cache
newest=$(objdump -T "$WORK"/migrate-llm-cache-*/migrate-llm-cache | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -1)
[[ $(printf '%s\n' "$newest" GLIBC_2.17 | sort -V | tail -1) == GLIBC_2.17 ]] || die "the program needs $newest"

headline ".deb"
# Installed on this machine, and removed again.
if dpkg -s migrate-llm-cache >/dev/null 2>&1; then die "migrate-llm-cache is already installed; remove it first"; fi
uninstall() {
  as_root rm -f /etc/migrate-llm-cache/job.yaml
  as_root apt-get -q -y purge migrate-llm-cache >/dev/null
}
trap 'uninstall; rm -rf "$WORK"' EXIT
as_root apt-get -q -y install --no-install-recommends "$DIST"/*.deb >/dev/null
dpkg -V migrate-llm-cache
sample migrate-llm-cache
[[ $(man -w migrate-llm-cache) == /usr/share/man/man1/migrate-llm-cache.1.gz ]] || die "man does not find the page"
completions=/usr/share/bash-completion/completions/migrate-llm-cache
[[ $(bash -c "source $completions && complete -p migrate-llm-cache") == *migrate-llm-cache* ]] || die "bash has no completions"
for shell in zsh/vendor-completions/_migrate-llm-cache fish/vendor_completions.d/migrate-llm-cache.fish; do
  [[ -s /usr/share/$shell ]] || die "the .deb lacks $shell"
done
systemd-analyze verify /usr/lib/systemd/system/migrate-llm-cache.{service,timer}
# The service does not run as root.
as_root cp migrate.example.yaml /etc/migrate-llm-cache/job.yaml
chmod -R a+rwX "$WORK/sample"
(cd "$WORK/sample" && as_root setpriv --reuid=nobody --regid=nogroup --clear-groups \
  migrate-llm-cache --job /etc/migrate-llm-cache/job.yaml --dry-run --output jsonl >/dev/null) || die "a service cannot read the job file"
uninstall
trap 'rm -rf "$WORK"' EXIT
for path in /usr/bin/migrate-llm-cache /etc/migrate-llm-cache "$completions"; do
  [[ ! -e $path ]] || die "purging the .deb leaves $path"
done

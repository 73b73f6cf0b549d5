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
need dpkg=dpkg
python3 -c 'import ensurepip, venv' 2>/dev/null || need python3-venv=python3-venv
WORK=$(mktemp -d)
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

need jq=jq

headline "every set of storages compiles without warnings"
for features in "" redis postgres mongo opensearch redis,postgres,mongo; do
  printf '%s\n' "${features:-json alone}"
  RUSTFLAGS="-D warnings" cargo check --quiet --locked --no-default-features --features "$features" --target-dir target/features
done

headline "the first command of the README"
cargo run --quiet --locked --profile quick --no-default-features -- --job migrate.example.yaml --yes --output jsonl |
  jq -e 'select(.event == "report") | .totals.written == 67' >/dev/null || die "the sample job did not move 67 records"
status=0
printed=$(target/quick/migrate-llm-cache --source ./tests/fixtures/sample/rag_storage --target redis://localhost --dry-run 2>&1 >/dev/null) || status=$?
[[ $status == 2 && $printed == *"does not include Redis"* ]] || die "a build without Redis printed (exit code $status): $printed"

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

headline ".tar.gz"
tar -xzf "$DIST"/*-linux-gnu.tar.gz -C "$WORK"
sample "$WORK"/migrate-llm-cache-*/migrate-llm-cache
newest=$(objdump -T "$WORK"/migrate-llm-cache-*/migrate-llm-cache | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -1)
[[ $(printf '%s\n' "$newest" GLIBC_2.17 | sort -V | tail -1) == GLIBC_2.17 ]] || die "the program needs $newest"

headline ".deb"
# Unpacked to a folder, since a check must not change the machine.
dpkg-deb -x "$DIST"/*.deb "$WORK/deb"
sample "$WORK/deb/usr/bin/migrate-llm-cache"
for path in usr/share/man/man1/migrate-llm-cache.1.gz usr/share/bash-completion/completions/migrate-llm-cache usr/lib/systemd/system/migrate-llm-cache.timer; do
  [[ -s $WORK/deb/$path ]] || die "the .deb lacks $path"
done

#!/usr/bin/env bash
#
# Builds every package of the checked-out commit in target/dist: a wheel and an sdist, a .tar.gz with the program, its man
# page and completions, a .deb, and SHA256SUMS. All but the sdist contain the same program, linked against glibc 2.17, with
# every storage, the license texts of its crates and (in the wheel) an SBOM.
#
#   scripts/package/release.sh                     a release: ten minutes on two cores
#   scripts/package/release.sh --profile quick     the same packages for tests: two minutes
#
# More options are passed to cargo, for example --no-default-features. Two builds of one commit are the same but for what
# reproducible.sh lists, wherever they are built.
#
# Needs Rust, Python 3 with venv, and git. Installs everything else in ${XDG_CACHE_HOME:-~/.cache}, pinned in
# requirements.txt. Packs only committed files, and warns if there are uncommitted changes.

set -euo pipefail
umask 022
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

PROFILE=release
if [[ ${1:-} == --profile && -n ${2:-} ]]; then PROFILE=$2 && shift 2; fi
for option; do [[ $option == --* && $option != --help ]] || { sed -n '3,16s/^# \{0,1\}//p' "$0" >&2 && exit 2; }; done
readonly PROFILE

ROOT=$PWD
readonly ROOT HERE=scripts/package
TARGET=$(realpath -m "${CARGO_TARGET_DIR:-target}")
readonly TARGET WORK="$TARGET/package" DIST="$TARGET/dist"
BUILD=$(realpath -m "${CARGO_BUILD_BUILD_DIR:-$TARGET}")
readonly BUILD
export CARGO_TARGET_DIR=$TARGET
# Files in archives have the time of the commit.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH

say() { printf '%s\n' "$*" >&2; }

# tool NAME ARGUMENTS…: runs a tool of requirements.txt.
tool() {
  local folder
  folder="${XDG_CACHE_HOME:-$HOME/.cache}/migrate-llm-cache/package-$(sha256sum <"$ROOT/$HERE/requirements.txt" | cut -c1-12)"
  if [[ ! -f $folder/complete ]]; then
    rm -rf "$folder"
    python3 -m venv "$folder"
    "$folder/bin/pip" install --no-input --quiet -r "$ROOT/$HERE/requirements.txt"
    touch "$folder/complete"
  fi
  PATH="$folder/bin:$PATH" "$folder/bin/$1" "${@:2}"
}

# archive FILE FOLDER: packs the folder as a reproducible .tar.gz.
archive() {
  tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -C "$(dirname "$2")" -c "$(basename "$2")" |
    gzip -n9 >"$1"
}

if [[ $TARGET != "$ROOT/target" ]]; then say "the .deb is built from $ROOT/target only" && exit 1; fi
if ! git diff --quiet HEAD; then say "warning: uncommitted changes are not packed"; fi
rm -rf "$WORK" "$DIST"
mkdir -p "$WORK" "$DIST"

say "sources and license texts"
# Always in the same place, so that only changes are recompiled.
"$HERE/sources.sh" "$WORK/sources"

say "sdist"
(cd "$WORK/sources" && tool maturin sdist --out "$DIST")

say "wheel, profile $PROFILE"
# Panic messages contain paths of source files. Encoded, since a path may contain spaces.
printf -v CARGO_ENCODED_RUSTFLAGS '%s\x1f%s' "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo" "--remap-path-prefix=$BUILD=/target"
export CARGO_ENCODED_RUSTFLAGS
(cd "$WORK/sources" && tool maturin build --profile "$PROFILE" --zig --compatibility manylinux2014 --out "$DIST" "$@")
(cd "$WORK" && python3 -m zipfile -e "$DIST"/*.whl wheel)
program=$(find "$WORK/wheel" -path '*.data/scripts/migrate-llm-cache')
chmod 755 "$program"
VERSION=$("$program" --version | awk '{ print $2 }')
export VERSION

say "program, man page, completions"
mkdir "$WORK/deb"
cp "$program" "$WORK/deb/"
"$program" --generate man >"$WORK/deb/migrate-llm-cache.1"
for shell in bash zsh fish; do "$program" --generate "completions-$shell" >"$WORK/deb/completions.$shell"; done
folder="$WORK/migrate-llm-cache-$VERSION-$(uname -m)-linux-gnu"
mkdir "$folder"
cp "$WORK"/deb/* LICENSE README.md migrate.example.yaml "$WORK/sources/THIRD_PARTY_LICENSES.txt" "$folder/"
archive "$DIST/$(basename "$folder").tar.gz" "$folder"

say ".deb"
gzip -n9 "$WORK/deb/migrate-llm-cache.1"
for unit in service timer; do
  sed 's#/usr/local/bin/#/usr/bin/#' "scripts/examples/migrate-llm-cache.$unit" >"$WORK/deb/migrate-llm-cache.$unit"
done
tool nfpm package --config "$HERE/nfpm.yaml" --packager deb --target "$DIST" >/dev/null

(cd "$DIST" && sha256sum -- * >SHA256SUMS)
ls -lh "$DIST" >&2

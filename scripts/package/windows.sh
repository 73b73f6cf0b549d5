#!/usr/bin/env bash
#
# Builds migrate-llm-cache.exe and the wheel for Windows on Linux, and runs the sample job under Wine. On demand: CI does
# not call it. It builds in a chroot of Debian unstable, which has a Rust compiler with its sources, MinGW and a Wine that
# knows today's Windows functions.
#
#   scripts/package/windows.sh [FEATURES]      storages besides JSON: redis,postgres by default
#
# Needs root, mmdebstrap, 6 GB of disk, and twenty minutes of two cores the first time. The chroot is kept in
# ${XDG_CACHE_HOME:-~/.cache}/migrate-llm-cache/windows.

set -euo pipefail
umask 022
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly FEATURES=${1-redis,postgres}
readonly ROOT="${XDG_CACHE_HOME:-$HOME/.cache}/migrate-llm-cache/windows"
readonly TRIPLE=x86_64-pc-windows-gnu DIST="$PWD/target/dist"
readonly EXE="$ROOT/target/$TRIPLE/quick/migrate-llm-cache.exe"

say() { printf '%s\n' "$*" >&2; }
((EUID == 0)) || { say "run it as root: it uses chroot" && exit 2; }
command -v mmdebstrap >/dev/null || { say "install mmdebstrap first" && exit 2; }

if [[ ! -f $ROOT/complete ]]; then
  say "chroot"
  rm -rf "$ROOT"
  mkdir -p "$(dirname "$ROOT")"
  # A mirror may be a snapshot whose signature has expired.
  mmdebstrap --mode=root --variant=minbase --aptopt='Acquire::Check-Valid-Until "false"' \
    --include=cargo,rust-src,gcc-mingw-w64-x86-64,cmake,nasm,ca-certificates,wine64 sid "$ROOT" >&2
  touch "$ROOT/complete"
fi

mounted=()
finish() { for path in "${mounted[@]}"; do umount "$path"; done; }
trap finish EXIT
mkdir -p "$ROOT/root/.cargo" "$HOME/.cargo"
for pair in /proc:proc /dev:dev "$HOME/.cargo:root/.cargo"; do
  mountpoint -q "$ROOT/${pair#*:}" && continue
  mount --bind "${pair%%:*}" "$ROOT/${pair#*:}"
  mounted=("$ROOT/${pair#*:}" "${mounted[@]}")
done
# What this machine trusts, for the registry.
cp /etc/ssl/certs/ca-certificates.crt "$ROOT/etc/ssl/certs/ca-certificates.crt"
cp /etc/resolv.conf "$ROOT/etc/resolv.conf"

say "program, with JSON and $FEATURES"
rm -rf "$ROOT/src"
mkdir "$ROOT/src"
git archive HEAD | tar -x -C "$ROOT/src"
# Debian has no standard library for Windows; it is built from its sources, which stable Rust allows only so.
chroot "$ROOT" env PATH=/usr/bin:/bin HOME=/root CARGO_TARGET_DIR=/target RUSTC_BOOTSTRAP=1 /bin/sh -c \
  "cd /src && cargo build --locked -Zbuild-std=std,panic_unwind --target $TRIPLE --profile quick --no-default-features --features '$FEATURES'"

say "sample job under Wine"
rm -rf "$ROOT/sample"
mkdir "$ROOT/sample"
git archive HEAD migrate.example.yaml tests/fixtures/sample | tar -x -C "$ROOT/sample"
# As an editor on Windows saves it.
printf 'WORKING_DIR=.\\tests\\fixtures\\sample\\rag_storage\r\nWORKSPACE=space1\r\n' >"$ROOT/sample/.env"
cp "$EXE" "$ROOT/sample/"
# run ARGUMENTS…: the program under Wine, in the sample's folder.
run() {
  chroot "$ROOT" env PATH=/usr/bin:/bin HOME=/root WINEDEBUG=-all /bin/sh -c 'cd /sample && exec wine64 ./migrate-llm-cache.exe "$@"' - "$@"
}
run --job migrate.example.yaml --yes --output jsonl | tail -n 1 | grep -q '"written":67' || { say "the sample job failed" && exit 1; }
run --source json --target './target/from_env' --yes --output jsonl 2>/dev/null | tail -n 1 | grep -q '"written":22' ||
  { say "the job of .env failed" && exit 1; }

say "wheel"
mkdir -p "$DIST"
python3 scripts/package/windows_wheel.py "$EXE" "$DIST"
ls -lh "$EXE" "$DIST"/*win_amd64.whl >&2

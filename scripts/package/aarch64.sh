#!/usr/bin/env bash
#
# Builds the wheel for Linux on aarch64 on an x86-64 machine, and runs the sample job from it under QEMU. On demand: CI does
# not call it. The program is linked against glibc 2.17, like that of release.sh. Needs what chroot.sh needs.
#
#   scripts/package/aarch64.sh                     a release
#   scripts/package/aarch64.sh --profile quick     for tests
#
# More options are passed to cargo, for example --no-default-features.

set -euo pipefail
umask 022
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

PROFILE=release
if [[ ${1:-} == --profile && -n ${2:-} ]]; then PROFILE=$2 && shift 2; fi
for option; do [[ $option == --* && $option != --help ]] || { sed -n '3,11s/^# \{0,1\}//p' "$0" >&2 && exit 2; }; done
readonly PROFILE TRIPLE=aarch64-unknown-linux-gnu DIST="$PWD/target/dist"
source scripts/package/chroot.sh
make_chroot

say "wheel, profile $PROFILE"
rm -rf "$CHROOT/src" "$CHROOT/out"
scripts/package/sources.sh "$CHROOT/src"
cp scripts/package/requirements.txt "$CHROOT/src/"
in_chroot /src sh -c '[ -d /tools ] || python3 -m venv /tools; /tools/bin/pip install --no-input --quiet -r requirements.txt'
# Debian has no standard library for this system; it is built from its sources, which stable Rust allows only so.
in_chroot /src env RUSTC_BOOTSTRAP=1 PATH=/tools/bin:/usr/bin:/bin maturin build --profile "$PROFILE" --target "$TRIPLE" \
  --zig --compatibility manylinux2014 -Z build-std=std,panic_unwind --out /out "$@"
mkdir -p "$DIST"
cp "$CHROOT"/out/*aarch64.whl "$DIST/"

say "sample job under QEMU"
place_sample
(cd "$CHROOT/out" && python3 -m zipfile -e ./*.whl wheel)
program=$(cd "$CHROOT" && echo out/wheel/*.data/scripts/migrate-llm-cache)
chmod 755 "$CHROOT/$program"
run() { in_chroot /sample qemu-aarch64 -L /usr/aarch64-linux-gnu "/$program" "$@"; }
run --version
run --job migrate.example.yaml --yes --output jsonl | tail -n 1 | grep -q '"written":67' || { say "the sample job failed" && exit 1; }
ls -lh "$CHROOT/$program" "$DIST"/*aarch64.whl >&2

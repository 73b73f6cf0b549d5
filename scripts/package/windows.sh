#!/usr/bin/env bash
#
# Builds migrate-llm-cache.exe and the wheel for Windows on Linux, and runs the sample job and Ctrl-C under Wine. On demand:
# CI does not call it. Needs what chroot.sh needs. If TEST_REDIS_URI or TEST_POSTGRES_URI names an empty database, the sample
# is also moved there and back.
#
#   scripts/package/windows.sh [FEATURES]      storages besides JSON: redis,postgres by default

set -euo pipefail
umask 022
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

source scripts/package/chroot.sh
readonly FEATURES=${1-redis,postgres}
readonly TRIPLE=x86_64-pc-windows-gnu DIST="$PWD/target/dist"
readonly EXE="$CHROOT/target/$TRIPLE/quick/migrate-llm-cache.exe"
make_chroot

say "program, with JSON and $FEATURES"
rm -rf "$CHROOT/src"
mkdir "$CHROOT/src"
git archive HEAD | tar -x -C "$CHROOT/src"
# Debian has no standard library for Windows; it is built from its sources, which stable Rust allows only so.
in_chroot /src env RUSTC_BOOTSTRAP=1 cargo build --locked -Zbuild-std=std,panic_unwind --target "$TRIPLE" --profile quick \
  --no-default-features --features "$FEATURES"

say "sample job under Wine"
place_sample
# As an editor on Windows saves it.
printf 'WORKING_DIR=.\\tests\\fixtures\\sample\\rag_storage\r\nWORKSPACE=space1\r\n' >"$CHROOT/sample/.env"
cp "$EXE" "$CHROOT/sample/"
run() { in_chroot /sample env WINEDEBUG=-all wine64 ./migrate-llm-cache.exe "$@"; }
run --job migrate.example.yaml --yes --output jsonl | tail -n 1 | grep -q '"written":67' || { say "the sample job failed" && exit 1; }
run --source json --target './target/from_env' --yes --output jsonl 2>/dev/null | tail -n 1 | grep -q '"written":22' ||
  { say "the job of .env failed" && exit 1; }
for uri in ${TEST_REDIS_URI:-} ${TEST_POSTGRES_URI:-}; do
  say "sample to ${uri%%:*} and back"
  for sides in "tests\\fixtures\\sample\\rag_storage $uri" "$uri target\\from_${uri%%:*}"; do
    run --source "${sides% *}" --target "${sides#* }" --all-workspaces --yes --verify full --output jsonl 2>/dev/null | tail -n 1 |
      grep -q '"written":67' || { say "moving to or from ${uri%%:*} failed" && exit 1; }
  done
done

say "Ctrl-C"
# A server that does not answer.
coproc server (exec python3 -uc '
import socket, sys
with socket.create_server(("127.0.0.1", 0)) as listener:
    print(listener.getsockname()[1])
    listener.accept()[0].recv(1 << 20)
    print("connected")
    sys.stdin.read()')
read -r port <&"${server[0]}"
run --source ./tests/fixtures/sample/rag_storage --target "redis://127.0.0.1:$port" --yes >"$CHROOT/sample/interrupted" 2>/dev/null &
read -r _ <&"${server[0]}"
# Wine translates the signal.
kill -INT "$(pgrep -f "migrate-llm-cache.exe .*:$port")"
status=0
wait $! || status=$?
if ((status != 130)) || ! grep -q '"status":"interrupted"' "$CHROOT/sample/interrupted"; then
  say "Ctrl-C ended it with exit code $status" && exit 1
fi

say "wheel"
mkdir -p "$DIST"
python3 scripts/package/windows_wheel.py "$EXE" "$DIST"
ls -lh "$EXE" "$DIST"/*win_amd64.whl >&2

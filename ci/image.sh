#!/usr/bin/env bash
#
# Builds the image of scripts/examples/Dockerfile without a registry, and runs the sample job in it: read-only, without
# capabilities, not as root. It uses the program that ci/packages.sh built, and a base image made from Debian packages
# with the name in the Dockerfile. Called by ci/test.sh, after ci/packages.sh.
#
#   ci/image.sh

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source ci/tools.sh
source ci/image_build.sh

readonly PROGRAM=target/package/deb/migrate-llm-cache NAME=localhost/migrate-llm-cache:ci
[[ -x $PROGRAM ]] || die "$PROGRAM is missing; run ci/packages.sh first"

WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
use_image_store "$WORK"

headline "base image"
import_base_image "$WORK"

headline "image"
build_image "$WORK" "$PROGRAM" "$NAME"
podman "${STORE[@]}" image inspect "$NAME" --format 'size: {{.Size}} bytes; user: {{.Config.User}}'

headline "sample job in a container"
cp -r tests/fixtures/sample/rag_storage "$WORK/source"
mkdir "$WORK/target"
chmod -R a+rX "$WORK/source"
chown 65532:65532 "$WORK/target"
podman "${STORE[@]}" --runtime runc --cgroup-manager cgroupfs run --rm --network none --read-only --cap-drop all \
  --security-opt no-new-privileges --user 65532:65532 --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 \
  -v "$WORK/source:/source:ro" -v "$WORK/target:/target" \
  "$NAME" --source /source --target /target --all-workspaces --yes --output jsonl >"$WORK/events.jsonl"
jq -e 'select(.event == "report") | .totals.written == 67' "$WORK/events.jsonl" >/dev/null ||
  die "the container did not move 67 records"

#!/usr/bin/env bash
#
# Checks the dependencies: licenses, sources and duplicate versions against ci/deny.toml, known vulnerabilities, unused
# dependencies, and that none needs a newer Rust than Cargo.toml states. Called by ci/test.sh.
#
#   ci/dependencies.sh

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source ci/tools.sh

need jq=jq

headline "licences, sources, duplicates"
linter cargo-deny --locked --config ci/deny.toml check --deny warnings bans licenses sources

headline "vulnerabilities"
# The list of vulnerabilities is a repository that not every machine can reach.
if linter cargo-deny --config ci/deny.toml fetch db >/dev/null 2>&1; then
  linter cargo-deny --locked --config ci/deny.toml check advisories
else
  echo "NOT CHECKED: the RustSec database cannot be reached from here"
fi

headline "dependencies that nothing uses"
linter cargo-shear

headline "minimum Rust version"
# For the project's own code, clippy checks this (incompatible_msrv).
metadata=$(cargo metadata --format-version 1 --locked)
too_new=$(jq -r '
  def number: split(".") | map(tonumber) | . + [0, 0] | .[:3];
  (.resolve.root) as $root
  | (.packages[] | select(.id == $root) | .rust_version | number) as $ours
  | .packages[] | select(.rust_version and (.rust_version | number) > $ours)
  | "\(.name) \(.version) wants Rust \(.rust_version)"' <<<"$metadata")
[[ -z $too_new ]] || die "$too_new"
jq -r '"\(.packages | length) packages are content with Rust \(.resolve.root as $root
  | .packages[] | select(.id == $root) | .rust_version)"' <<<"$metadata"

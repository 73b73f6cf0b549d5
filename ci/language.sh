#!/usr/bin/env bash
#
# Fails if a word that this project's texts avoid appears in a document, in the help text or in the source. Called by
# ci/test.sh.
#
#   ci/language.sh

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source ci/tools.sh

# Add a file or folder here once its texts have been revised. A test compares the snapshot with `--help`.
readonly PATHS=(
  README.md
  migrate.example.yaml
  scripts/examples
  tests/cli/snapshots/help_teaches_the_commonest_calls.snap
  src/config
  src/engine
  src/interactive
  src/model
  src/report
  src/storage
  src/system
  src/app.rs
  src/lib.rs
)

# Write instead: report, print · no one · is, is written · crate layout · module · interface · fix · contains · after ·
# filtered · dropped.
readonly WORDS=(told nobody stands house room seam mend holds behind passed_over left_behind)

headline "language"
patterns=()
for word in "${WORDS[@]}"; do patterns+=(-e "$word"); done
found=$(grep -rniw "${patterns[@]}" -- "${PATHS[@]}") || (($? == 1)) || die "a path cannot be searched"
if [[ -n $found ]]; then
  echo "$found"
  die "reword the lines above"
fi

#!/usr/bin/env bash
#
# Runs all checks of this project on a machine with only the toolchain (Rust, Python 3, a JDK): format, lints, scripts,
# language, documentation, dependencies, examples, packages, then the tests against real servers, which it installs and
# starts. It exits at the first failed check, and stops the servers unless all of them were running before.
#
#   ci/test.sh

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

source ci/tools.sh

readonly SCRIPTS=(scripts/*.sh scripts/package/*.sh ci/*.sh .ci/run)

# Servers outlive the script that started them, so this runs on every exit.
stop_servers=""
finish() {
  local status=$?
  if [[ -n $stop_servers ]]; then
    headline "stopping the servers"
    scripts/services.sh down || status=1
  fi
  if ((status)); then printf '\nFAILED (exit code %s)\n' "$status"; else printf '\nall checks passed\n'; fi
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

headline "format"
cargo fmt --check

headline "lints"
cargo clippy --all-targets --locked -- -D warnings
# --all-targets leaves out the tests that are run only by name, also those named beside it.
cargo clippy --test config --test hits --test conformance --test matrix --test faults --locked -- -D warnings

headline "shell scripts"
need shellcheck=shellcheck
# Including the files that they source.
shellcheck -x -a "${SCRIPTS[@]}"

ci/language.sh

headline "Python scripts"
python3 -c 'import sys; [compile(open(name, "rb").read(), name, "exec") for name in sys.argv[1:]]' scripts/*.py scripts/bench/*.py scripts/package/*.py scripts/package/python/*/*.py
scripts/bench.sh --from scripts/bench/results.json --check-readme

headline "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked

headline "dependencies"
ci/dependencies.sh

headline "operation"
ci/operation.sh

headline "packages"
ci/packages.sh

headline "image"
ci/image.sh

headline "tests without servers"
cargo test --locked

headline "servers"
if ! scripts/services.sh status >/dev/null 2>&1; then stop_servers=1; fi
scripts/services.sh up
eval "$(scripts/services.sh env)"

headline "tests with servers"
cargo test --locked --test cli -- --ignored
cargo test --locked --test config --test hits --test conformance --test matrix --test faults

headline "many machines"
ci/slurm.sh

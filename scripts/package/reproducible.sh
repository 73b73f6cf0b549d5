#!/usr/bin/env bash
#
# Builds the packages of the checked-out commit twice, in two clones with different paths, and compares them. On demand: CI
# does not call it. Only this may differ:
#
#   in the wheel   RECORD (the digests of its files) and the SBOM (the folder of the sources)
#   SHA256SUMS     the digest of the wheel
#
#   scripts/package/reproducible.sh                                            twice what release.sh takes
#   scripts/package/reproducible.sh --profile quick --no-default-features      a few minutes

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
unset CARGO_TARGET_DIR

clones=("$WORK/first" "$WORK/a longer path/second")
for clone in "${clones[@]}"; do git clone --quiet . "$clone"; done
for clone in "${clones[@]}"; do "$clone/scripts/package/release.sh" "$@"; done

python3 - "${clones[@]/%//target/dist}" <<'PYTHON'
import re, sys, zipfile
from pathlib import Path

first, second = ({file.name: file for file in Path(folder).iterdir()} for folder in sys.argv[1:])
if first.keys() != second.keys():
    sys.exit(f"different packages: {sorted(first)} and {sorted(second)}")
different = []
for name in sorted(first.keys() - {"SHA256SUMS"}):
    contents = []
    for file in (first[name], second[name]):
        contents.append({"": file.read_bytes()})
        if name.endswith(".whl"):
            with zipfile.ZipFile(file) as wheel:
                contents[-1] = {member: wheel.read(member) for member in wheel.namelist()}
    members = [f"{name} {member}" for member in sorted(contents[0].keys() | contents[1].keys()) if contents[0].get(member) != contents[1].get(member)]
    print(f"{name}: {len(members)} of {len(contents[0])} files differ")
    different += members
unexpected = [member for member in different if not re.search(r"\.dist-info/(RECORD|sboms/[^/]*)$", member)]
print("\n".join(different))
if unexpected:
    sys.exit("these may not differ:\n" + "\n".join(unexpected))
PYTHON

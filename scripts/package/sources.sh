#!/usr/bin/env bash
#
# Writes the committed sources to an empty folder as maturin packs them: pyproject.toml, the Python module and the license
# texts lie beside Cargo.toml.
#
#   scripts/package/sources.sh FOLDER

set -euo pipefail
umask 022
(($# == 1)) || { sed -n '3,6s/^# \{0,1\}//p' "$0" >&2 && exit 2; }
FOLDER=$(realpath -m "$1")
readonly FOLDER
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

mkdir -p "$FOLDER"
git archive HEAD .cargo Cargo.toml Cargo.lock LICENSE README.md src | tar -x -C "$FOLDER"
git archive HEAD:scripts/package pyproject.toml python | tar -x -C "$FOLDER"
python3 scripts/package/third_party_licenses.py >"$FOLDER/THIRD_PARTY_LICENSES.txt"

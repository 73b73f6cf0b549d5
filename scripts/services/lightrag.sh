# shellcheck shell=bash
#
# LightRAG, which checks what was written: a Python environment with its storage classes.

readonly LIGHTRAG_REQUIREMENTS="$ROOT/ci/lightrag-requirements.txt"

lightrag_folder() { venv_folder lightrag "$(<"$LIGHTRAG_REQUIREMENTS")"; }

install_lightrag() { cached "$(lightrag_folder)" make_venv -r "$LIGHTRAG_REQUIREMENTS"; }

lightrag_python() { # the caller's, or ours
  local given="${PREFIX}_LIGHTRAG_PYTHON"
  echo "${!given:-$(lightrag_folder)/bin/python}"
}

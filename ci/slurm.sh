#!/usr/bin/env bash
#
# Moves a cache in four shares under a real Slurm on this machine, with scripts/examples/shards.sbatch. One task loses its
# node on the way and is queued again. LightRAG then reads every record. Needs the test servers. Run on demand:
# Slurm sometimes keeps the task that was queued again from starting, which is not understood yet.
#
#   eval "$(scripts/services.sh env)"; ci/slurm.sh

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source ci/tools.sh

TOOL=$(realpath -m "${CARGO_TARGET_DIR:-target}")/debug/migrate-llm-cache
ROOT=$PWD
WORK=$(mktemp -d)
readonly TOOL ROOT WORK RECORDS=1200
readonly WORKSPACE="slurm$$"
: "${TEST_POSTGRES_URI:?run scripts/services.sh up, then eval \"\$(scripts/services.sh env)\"}"

need sbatch=slurm-wlm munged=munge psql=postgresql-client

# stop: ends what was started, by the ids of the processes.
stop() {
  local file pid pids=()
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

# start_slurm: a controller and two nodes on the loopback interface.
start_slurm() {
  local host node slurm=$WORK/slurm
  host=$(hostname -s)
  mkdir -p "$slurm"/{state,spool.n1,spool.n2} /run/munge /var/log/munge /var/lib/munge
  chown munge: /run/munge /var/log/munge /var/lib/munge
  chmod 755 /run/munge
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
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
RequeueExit=4,5,8,143
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=27001 CPUs=2 CoresPerSocket=2 RealMemory=1000
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=27002 CPUs=2 CoresPerSocket=2 RealMemory=1000
PartitionName=batch Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
CONF
  export SLURM_CONF=$slurm/slurm.conf
  [[ -S /run/munge/munge.socket.2 ]] || runuser -u munge -- munged --pid-file "$slurm/munged.pid" 2>/dev/null ||
    runuser -u munge -- munged
  slurmctld
  for node in n1 n2; do slurmd -N "$node"; done
  # shellcheck disable=SC2016
  wait_until "both nodes are idle" '[[ $(sinfo -h -t idle -o %D) == 2 ]]'
}

# wait_until WHAT CONDITION: for at most four minutes.
wait_until() {
  local _
  for _ in $(seq 1200); do
    if eval "$2" 2>/dev/null; then return; fi
    sleep 0.2
  done
  tail -n 5 "$WORK"/slurm/*.log "$WORK"/logs/* | cut -c1-200 >&2 || true
  squeue >&2 || true
  die "not within four minutes: $1"
}

headline "Slurm: four shares, one of them queued again"
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
cat >nightly.yaml <<YAML
source: ./rag_storage
target: $TEST_POSTGRES_URI
workspaces: [{ from: "", to: $WORKSPACE }]
rate_limit: 60/s
YAML
export PATH="$WORK/bin:$PATH"
job=$(sbatch --parsable "$ROOT/scripts/examples/shards.sbatch")
wait_until "share 2 has a checkpoint" '[[ -s checkpoints/2 ]]'
# As Slurm does when a node fails.
scontrol requeue "${job}_2"
# Slurm lets it wait for two minutes. The update ends that, unless it comes before the task was queued again.
# shellcheck disable=SC2016
wait_until "every share has ended, and share 2 twice" \
  'scontrol release "${job}_2" || true
   scontrol update JobId="${job}_2" StartTime=now || true
   (($(cat logs/*.jsonl | grep -c "\"event\":\"report\"") == 5))'
migrate-llm-cache --merge-reports reports/*.json --report report.json >/dev/null
jq -e --argjson all "$RECORDS" '.exit_code == 0 and .totals.written == $all and .totals.selected == $all' report.json >/dev/null ||
  die "the merged report: $(jq -c '{status, totals, errors}' report.json)"
# Resumed, not begun anew: the checkpoint's records are not read again.
jq -e '.totals.read > 0' reports/2.json >/dev/null
migrate-llm-cache --job nightly.yaml --verify-only --verify full >/dev/null
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

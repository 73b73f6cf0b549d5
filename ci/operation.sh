#!/usr/bin/env bash
#
# Checks what operators use with the tools it is made for: metrics and alert rules with promtool, the man page with mandoc
# and groff, completions with their shells, scripts/examples with systemd, cron's shell, and the schemas of Kubernetes and
# GitHub. Also runs the commands that the READMEs mark for it. Called by ci/test.sh.
#
#   ci/operation.sh

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source ci/tools.sh

TOOL=$(realpath -m "${CARGO_TARGET_DIR:-target}")/debug/migrate-llm-cache
readonly TOOL
readonly EXAMPLES="$PWD/scripts/examples"

# below_root FOLDER: replaces a machine's paths in the text by paths below root/ in the scene.
below_root() { sed -E "s#/(etc/migrate-llm-cache|srv|var/lib|usr/local/bin)\b#$1/root/\1#g"; }

# A user's folder: LightRAG's caches and a job, nothing else of this project. Below root/ is what the examples expect on a
# machine; the target of their job needs no server.
scene() {
  local folder
  folder=$(mktemp -d)
  mkdir -p "$folder/tests/fixtures"
  cp -r tests/fixtures/sample "$folder/tests/fixtures/"
  cp -r tests/fixtures/sample/rag_storage migrate.example.yaml "$folder/"
  printf '%s\n' 'source: ./rag_storage' 'target: ./moved' 'workspaces: all' >"$folder/nightly.yaml"
  mkdir -p "$folder"/root/{etc/migrate-llm-cache,srv/lightrag,var/lib/migrate-llm-cache,var/lib/node_exporter/textfile}
  cp -r tests/fixtures/sample/rag_storage "$folder/root/srv/lightrag/"
  echo PGPASSWORD=secret >"$folder/root/etc/migrate-llm-cache/environment"
  below_root "$folder" <"$EXAMPLES/nightly.yaml" | sed "s|^target: .*|target: $folder/moved_\${PGPASSWORD}|" \
    >"$folder/root/etc/migrate-llm-cache/nightly.yaml"
  echo "$folder"
}

# The commands in one of the READMEs after the mark `<!-- run by ci/operation.sh: NAME -->`.
commands_of_readme() {
  awk -v mark="<!-- run by ci/operation.sh: $1 -->" '
    $0 == mark { found = 1; next }
    found && /^```/ { if (inside) exit; inside = 1; next }
    inside { print }
  ' README.md scripts/examples/README.md | grep . || die "no document has commands for $1"
}

# as_user COMMAND…: runs in the scene, which is the user's home, with the program on the PATH.
as_user() {
  (cd "$SCENE" && env -i HOME="$SCENE" PATH="$(dirname "$TOOL"):/usr/local/bin:/usr/bin:/bin" "$@")
}

# run_readme NAME: runs the commands as a user would, and prints their output.
run_readme() {
  local commands
  commands=$(commands_of_readme "$1")
  as_user bash -euo pipefail -c "$commands"
}

# forget: deletes everything that was moved.
forget() {
  rm -rf "$SCENE"/moved_* "$SCENE"/root/var/lib/*/*
  mkdir "$SCENE/root/var/lib/node_exporter/textfile"
}

# run_example COMMAND [env NAME=VALUE]: in the bare environment of cron or a service.
run_example() {
  local status=0
  forget
  as_user "${@:2}" /bin/sh -c "$(below_root "$SCENE" <<<"$1")" || status=$?
  [[ -f $SCENE/moved_secret/kv_store_llm_response_cache.json ]] || die "nothing was moved by: $1"
  return "$status"
}

# expect TEXT LINE: fails unless the text has this line.
expect() {
  grep -qxF -- "$2" <<<"$1" || die "expected the line \`$2\` in:"$'\n'"$1"
}

need jq=jq zstd=zstd mandoc=mandoc groff=groff zsh=zsh fish=fish systemd-analyze=systemd
# Builds the tests too, which need the program: built alone, many crates would be compiled again with fewer features.
cargo test --quiet --locked --no-run
SCENE=$(scene)
trap 'rm -rf "$SCENE"' EXIT

headline "metrics and alerts"
(
  cd "$SCENE"
  "$TOOL" --job nightly.yaml --yes --verify full --metrics moved.prom --output jsonl >/dev/null
  "$TOOL" --source ./none --target ./moved --metrics none.prom --output jsonl >/dev/null 2>&1 && die "./none was moved"
  true
)
for file in "$SCENE"/*.prom; do promtool check metrics <"$file"; done
promtool check rules scripts/examples/alerts.yaml
(cd scripts/examples && promtool test rules alerts.test.yaml)

headline "installation of completions and man page"
run_readme installation
bash -n "$SCENE/.local/share/bash-completion/completions/migrate-llm-cache"
zsh -n "$SCENE/.zfunc/_migrate-llm-cache"
fish --no-execute "$SCENE/.config/fish/completions/migrate-llm-cache.fish"
expect "$(as_user fish -c 'complete -C "migrate-llm-cache --on-conflict n"' | cut -f1)" newer
page=$SCENE/.local/share/man/man1/migrate-llm-cache.1
# The page has no date, since it would differ between builds; the blank lines around lists are clap's.
complaints=$(mandoc -T lint -W warning "$page" | grep -v -e 'TH migrate' -e 'TH MIGRATE' -e 'skipping paragraph macro: br' || true)
[[ -z $complaints ]] || die "mandoc: $complaints"
complaints=$(groff -man -ww -Tutf8 "$page" 2>&1 >/dev/null)
[[ -z $complaints ]] || die "groff: $complaints"

headline "recipes for jq"
printed=$(run_readme "recipes for jq")
expect "$printed" "ok: 67 of 67 written"
expect "$printed" $'space1\tspace1\t22\t0'
expect "$printed" "space2 9/9 100%"
expect "$printed" $'space1\t22'
expect "$(run_readme logs)" $'INFO\trun ended\t'
expect "$(run_readme "exit codes")" moved

headline "archives"
touch "$SCENE"/backup-2026-01-0{1..9}.jsonl.zst
printed=$(run_readme archives)
expect "$printed" 75
kept=$(cd "$SCENE" && echo backup-*.jsonl.zst)
[[ $kept == "$(echo backup-2026-01-0{4..9}.jsonl.zst) backup-$(date +%F).jsonl.zst" ]] || die "of ten backups these were kept: $kept"
[[ -f $SCENE/restored/production/kv_store_llm_response_cache.json ]] || die "space1 was not restored as production"

headline "examples: systemd"
mkdir -p "$SCENE/units" "$SCENE/root/usr/local/bin"
ln -s "$TOOL" "$SCENE/root/usr/local/bin/"
for unit in service timer; do
  below_root "$SCENE" <"$EXAMPLES/migrate-llm-cache.$unit" | sed '/^Documentation=/d' >"$SCENE/units/migrate-llm-cache.$unit"
done
systemd-analyze verify --man=no "$SCENE"/units/*
command=$(sed -n 's/^ExecStart=//p' "$EXAMPLES/migrate-llm-cache.service")
run_example "$command" env PGPASSWORD=secret >/dev/null
promtool check metrics <"$SCENE/root/var/lib/node_exporter/textfile/nightly.prom"

headline "examples: cron"
# The sixth field is the user.
command=$(sed -nE 's/^[0-9]+ [0-9]+ \* \* \* +[a-z]+ +//p' "$EXAMPLES/crontab")
[[ $command != *%* ]] || die "cron takes % for the end of a line"
printed=$(run_example "$command" 2>&1)
[[ -z $printed ]] || die "a successful cron job printed: $printed"
rm -rf "$SCENE/root/srv/lightrag/rag_storage"
printed=$(as_user /bin/sh -c "$(below_root "$SCENE" <<<"$command")" 2>&1)
grep -q '"status": "failed"' <<<"$printed" || die "a failed cron job printed: $printed"
cp -r tests/fixtures/sample/rag_storage "$SCENE/root/srv/lightrag/"

headline "examples: GitHub Actions"
linter check-jsonschema --builtin-schema vendor.github-workflows "$EXAMPLES/github-actions.yaml" "$EXAMPLES/release.yaml"
forget
for name in look move tell; do
  command=$(linter python - "$EXAMPLES/github-actions.yaml" "$name" <<'PYTHON'
import sys, yaml
steps = yaml.safe_load(open(sys.argv[1]))["jobs"]["migrate"]["steps"]
print(next(step["run"] for step in steps if step["name"] == sys.argv[2]))
PYTHON
  )
  as_user env PGPASSWORD=secret GITHUB_STEP_SUMMARY=summary bash -e -c "$(below_root "$SCENE" <<<"$command")"
done
expect "$(<"$SCENE/summary")" "**ok**: 67 written, 0 skipped, 0 rejected. Point LightRAG at the target: set LIGHTRAG_KV_STORAGE=JsonKVStorage and WORKING_DIR. Only the cache was moved: start LightRAG with its other storages empty (otherwise it skips known documents) and insert the documents again. It extracts them from the cache. The source is unchanged."

headline "examples: Kubernetes"
linter kubernetes-validate --strict "$EXAMPLES"/{cronjob,helm-job,sharded-job}.yaml
command=$(linter python - "$EXAMPLES/cronjob.yaml" <<'PYTHON'
import shlex, sys, yaml
job = yaml.safe_load(open(sys.argv[1]))["spec"]["jobTemplate"]["spec"]
print(shlex.join(["migrate-llm-cache", *job["template"]["spec"]["containers"][0]["args"]]))
PYTHON
)
run_example "$command" env PGPASSWORD=secret >/dev/null 2>&1

headline "examples: Helm chart"
command=$(linter python - "$EXAMPLES/helm-job.yaml" <<'PYTHON'
import shlex, sys, yaml
pod = yaml.safe_load(open(sys.argv[1]))["spec"]["template"]["spec"]
container, = pod["containers"]
mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
# The paths of the chart's deployment.
assert mounted == {"env-file": "/app/.env", "rag-storage": "/app/data/rag_storage"}, mounted
assert {volume["name"] for volume in pod["volumes"]} == set(mounted), "a volume is not mounted"
assert container["workingDir"] == "/app", "LightRAG's .env is not in the working directory"
assert container["env"] == [{"name": "WORKING_DIR", "value": mounted["rag-storage"]}], "the cache is mounted elsewhere"
print(shlex.join(["migrate-llm-cache", *container["args"]]))
PYTHON
)
# As the chart writes it: without quotes, and with names that have no value.
mkdir "$SCENE/app"
printf '%s\n' LLM_BINDING_HOST= LIGHTRAG_KV_STORAGE=JsonKVStorage POSTGRES_HOST=127.0.0.1 POSTGRES_PASSWORD=secret \
  POSTGRES_PORT=9 POSTGRES_WORKSPACE=default "WEBUI_TITLE=Graph RAG Engine" >"$SCENE/app/.env"
status=0
printed=$(as_user env "WORKING_DIR=$SCENE/rag_storage" sh -c "cd app && $command --retries 0" 2>&1 >/dev/null) || status=$?
[[ $status == 5 && $printed == *"no connection to PostgreSQL at 127.0.0.1:9"*"password from POSTGRES_PASSWORD in ./.env line 4"* ]] ||
  die "with LightRAG's .env the job printed (exit code $status): $printed"
run_example "cd app && ${command/ postgres / $SCENE/moved_secret }" env "WORKING_DIR=$SCENE/rag_storage" >/dev/null 2>&1

headline "examples: Compose"
linter check-jsonschema --builtin-schema vendor.compose-spec "$EXAMPLES/compose.yaml"
command=$(linter python - "$EXAMPLES/compose.yaml" <<'PYTHON'
import sys, yaml
service = yaml.safe_load(open(sys.argv[1]))["services"]["migrate-llm-cache"]
mounted = service["volumes"][0].split(":")[1]
assert service["environment"]["WORKING_DIR"] == mounted, "the cache is mounted elsewhere"
print(" ".join(word.rpartition("/")[2] if word.startswith("/") else word for word in service["entrypoint"]), "--yes")
PYTHON
)
run_example "$command" env "WORKING_DIR=$SCENE/rag_storage" "MIGRATE_TARGET=$SCENE/moved_secret" >/dev/null 2>&1

headline "examples: container"
linter hadolint "$EXAMPLES/Dockerfile"
# The base image has only the C library and the compiler's.
libraries=$(ldd "$TOOL" | awk '{ print $1 }' | grep -vxE 'linux-vdso.so.1|lib(c|m|dl|rt|pthread).so.[0-9]+|libgcc_s.so.1|/lib64/ld-linux-x86-64.so.2|/lib/ld-linux-aarch64.so.1' || true)
[[ -z $libraries ]] || die "the container's base image lacks $libraries"

printf '\nall checks of examples passed\n'

//! The job file: every field of it does what it says.

use serde_json::json;

use crate::{
    scene::{Scene, value},
    support::records::key,
};

const FROM_TO: &str = "source: ./rag_storage\ntarget: ./new\n";

#[test]
#[expect(clippy::too_many_lines, reason = "every field once")]
fn every_field_can_stand_in_it() {
    let scene = Scene::new();
    let job = "
source: { kind: json, working_dir: \"${OLD}\" }
target: { uri: \"./${NEW:-new}\" }
workspaces: [space1, { from: space2, to: other }]
types: [extract, query]
yes: \"${YES}\"
on_conflict: newer
on_invalid: sanitize
batch: { records: 7, bytes: 64KiB }
concurrency: 3
retries: 2
timeout: 1m
max_duration: 1h
max_errors: 5%
verify: full
checkpoint: ./job.checkpoint
resume: false
rejects: ./rejects.jsonl
differences: ./differences.jsonl
salvage: true
shard: 0/1
rate_limit: 100000/s
fail_on_empty: true
allow_missing: true
output: jsonl
report: ./report.json
log_level: error
quiet: true
";
    scene.file("job.yaml", job);
    let run = scene
        .tool("--job job.yaml")
        .env("OLD", "./rag_storage")
        .env("YES", "true")
        .run()
        .expect(0);
    let plan = run.events_of("plan").next().unwrap();
    assert_eq!(
        plan["source"],
        json!({"kind": "json", "location": "./rag_storage"})
    );
    assert_eq!(plan["target"], json!({"kind": "json", "location": "./new"}));
    assert_eq!(
        plan["workspaces"],
        json!([{"from": "space1", "to": "space1"}, {"from": "space2", "to": "other"}])
    );
    assert_eq!(plan["types"], json!(["extract", "query"]));
    assert_eq!(
        plan["options"],
        json!({
            "on_conflict": "newer", "on_invalid": "sanitize", "batch_records": 7, "batch_bytes": 65536,
            "concurrency": 3, "shard": "0/1", "rate_limit": "100000/s", "retries": 2, "timeout_ms": 60_000, "max_duration_ms": 3_600_000, "max_errors": "5%",
            "verify": "full", "checkpoint": "./job.checkpoint", "resume": false, "rejects": "./rejects.jsonl",
            "differences": "./differences.jsonl",
            "salvage": true, "yes": true, "fail_on_empty": true, "allow_missing": true, "hits": false, "rekey": "off",
        })
    );
    assert!(run.total("written") > 0);
    assert_eq!(run.report()["verification"]["compared"], run.total("written"));
    let written = ["job.checkpoint", "rejects.jsonl", "differences.jsonl"];
    assert!(written.iter().all(|name| scene.path(name).exists()));
    assert_eq!(&scene.read("report.json"), run.report());
    assert_eq!(run.stderr, "");
}

#[test]
fn workspaces_can_be_one_or_all() {
    let scene = Scene::new();
    for (text, expected) in [
        ("space1", json!(["space1"])),
        ("all", json!(["", "space1", "space2"])),
        ("[space2, '']", json!(["space2", ""])),
    ] {
        scene.file(
            "job.yaml",
            &format!("{FROM_TO}workspaces: {text}\ndry_run: true\n"),
        );
        let run = scene.run("--job job.yaml").expect(0);
        let plan = run.events_of("plan").next().unwrap();
        let pairs = plan["workspaces"].as_array().unwrap();
        let found: Vec<_> = pairs.iter().map(|pair| &pair["from"]).collect();
        assert_eq!(json!(found), expected, "{text}");
        assert_eq!(run.report()["mode"], "dry_run");
    }
}

#[test]
fn a_job_can_verify_alone_and_be_resumed_every_night() {
    let scene = Scene::new();
    let job = format!("{FROM_TO}yes: true\ncheckpoint: ./checkpoint\n");
    scene.file("job.yaml", &job);
    scene.run("--job job.yaml").expect(0);
    // A job that came to its end begins anew, so that the same file serves every night.
    scene.file("job.yaml", &format!("{job}resume: true\n"));
    let run = scene.run("--job job.yaml").expect(0);
    assert!(run.total("written") > 0);
    scene.file("job.yaml", &format!("{FROM_TO}verify_only: true\n"));
    assert_eq!(scene.run("--job job.yaml").expect(0).report()["mode"], "verify");
}

#[test]
fn output_can_be_human_and_quiet() {
    let scene = Scene::new();
    scene.file("job.yaml", &format!("{FROM_TO}yes: true\noutput: human\n"));
    let run = scene.run("--job job.yaml").expect(0);
    assert_eq!(run.stdout, "");
    assert!(
        run.stderr.contains("All selected records migrated"),
        "{}",
        run.stderr
    );
    scene.file(
        "job.yaml",
        &format!("{FROM_TO}yes: true\noutput: human\nquiet: true\n"),
    );
    assert_eq!(scene.run("--job job.yaml").expect(0).stderr, "");
}

#[test]
fn what_the_process_environment_holds_is_taken_as_it_is() {
    // A value that YAML would read as something else.
    let scene = Scene::new();
    scene
        .cache("a: [b] #c", &json!({key("extract", 1): value("x")}))
        .file(
            "job.yaml",
            "source: { kind: json, working_dir: \"./${ODD}\" }\ntarget: ./new\n",
        );
    let run = scene
        .tool("--job job.yaml --dry-run")
        .env("ODD", "a: [b] #c")
        .run()
        .expect(0);
    assert_eq!(run.total("selected"), 1);
}

//! LightRAG of any release, in a Python process of its own.

use std::{
    collections::BTreeSet,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::support::place::{Place, variable};

/// Runs a release's code on this input; what it answers.
fn run(release: &str, action: &str, input: &str, env: &[(&str, String)]) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/lightrag_releases.py");
    // LightRAG reads `.env` and `config.ini` where it is started.
    let folder = tempfile::tempdir().unwrap();
    let mut process = Command::new(variable("TEST_LIGHTRAG_PYTHON"))
        .args([script, "--release", release, action])
        .envs(env.iter().map(|(name, value)| (name, value)))
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("LightRAG's Python starts");
    let mut stdin = process.stdin.take().unwrap();
    let input = input.to_owned();
    let writing = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = process.wait_with_output().unwrap();
    writing.join().unwrap().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    let log = &log[log.len().saturating_sub(2000)..];
    assert!(output.status.success(), "LightRAG {release} failed: {log}");
    String::from_utf8(output.stdout).unwrap()
}

/// The hashes of keys, as a release makes them. A case is a line of JSON.
pub fn hashes(release: &str, cases: &[String]) -> Vec<String> {
    let answers = run(release, "hashes", &cases.join("\n"), &[]);
    let hashes: Vec<String> = answers
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(hashes.len(), cases.len());
    hashes
}

/// Hash and stored prompt of analyses of these kinds, as a release makes them.
pub fn analyses(release: &str, identity: &Value, kinds: &[&str]) -> Vec<(String, String)> {
    let cases = kinds
        .iter()
        .map(|kind| json!({"kind": kind, "identity": identity}).to_string());
    let answers = run(release, "analyses", &cases.collect::<Vec<_>>().join("\n"), &[]);
    let pair = |line| {
        let answer: Value = serde_json::from_str(line).unwrap();
        let text = |name: &str| answer[name].as_str().unwrap().to_owned();
        (text("hash"), text("original_prompt"))
    };
    answers.lines().map(pair).collect()
}

/// What an ingestion did.
pub struct Ingested {
    pub calls: u64,
    /// Every key that the cache was asked for.
    pub asked: BTreeSet<String>,
}

/// How many documents are ingested: as many as make LightRAG summarize.
const DOCUMENTS: usize = 5;

/// The documents, always the same.
fn documents() -> Value {
    let document = |number: usize| {
        let sentences = (0..40).map(|at| {
            format!(
                "Sentence {at} of document {number} says & names the thing {}.",
                number * at
            )
        });
        (
            format!("doc{number}"),
            json!(sentences.collect::<Vec<_>>().join(" ")),
        )
    };
    Value::Object((0..DOCUMENTS).map(document).collect())
}

/// Has a release ingest the documents, with what `more` says beside. Nothing but the cache is there.
fn ingest(release: &str, place: &Place, workspace: &str, more: &Value) -> Ingested {
    let folder = tempfile::tempdir().unwrap();
    let working_dir = if place.kind == "json" {
        Path::new(&place.address)
    } else {
        folder.path()
    };
    let mut request = json!({
        "documents": documents(),
        "storage": place.kind,
        "working_dir": working_dir,
        "workspace": workspace,
    });
    for (name, value) in more.as_object().unwrap() {
        request[name] = value.clone();
    }
    let answer = run(release, "ingest", &request.to_string(), &place.lightrag_env());
    let answer: Value = serde_json::from_str(&answer).unwrap();
    Ingested {
        calls: answer["calls"].as_u64().unwrap(),
        asked: serde_json::from_value(answer["keys"].clone()).unwrap(),
    }
}

/// The same where a cache is. LightRAG keeps what it ingested beside a cache file, so that works on a copy of it alone.
pub fn ingest_again(release: &str, place: &Place, workspace: &str, more: &Value) -> Ingested {
    if place.kind != "json" {
        return ingest(release, place, workspace, more);
    }
    let copy = Place::new("json");
    copy_cache(&place.file(workspace), &copy.file(workspace));
    ingest(release, &copy, workspace, more)
}

fn copy_cache(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::copy(from, to).unwrap();
}

/// A JSON place with the cache that a release made of the documents, and nothing else.
pub fn cache_of(release: &str, more: &Value) -> (Place, String, Ingested) {
    let made = Place::new("json");
    let workspace = made.workspace("made");
    std::fs::create_dir_all(&made.address).unwrap();
    let ingested = ingest(release, &made, &workspace, more);
    let place = Place::new("json");
    // Releases without workspaces keep the file in the working directory.
    let found = [made.file(&workspace), made.file("")];
    let found = found.iter().find(|file| file.exists()).expect("a cache was made");
    copy_cache(found, &place.file(&workspace));
    (place, workspace, ingested)
}

//! LightRAG itself as the judge: its storage classes, in a Python process that answers requests.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use serde_json::{Map, Value, json};

use super::{
    place::{Place, variable},
    tool::Tool,
};

/// A running LightRAG. One question at a time.
pub struct Oracle {
    _process: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// How often, and how long apart, a busy OpenSearch is asked again.
pub(super) const BUSY_TRIES: u32 = 20;
pub(super) const BUSY_WAIT: Duration = Duration::from_millis(500);

static ORACLE: Mutex<Option<Oracle>> = Mutex::new(None);

impl Oracle {
    fn start() -> Self {
        let mut process = Command::new(variable("TEST_LIGHTRAG_PYTHON"))
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/lightrag_oracle.py"))
            .arg("serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("LightRAG's Python starts");
        Self {
            questions: process.stdin.take().unwrap(),
            answers: BufReader::new(process.stdout.take().unwrap()),
            _process: process,
        }
    }

    fn ask(&mut self, question: &Value) -> Value {
        writeln!(self.questions, "{question}").expect("LightRAG listens");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("LightRAG answers");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("LightRAG answered {line:?}: {error}"))
    }
}

fn ask(place: &Place, workspace: &str, op: &str, rest: &[(&str, Value)]) -> Value {
    let env: Map<String, Value> = place
        .lightrag_env()
        .into_iter()
        .map(|(name, value)| (name.to_owned(), json!(value)))
        .collect();
    let mut question = json!({"op": op, "kind": place.kind, "workspace": workspace, "env": env});
    for (name, value) in rest {
        question[*name] = value.clone();
    }
    let mut oracle = ORACLE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let oracle = oracle.get_or_insert_with(Oracle::start);
    let mut answer = oracle.ask(&question);
    // An OpenSearch whose memory is full for a moment says so; LightRAG does not try again, and writing twice is harmless.
    for _ in 0..BUSY_TRIES {
        if !answer["error"].to_string().contains("circuit_breaking_exception") {
            break;
        }
        std::thread::sleep(BUSY_WAIT);
        answer = oracle.ask(&question);
    }
    assert_eq!(
        answer["ok"],
        json!(true),
        "LightRAG failed on {} {workspace}: {answer}",
        place.kind
    );
    answer
}

/// LightRAG has no archives: what it writes and reads are files, which the program moves to and from one.
fn moved(from: &str, to: &str) {
    let arguments = [
        "--source",
        from,
        "--target",
        to,
        "--all-workspaces",
        "--types",
        "all",
        "--yes",
    ];
    Tool::new(&arguments).run().expect(0);
}

/// Has LightRAG write records, its clock at `now` (Unix seconds) where it is LightRAG's.
pub fn write(place: &Place, workspace: &str, records: &[(String, Value)], now: u64) {
    if place.kind == "archive" {
        let files = Place::new("json");
        write(&files, workspace, records, now);
        return moved(&files.address, &place.address);
    }
    let records: Vec<Value> = records
        .iter()
        .map(|(key, value)| json!({"key": key, "value": value}))
        .collect();
    ask(
        place,
        workspace,
        "write",
        &[("records", json!(records)), ("now", json!(now))],
    );
}

/// Has LightRAG read records by key: what its `get_by_id` gave, in order.
pub fn read(place: &Place, workspace: &str, keys: &[String]) -> Vec<Option<Map<String, Value>>> {
    if place.kind == "archive" {
        let files = Place::new("json");
        moved(&place.address, &files.address);
        return read(&files, workspace, keys);
    }
    let answer = ask(place, workspace, "read", &[("keys", json!(keys))]);
    let records = answer["records"].as_array().expect("records");
    assert_eq!(records.len(), keys.len());
    records
        .iter()
        .map(|record| record["value"].as_object().cloned())
        .collect()
}

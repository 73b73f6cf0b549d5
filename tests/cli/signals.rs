//! A run that is told to stop.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStdout, Command, Stdio},
};

use serde_json::{Map, Value};

use crate::{
    scene::{CACHE, Scene, value},
    support::{
        records::key,
        tool::{Run, Tool},
    },
};

/// More than a pipe holds events of, so that the run cannot end before somebody reads on.
const RECORDS: u64 = 3_000;

#[test]
fn code_130_for_ctrl_c() {
    let (scene, run) = stopped_by("INT");
    snapshot_end!(scene, run);
}

#[test]
fn code_143_for_a_service_manager() {
    let (scene, run) = stopped_by("TERM");
    snapshot_end!(scene, run);
}

/// Stops a run with a signal after its first batch, and checks what must hold of a run that was stopped.
fn stopped_by(signal: &str) -> (Scene, Run) {
    let scene = Scene::new();
    let entries: Map<String, Value> = (0..RECORDS).map(|n| (key("extract", n), value("x"))).collect();
    scene.cache("many", &entries.into());
    let line = "--source ./many --target ./new --yes --batch-size 1 --concurrency 1";
    let run = stop(scene.tool(line), signal);

    // What was written stays, and LightRAG's file is whole.
    let written = run.total("written");
    assert!((1..RECORDS).contains(&written), "{written} written");
    assert_eq!(run.total("selected"), RECORDS);
    assert_eq!(run.total("not_attempted"), RECORDS - written);
    let kept = scene.read(&format!("new/{CACHE}"));
    assert_eq!(kept.as_object().unwrap().len() as u64, written);
    let left = std::fs::read_dir(scene.path("new")).unwrap().count();
    assert_eq!(left, 1, "no temporary file");
    (scene, run)
}

/// Runs the program until its first batch, and sends it a signal. It has to have more to say than a pipe takes.
pub fn stop(tool: Tool, signal: &str) -> Run {
    during(tool, |process| send(signal, process))
}

/// Starts the program and reads what it says up to its first batch.
pub fn until_first_batch(tool: Tool) -> (Child, BufReader<ChildStdout>, String) {
    let mut child = tool
        .into_command()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut stdout = String::new();
    while !stdout.contains("\"event\":\"batch\"") {
        assert_ne!(lines.read_line(&mut stdout).unwrap(), 0, "{stdout}");
    }
    (child, lines, stdout)
}

/// Runs the program, and after its first batch does something else before it reads on. A program that has more to say than a
/// pipe takes cannot end meanwhile.
pub fn during(tool: Tool, other: impl FnOnce(u32)) -> Run {
    let (mut child, mut lines, mut stdout) = until_first_batch(tool);
    other(child.id());
    lines.read_to_string(&mut stdout).unwrap();
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    let code = child.wait().unwrap().code().expect("it ends by itself");
    let run = Run {
        code,
        stdout,
        stderr,
        events: Vec::new(),
    };
    run.checked()
}

/// Sends a signal to a process.
pub fn send(signal: &str, process: u32) {
    let sent = Command::new("kill")
        .args([&format!("-{signal}"), &process.to_string()])
        .status();
    assert!(sent.unwrap().success());
}

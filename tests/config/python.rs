//! Python's readers, in one process for a whole batch of files.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

use serde_json::{Value, json};

/// What Python made of a file.
pub struct Answer(pub Value);

#[derive(Clone, Copy)]
pub enum Format {
    DotEnv,
    Ini,
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::DotEnv => "dotenv",
            Self::Ini => "ini",
        }
    }
}

fn oracle(command: &str) -> Command {
    let python = std::env::var_os("TEST_LIGHTRAG_PYTHON")
        .expect("TEST_LIGHTRAG_PYTHON is set; `eval \"$(scripts/services.sh env)\"` sets it");
    let mut oracle = Command::new(python);
    oracle
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/config_oracle.py"))
        .arg(command)
        .env_clear()
        .stdout(Stdio::piped());
    oracle
}

/// Has Python read each text as a file, in this process environment.
pub fn read(format: Format, texts: &[String], environment: &[(&str, &str)]) -> Vec<Answer> {
    let mut oracle = oracle("files");
    oracle.envs(environment.iter().copied());
    let requests = texts
        .iter()
        .map(|text| json!({"format": format.name(), "text": text}));
    ask(oracle, requests).into_iter().map(Answer).collect()
}

/// Has LightRAG say what it takes for its storages in each set-up.
pub fn settings(set_ups: impl Iterator<Item = Value> + Send) -> Vec<Value> {
    ask(oracle("settings"), set_ups)
}

/// Answers to requests, one for each, in order.
fn ask(mut oracle: Command, requests: impl Iterator<Item = Value> + Send) -> Vec<Value> {
    let mut oracle = oracle.stdin(Stdio::piped()).spawn().expect("Python starts");
    let mut input = oracle.stdin.take().unwrap();
    let output = BufReader::new(oracle.stdout.take().unwrap());
    let answers = std::thread::scope(|scope| {
        scope.spawn(move || {
            for request in requests {
                writeln!(input, "{request}").expect("Python listens");
            }
        });
        let lines = output.lines().map(|line| line.expect("Python answers"));
        lines
            .map(|line| serde_json::from_str(&line).expect("JSON"))
            .collect()
    });
    assert!(oracle.wait().expect("Python ends").success());
    answers
}

/// The `.env` that LightRAG generates as an example.
pub fn sample() -> String {
    let output = oracle("sample").output().expect("Python starts");
    assert!(output.status.success());
    String::from_utf8(output.stdout).expect("UTF-8")
}

//! LightRAG's configuration files, read by us and by the Python packages that LightRAG reads them with.
//!
//! Both get the same generated files, from a fixed seed. TEST_CONFIG_FILES sets how many there are of each format.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    unreachable_pub,
    reason = "a test may panic, and what tests share is public to them alone"
)]

mod generated;
mod python;
mod settings;

use std::collections::BTreeMap;

use migrate_llm_cache::config::{configparser::ConfigIni, dotenv::DotEnv};
use python::{Answer, Format};
use serde_json::{Value, json};

/// The process environment that files refer to with `${NAME}`.
const PROCESS: [(&str, &str); 2] = [("PROCESS", "of the process"), ("EMPTY", "")];

const DEFAULT_FILES: usize = 3000;

fn files() -> usize {
    std::env::var("TEST_CONFIG_FILES")
        .map_or(DEFAULT_FILES, |count| count.parse().expect("a number of files"))
}

fn our_dotenv(text: &str) -> Value {
    let process = BTreeMap::from(PROCESS);
    let read = DotEnv::parse(text, |name| process.get(name).copied());
    let values: BTreeMap<&str, Option<&str>> = read
        .variables()
        .map(|(name, variable)| (name, variable.value.as_ref().map(|value| value.expose())))
        .collect();
    json!({"values": values, "unparsable": read.unparsable_lines().len()})
}

/// As Python answers; an error is any error, since we name the line and it names its class.
fn our_ini(text: &str) -> Value {
    let read = ConfigIni::parse(text);
    if !read.problems().is_empty() {
        return json!("error");
    }
    let mut values: BTreeMap<&str, BTreeMap<&str, Option<String>>> = BTreeMap::new();
    for (section, key) in read.keys() {
        let value = read.get(section, key).ok().flatten();
        let value = value.map(|value| value.text.expose().to_owned());
        values.entry(section).or_default().insert(key, value);
    }
    json!({ "values": values })
}

fn python_ini(answer: Answer) -> Value {
    if answer.0.get("error").is_some() {
        return json!("error");
    }
    let mut answer = answer.0;
    // What a section without keys holds is nothing in either reader.
    let sections = answer["values"].as_object_mut().unwrap();
    sections.retain(|_, keys| !keys.as_object().unwrap().is_empty());
    answer
}

/// Fails with the shortest file that is read differently.
fn compare(texts: &[String], ours: impl Fn(&str) -> Value, theirs: Vec<Value>) {
    assert_eq!(texts.len(), theirs.len());
    let different = texts
        .iter()
        .zip(theirs)
        .filter(|(text, theirs)| ours(text) != *theirs);
    let different: Vec<_> = different.collect();
    if let Some((text, theirs)) = different.iter().min_by_key(|(text, _)| text.len()) {
        panic!(
            "{} of {} files are read differently; the shortest: {text:?}\nours:   {}\nPython: {theirs}",
            different.len(),
            texts.len(),
            ours(text)
        );
    }
}

fn compare_dotenv(texts: &[String]) {
    let theirs = python::read(Format::DotEnv, texts, &PROCESS);
    compare(
        texts,
        our_dotenv,
        theirs.into_iter().map(|answer| answer.0).collect(),
    );
}

#[test]
fn generated_dot_env_files_are_read_as_python_dotenv_reads_them() {
    compare_dotenv(&generated::dotenv(files()));
}

#[test]
fn generated_config_ini_files_are_read_as_configparser_reads_them() {
    let texts = generated::ini(files());
    let theirs = python::read(Format::Ini, &texts, &PROCESS);
    let readable = theirs
        .iter()
        .filter(|answer| answer.0.get("error").is_none())
        .count();
    assert!(
        readable * 4 > texts.len(),
        "too few of the files can be read: {readable}"
    );
    compare(&texts, our_ini, theirs.into_iter().map(python_ini).collect());
}

/// TEST_LIGHTRAG_ENV_EXAMPLE names a copy of the file in LightRAG's repository, which its packages do not hold.
#[test]
fn lightrags_own_examples_are_read_as_python_dotenv_reads_them() {
    let mut examples = vec![python::sample()];
    if let Some(file) = std::env::var_os("TEST_LIGHTRAG_ENV_EXAMPLE") {
        examples.push(std::fs::read_to_string(file).expect("the example can be read"));
    }
    // What they suggest is commented out.
    let uncommented = |text: &String| {
        let lines = text.lines().map(|line| {
            let setting = line.trim_start_matches(['#', ' ']);
            if setting.contains('=') { setting } else { line }
        });
        lines.collect::<Vec<_>>().join("\n")
    };
    let uncommented: Vec<String> = examples.iter().map(uncommented).collect();
    for text in &uncommented {
        let settings = our_dotenv(text)["values"].as_object().unwrap().len();
        assert!(settings > 50, "{settings} settings");
    }
    examples.extend(uncommented);
    compare_dotenv(&examples);
}

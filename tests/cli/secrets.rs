//! A password is printed nowhere, whichever setting it was typed into.

use clap::CommandFactory;
use migrate_llm_cache::config::Options;

use crate::{scene::Scene, support::tool::Tool};

/// What every password here contains, and no output may.
const SECRET: &str = "hunter2";

/// Passwords that break an address apart in some way.
const PASSWORDS: [&str; 8] = [
    "hunter2",
    "x/hunter2",
    "x@hunter2",
    "hunter2@x",
    "x:hunter2",
    "x hunter2 y",
    "x'hunter2\"y",
    "x%hunter2#y?z",
];

/// Addresses as people write them, well and badly.
fn addresses() -> Vec<String> {
    let forms: [fn(&str) -> String; 7] = [
        |password| format!("postgres://rag:{password}@127.0.0.1:1/rag"),
        |password| format!("redis://:{password}@127.0.0.1:1/0"),
        |password| format!("mongodb://rag:{password}@127.0.0.1:1/?serverSelectionTimeoutMS=10"),
        |password| format!("http://rag:{password}@127.0.0.1:1"),
        |password| format!("postgres:/rag:{password}@127.0.0.1:1/rag"),
        |password| format!("postgrs://rag:{password}@127.0.0.1:1/rag"),
        |password| format!("rag:{password}@127.0.0.1:1/rag"),
    ];
    PASSWORDS
        .iter()
        .flat_map(|password| forms.iter().map(move |form| form(password)))
        .collect()
}

/// Every flag that takes a value, as it is written.
fn flags_with_values() -> Vec<String> {
    let command = Options::command();
    let flags = command
        .get_arguments()
        .filter(|argument| argument.get_action().takes_values());
    flags
        .filter_map(|argument| Some(format!("--{}", argument.get_long()?)))
        .collect()
}

fn assert_silent(tool: Tool) {
    tool.secret(SECRET).run();
}

/// The program in a scene, its arguments as they are.
fn tool(scene: &Scene, arguments: &[&str]) -> Tool {
    Tool::new(arguments).in_directory(&scene.path("."))
}

#[test]
fn not_where_an_address_is_given_for_another_argument() {
    let scene = Scene::new();
    let flags = flags_with_values();
    assert!(flags.len() > 20, "{flags:?}");
    for (at, address) in addresses().iter().enumerate() {
        // Each flag meets every form and every password; not each their combination.
        for flag in flags.iter().skip(at % 8).step_by(8) {
            let complete = ["--source", "./rag_storage", "--target", "./new", "--dry-run"];
            let assigned = format!("{flag}={address}");
            assert_silent(tool(&scene, &[&complete[..], &[flag, address]].concat()));
            assert_silent(tool(&scene, &[&complete[2..], &[&assigned]].concat()));
        }
    }
}

#[test]
fn not_where_a_flag_is_misspelt_or_missing() {
    let scene = Scene::new();
    for address in addresses() {
        let assigned = format!("--traget={address}");
        let map = format!("{address}=space1");
        for arguments in [
            vec![assigned.as_str()],
            vec!["--source", "./rag_storage", assigned.as_str()],
            vec!["--source", "./rag_storage", "--traget", address.as_str()],
            vec!["./rag_storage", address.as_str()],
            vec![
                "--source",
                "./rag_storage",
                "--target",
                "./new",
                "--workspace-map",
                map.as_str(),
            ],
            vec![
                "--source",
                "./rag_storage",
                "--target",
                "./new",
                "--yes",
                "--workspace",
                address.as_str(),
                "--output",
                "human",
            ],
        ] {
            assert_silent(tool(&scene, &arguments));
        }
    }
}

#[test]
fn not_where_a_variable_or_a_file_of_lightrag_holds_it() {
    let scene = Scene::new();
    let variables = [
        ("WORKSPACE", "json"),
        ("WORKING_DIR", "json"),
        ("POSTGRES_HOST", "postgres"),
        ("POSTGRES_PORT", "postgres"),
        ("POSTGRES_USER", "postgres"),
        ("POSTGRES_DATABASE", "postgres"),
        ("POSTGRES_SSL_MODE", "postgres"),
        ("POSTGRES_SERVER_SETTINGS", "postgres"),
        ("REDIS_URI", "redis"),
        ("REDIS_CONNECT_TIMEOUT", "redis"),
        ("MONGO_URI", "mongo"),
        ("MONGO_DATABASE", "mongo"),
        ("OPENSEARCH_HOSTS", "opensearch"),
        ("OPENSEARCH_TIMEOUT", "opensearch"),
        ("RUST_LOG", "json"),
    ];
    for (at, address) in addresses().iter().enumerate() {
        for (name, kind) in variables.iter().skip(at % 3).step_by(3) {
            let arguments = [
                "--source",
                kind,
                "--target",
                "./new",
                "--dry-run",
                "--timeout",
                "1s",
                "--retries",
                "0",
            ];
            assert_silent(tool(&scene, &arguments).env(name, address));
            scene.file(
                ".env",
                &format!("POSTGRES_PASSWORD=x\n{name}='{address}'\nnot a line {address}\n"),
            );
            assert_silent(tool(&scene, &arguments));
            std::fs::remove_file(scene.path(".env")).unwrap();
        }
        scene.file(
            "config.ini",
            &format!("[postgres]\nhost = {address}\n{address}\n"),
        );
        assert_silent(tool(
            &scene,
            &[
                "--source",
                "postgres",
                "--target",
                "./new",
                "--dry-run",
                "--timeout",
                "1s",
            ],
        ));
        std::fs::remove_file(scene.path("config.ini")).unwrap();
    }
}

#[test]
fn not_where_a_job_file_has_it_in_the_wrong_field() {
    let scene = Scene::new();
    for (at, address) in addresses().iter().enumerate() {
        let quoted = serde_json::to_string(address).unwrap();
        let lines = [
            format!("source: {quoted}\ntarget: ./new\n"),
            format!("source: ./rag_storage\ntarget: {{ kind: {quoted} }}\n"),
            format!("source: ./rag_storage\ntarget: {{ kind: postgres, host: {quoted}, password: x }}\n"),
            format!("source: ./rag_storage\ntarget: {{ kind: redis, uri: {quoted} }}\n"),
            format!("source: ./rag_storage\ntarget: ./new\nworkspaces: [{quoted}]\n"),
            format!("source: ./rag_storage\ntarget: ./new\ntypes: [{quoted}]\n"),
            format!("source: ./rag_storage\ntarget: ./new\nbatch: {{ records: {quoted} }}\n"),
            format!("source: ./rag_storage\ntarget: ./new\ntimeout: {quoted}\n"),
            format!("source: ./rag_storage\ntarget: ./new\n{quoted}: 1\n"),
            format!("source: ./rag_storage\ntarget: ./new\n- {address}\n"),
            format!("source: \"${{{address}}}\"\ntarget: ./new\n"),
        ];
        for (number, text) in lines.iter().enumerate().skip(at % 2).step_by(2) {
            let name = format!("{number}.yaml");
            scene.file(&name, text);
            assert_silent(tool(
                &scene,
                &["--job", &name, "--dry-run", "--timeout", "1s", "--retries", "0"],
            ));
        }
    }
}

//! What the program writes about itself. `ci/operation.sh` shows it to the shells and to the readers of man pages.

use std::process::Command;

use clap::CommandFactory;
use migrate_llm_cache::config::Options;
use serde_json::{Value, json};

use crate::scene::Scene;

/// What bash offers at the end of a line.
fn completed(scene: &Scene, words: &[&str]) -> Vec<String> {
    let script = r#"
        source completions.bash
        compopt() { :; } # which only a completion that a key began may call
        name=$(complete -p migrate-llm-cache | sed 's/.*-F \([^ ]*\).*/\1/')
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
        "$name" migrate-llm-cache "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        ((${#COMPREPLY[@]})) && printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let output = Command::new("bash")
        .args(["--norc", "-c", script, "bash", "migrate-llm-cache"])
        .args(words)
        .current_dir(scene.path("."))
        .output()
        .unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(errors, "", "{words:?}");
    let offered = String::from_utf8(output.stdout).unwrap();
    offered.lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_flags_values_and_files() {
    let scene = Scene::new();
    scene.file(
        "completions.bash",
        &scene.run("--generate completions-bash").expect(0).stdout,
    );
    scene.file("nightly.yaml", "");
    assert_eq!(completed(&scene, &["--on-c"]), ["--on-conflict"]);
    assert_eq!(
        completed(&scene, &["--yes", "--on-conflict", ""]),
        ["overwrite", "skip", "newer", "fail"]
    );
    assert_eq!(completed(&scene, &["--job", "ni"]), ["nightly.yaml"]);
    assert_eq!(completed(&scene, &["--source", "rag"]), ["rag_storage"]);
    let mut flags = completed(&scene, &["--"]);
    flags.sort();
    let mut known = flags_of_the_program();
    known.sort();
    assert_eq!(flags, known);
}

#[test]
fn every_shell_is_told_every_flag() {
    let scene = Scene::new();
    for (shell, mark) in [
        ("zsh", "#compdef migrate-llm-cache"),
        ("fish", "complete -c migrate-llm-cache"),
    ] {
        let text = scene
            .run(&format!("--generate completions-{shell}"))
            .expect(0)
            .stdout;
        assert!(text.starts_with(mark), "{text}");
        for flag in flags_of_the_program() {
            let long = flag.trim_start_matches("--");
            assert!(
                text.contains(&flag) || text.contains(&format!("-l {long}")),
                "{shell}: {flag}"
            );
        }
    }
}

#[test]
fn the_man_page_has_every_flag_variable_and_exit_code() {
    let scene = Scene::new();
    let run = scene.run("--generate man").expect(0);
    assert_eq!(run.stderr, "");
    let page = run.stdout.replace("\\-", "-");
    for flag in flags_of_the_program() {
        assert!(page.contains(&flag), "{flag}");
    }
    for section in [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "STORAGES",
        "EXAMPLES",
        "ENVIRONMENT",
        "\"EXIT STATUS\"",
    ] {
        assert!(page.contains(&format!(".SH {section}\n")), "{section}");
    }
    for word in [
        "POSTGRES_PASSWORD",
        "OPENSEARCH_HOSTS",
        "REDIS_WORKSPACE",
        "RUST_LOG",
        "130  interrupted",
    ] {
        assert!(page.contains(word), "{word}");
    }
}

#[test]
fn nothing_is_generated_beside_a_run() {
    let scene = Scene::new();
    let run = scene
        .run("--generate man --source ./rag_storage --target ./new --yes")
        .expect(2);
    assert!(run.stderr.contains("--generate"), "{}", run.stderr);
    assert!(!scene.path("new").exists());
}

#[test]
fn a_job_file_is_made_of_the_flags_and_does_the_same() {
    let scene = Scene::new();
    let flags =
        "--source ./rag_storage --target ./new --workspace space1 --types extract,summary --batch-size 5";
    let run = snapshot!(
        scene,
        scene.run(&format!("--generate job {flags} --yes")).expect(0)
    );
    assert!(!scene.path("new").exists());
    scene.file("job.yaml", &run.stdout);
    let of_job = scene.run("--job job.yaml --report job.json").expect(0);
    let of_flags = scene.run(&format!("{flags} --yes")).expect(0);
    assert_eq!(of_job.report()["totals"], of_flags.report()["totals"]);
    assert!(of_job.report()["totals"]["written"].as_u64().unwrap() > 0);
}

#[test]
fn a_job_file_is_not_made_of_what_has_no_field_or_no_meaning() {
    let scene = Scene::new();
    scene.file("other.yaml", "source: json\n");
    for (line, error) in [
        ("--job other.yaml", "--job has no field in a job file"),
        (
            "--source ./rag_storage --timeout 3x",
            "--timeout: expected a duration above 0 such as 30s, found `3x`",
        ),
        (
            "--source rediss",
            "--source: `rediss` is not a kind of storage; did you mean redis?",
        ),
        ("--types nonsense!", "--types"),
    ] {
        let run = scene.run(&format!("--generate job {line}")).expect(2);
        assert!(run.stderr.contains(error), "{}", run.stderr);
    }
}

/// The fields of the example: a field is `#like: this`, text is `# like this`.
fn uncommented(fields: &str) -> String {
    fields
        .lines()
        .filter(|line| !line.starts_with("workspaces:"))
        .map(|line| match line.strip_prefix('#') {
            Some(field) if field.starts_with(|c: char| c.is_ascii_lowercase()) => format!("{field}\n"),
            _ => format!("{line}\n"),
        })
        .collect()
}

#[test]
fn the_schema_accepts_job_files_and_refuses_mistakes() {
    let scene = Scene::new();
    let schema: Value = serde_json::from_str(&scene.run("--generate schema").expect(0).stdout).unwrap();
    assert!(jsonschema::meta::is_valid(&schema));
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let read = |text: &str| serde_yaml::from_str::<Value>(text).unwrap();
    let example = include_str!("../../migrate.example.yaml");
    let (fields, storages) = example.split_once("# All storages").unwrap();
    let uncommented = uncommented(fields);
    let mut accepted = vec![read(example), read(&uncommented)];
    for block in storages.split("\n#target:").skip(1) {
        let block = block.lines().skip(1).take_while(|line| line.starts_with("#  "));
        let fields: String = block
            .map(|line| line.replacen("#  # ", "#  ", 1)[1..].to_owned() + "\n")
            .collect();
        accepted.push(read(&format!("source: json\ntarget:\n{fields}")));
    }
    assert!(accepted.len() > 6, "{}", accepted.len());
    for job in &accepted {
        let errors: Vec<String> = validator
            .iter_errors(job)
            .map(|error| error.to_string())
            .collect();
        assert!(errors.is_empty(), "{errors:?} {job:#}");
    }
    for refused in [
        json!({ "sorce": "json" }),
        json!({ "on_conflict": "replace" }),
        json!({ "dry_run": "maybe" }),
        json!({ "batch": { "size": 5 } }),
        json!({ "target": { "kind": "postgres", "hst": "db" } }),
        json!({ "target": { "host": "db" } }),
        json!({ "workspaces": [] }),
        json!({ "workspaces": [{ "from": "a" }] }),
    ] {
        assert!(!validator.is_valid(&refused), "{refused}");
    }
    assert!(validator.is_valid(&json!({ "retries": null, "lightrag": { "made_for": [{ "host": null }] } })));
    assert!(!validator.is_valid(&json!({ "lightrag": { "made_for": [{ "hst": "x" }] } })));
    assert!(validator.is_valid(&json!({ "dry_run": "${DRY}", "on_conflict": "${POLICY:-skip}" })));
    // What an editor shows for a field, and which fields it offers.
    let mut uncovered: Vec<String> = uncommented
        .lines()
        .filter(|line| !line.starts_with(['#', ' ']))
        .filter_map(|line| Some(line.split_once(':')?.0.to_owned()))
        .collect();
    for (name, field) in schema["properties"].as_object().unwrap() {
        assert!(
            field["description"].as_str().is_some_and(|text| text.len() > 10),
            "{name}"
        );
        uncovered.retain(|known| known != name);
    }
    assert_eq!(uncovered, Vec::<String>::new());
    let policies = schema["properties"]["on_conflict"]["anyOf"].as_array().unwrap();
    let policies: Vec<&str> = policies
        .iter()
        .filter_map(|policy| policy["const"].as_str())
        .collect();
    assert_eq!(policies, ["overwrite", "skip", "newer", "fail"]);
}

fn flags_of_the_program() -> Vec<String> {
    let mut command = Options::command();
    command.build();
    let flags = command.get_arguments().filter_map(|argument| argument.get_long());
    flags.map(|long| format!("--{long}")).collect()
}

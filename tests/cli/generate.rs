//! What the program writes about itself. `ci/operation.sh` shows it to the shells and to the readers of man pages.

use std::process::Command;

use clap::CommandFactory;
use migrate_llm_cache::config::Options;

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

fn flags_of_the_program() -> Vec<String> {
    let mut command = Options::command();
    command.build();
    let flags = command.get_arguments().filter_map(|argument| argument.get_long());
    flags.map(|long| format!("--{long}")).collect()
}

//! What stands on standard output, on standard error and in the report's file.

use std::{
    io::{BufRead, BufReader, Read},
    process::Stdio,
};

use crate::scene::Scene;

#[test]
fn help_teaches_the_commonest_calls() {
    let scene = Scene::new();
    snapshot!(scene, scene.run("--help"));
}

#[test]
fn short_help_points_to_the_long_one() {
    let scene = Scene::new();
    let run = scene.run("-h").expect(0);
    assert!(run.stdout.contains("Add --help for examples"), "{}", run.stdout);
}

#[test]
fn version_is_name_and_number() {
    let scene = Scene::new();
    snapshot!(scene, scene.run("--version"));
}

#[test]
fn human_output_is_on_standard_error() {
    let scene = Scene::new();
    snapshot!(
        scene,
        scene.run("--source ./rag_storage --target ./new --all-workspaces --yes --output human")
    );
}

#[test]
fn a_human_dry_run_says_what_would_be_moved() {
    let scene = Scene::new();
    snapshot!(
        scene,
        scene.run("--source ./rag_storage --target ./new --all-workspaces --dry-run --output human")
    );
    assert!(!scene.path("new").exists());
}

#[test]
fn quiet_leaves_standard_error_to_errors() {
    let scene = Scene::new();
    let quiet = "--source ./rag_storage --output human --quiet --yes";
    let run = scene.run(&format!("{quiet} --target ./new"));
    assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (0, "", ""));
    snapshot!(scene, scene.run(&format!("{quiet} --target ./rag_storage")));
}

#[test]
fn lines_are_the_default_where_nobody_looks() {
    let scene = Scene::new();
    let run = scene.run("--source ./rag_storage --target ./new --yes").expect(0);
    assert!(run.events.len() > 4, "{}", run.stdout);
    assert_eq!(run.stderr, "");
}

#[test]
fn many_workspaces_are_printed_as_sums() {
    let scene = Scene::new();
    scene.workspaces("many", 9);
    let line = "--source ./many --target ./new --all-workspaces --yes --verify full --output human";
    let run = scene.run(line).expect(0);
    let sum = "Counted the source: 9 records in 9 workspaces\n";
    assert!(run.stderr.contains(sum), "{}", run.stderr);
    for one in ["Workspace w", "Verified w"] {
        let is_printed = run.stderr.lines().any(|line| line.starts_with(one));
        assert!(!is_printed, "{}", run.stderr);
    }
}

#[test]
fn the_report_file_holds_the_last_event_whatever_the_end() {
    let scene = Scene::new();
    for (line, code) in [
        ("--source ./rag_storage --target ./new --yes", 0),
        ("--source ./rag_storage --target ./new", 2),
        ("--sorce x", 2),
        ("--source ./none --target ./new --yes", 4),
    ] {
        let run = scene.run(&format!("{line} --report report.json")).expect(code);
        assert_eq!(&scene.read("report.json"), run.report(), "{line}");
        let human = scene.run(&format!("{line} --report report.json --output human"));
        assert_eq!(human.code, code);
        assert_eq!(scene.read("report.json")["exit_code"], code, "{line}");
    }
    let left = std::fs::read_dir(scene.path(".")).unwrap().count();
    assert_eq!(left, 3, "rag_storage, new, report.json");
}

#[test]
fn a_reader_that_goes_away_ends_the_run_cleanly() {
    let scene = Scene::new();
    let mut command = scene
        .tool("--source ./rag_storage --target ./new --all-workspaces --yes --batch-size 1")
        .into_command();
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    lines.read_line(&mut first).unwrap();
    drop(lines);
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(141));
    assert!(first.contains("run_started"), "{first}");
    assert_eq!(stderr, "");
}

#[test]
fn a_reader_of_the_help_that_goes_away_is_no_error() {
    let scene = Scene::new();
    let mut command = scene.tool("--help").into_command();
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_reader_of_the_errors_that_goes_away_changes_nothing() {
    let scene = Scene::new();
    let mut command = scene
        .tool("--source ./rag_storage --target ./new --yes --output human")
        .into_command();
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(scene.path("new").exists());
}

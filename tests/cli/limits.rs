//! What the system does not allow: an error with a report, and nothing that stays.

use std::{
    fs::{Permissions, read_dir, set_permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{
    scene::{CACHE, Scene},
    support::tool::{Run, Tool},
};

/// A user who owns nothing and is nobody else on this machine: root may do what these tests need to be forbidden.
const USER: u32 = 54_321;

fn is_root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Runs the program as that user, in a shell after this command. `None` where the tester is not root and cannot.
fn as_user(before: &str, tool: Tool) -> Option<Run> {
    if !is_root() {
        return None;
    }
    let command = tool.into_command();
    let mut words = vec![command.get_program().to_str().unwrap().to_owned()];
    words.extend(command.get_args().map(|word| word.to_str().unwrap().to_owned()));
    let line = format!("{before}; exec {}", words.join(" "));
    let user = USER.to_string();
    let output = Command::new("setpriv")
        .args([
            "--reuid",
            &user,
            "--regid",
            &user,
            "--clear-groups",
            "bash",
            "-c",
            &line,
        ])
        .env_clear()
        .stdin(Stdio::null())
        .current_dir(command.get_current_dir().unwrap())
        .output()
        .unwrap();
    Some(Run::of(output).checked())
}

fn give(path: &Path) {
    chown(path, Some(USER), Some(USER)).unwrap();
    if path.is_dir() {
        read_dir(path)
            .unwrap()
            .for_each(|entry| give(&entry.unwrap().path()));
    }
}

/// A scene that belongs to the user.
fn scene() -> Scene {
    let scene = Scene::new();
    if is_root() {
        give(&scene.path(""));
    }
    scene
}

fn mode(path: &Path, mode: u32) {
    set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn too_few_threads_are_an_error_with_a_report() {
    let scene = scene();
    let tool = scene.tool("--source ./rag_storage --target ./new --yes --report report.json");
    let Some(run) = as_user("ulimit -u 4", tool) else {
        return;
    };
    assert_eq!(run.code, 10, "{}", run.stderr);
    assert!(run.stderr.contains("ulimit -u"), "{}", run.stderr);
    assert_eq!(scene.read("report.json")["exit_code"], 10);
    assert!(!scene.path("new").exists());
}

#[test]
fn a_source_that_may_not_be_read_is_code_4() {
    let scene = scene();
    mode(&scene.path(&format!("rag_storage/{CACHE}")), 0o000);
    let tool = scene.tool("--source ./rag_storage --target ./new --yes");
    let Some(run) = as_user("true", tool) else { return };
    assert_eq!(run.code, 4, "{}", run.stderr);
    let said = run.stderr.lines().next().unwrap_or_default();
    assert!(
        said.contains("./rag_storage") && said.contains("Permission denied"),
        "{said}"
    );
    assert!(!scene.path("new").exists());
}

#[test]
fn a_folder_that_may_not_be_read_is_no_empty_source() {
    let scene = scene();
    mode(&scene.path("rag_storage"), 0o000);
    for rest in ["", " --all-workspaces", " --dry-run"] {
        let line = format!("--source ./rag_storage --target ./new --yes{rest}");
        let Some(run) = as_user("true", scene.tool(&line)) else {
            return;
        };
        assert_eq!(run.code, 4, "{rest}: {}", run.stderr);
    }
    mode(&scene.path("rag_storage"), 0o755);
}

#[test]
fn a_workspace_that_may_not_be_read_is_a_warning_and_code_3() {
    let scene = scene();
    mode(&scene.path("rag_storage/space1"), 0o000);
    for mode in ["", " --dry-run"] {
        let line = format!("--source ./rag_storage --target ./new --all-workspaces --yes{mode}");
        let Some(run) = as_user("true", scene.tool(&line)) else {
            return;
        };
        assert_eq!(run.code, 3, "{mode}: {}", run.stderr);
        let warning = run.events.iter().find(|event| event["kind"] == "unreadable");
        assert!(warning.unwrap()["message"].as_str().unwrap().contains("space1"));
    }
    mode(&scene.path("rag_storage/space1"), 0o755);
}

#[test]
fn a_target_that_may_not_be_written_is_found_by_a_dry_run_too() {
    let scene = scene();
    std::fs::create_dir(scene.path("closed")).unwrap();
    mode(&scene.path("closed"), 0o555);
    let mut codes = Vec::new();
    for mode in [" --dry-run", ""] {
        let line = format!("--source ./rag_storage --target ./closed --yes{mode}");
        let Some(run) = as_user("true", scene.tool(&line)) else {
            return;
        };
        codes.push(run.code);
        assert_eq!(read_dir(scene.path("closed")).unwrap().count(), 0);
    }
    assert_eq!(codes, [5, 5]);
}

/// A monitor that looks at the report of the last run must not see the one of the run before.
#[test]
fn the_report_that_a_flag_names_is_written_where_the_job_file_cannot_be_read() {
    let scene = scene();
    std::fs::create_dir(scene.path("folder")).unwrap();
    scene
        .file("broken.yaml", "source: [")
        .file("unknown.yaml", "sorce: json")
        .file("forbidden.yaml", "source: json");
    mode(&scene.path("forbidden.yaml"), 0o000);
    for job in [
        "missing.yaml",
        "broken.yaml",
        "unknown.yaml",
        "folder",
        "forbidden.yaml",
    ] {
        scene.file("report.json", r#"{"exit_code": 0}"#);
        mode(&scene.path("report.json"), 0o666);
        let line = format!("--job {job} --yes --report report.json --metrics run.prom");
        let Some(run) = as_user("true", scene.tool(&line)) else {
            return;
        };
        assert_eq!(run.code, 2, "{job}: {}", run.stderr);
        let report: Value = scene.read("report.json");
        assert_eq!(
            (&report["exit_code"], &report["status"]),
            (&2.into(), &"refused".into()),
            "{job}"
        );
        let metrics = std::fs::read_to_string(scene.path("run.prom")).unwrap();
        assert!(
            metrics.contains("last_run_exit_code{migration=\"run\"} 2"),
            "{job}: {metrics}"
        );
    }
}

//! Flag > job file > process environment > `.env` > `config.ini` > default, step by step.

use crate::{
    scene::Scene,
    support::tool::{Run, Tool},
};

/// The source's place and the first workspace, as the plan has them.
fn plan(run: &Run) -> (String, String) {
    let plan = run.events_of("plan").next().expect("a plan");
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    (
        text(&plan["source"]["location"]),
        text(&plan["workspaces"][0]["from"]),
    )
}

#[test]
fn a_place_comes_from_the_strongest_that_names_it() {
    let scene = Scene::new();
    for folder in ["of_flag", "of_job", "of_environment", "of_dot_env"] {
        std::fs::create_dir(scene.path(folder)).unwrap();
    }
    scene
        .file("job.yaml", "source: { kind: json, working_dir: ./of_job }\n")
        .file(".env", "WORKING_DIR=./of_dot_env\n");
    let place = |tool: Tool| plan(&tool.run().expect(0)).0;
    let rest = "--target ./new/x.json --dry-run";

    let every = |line: &str| {
        scene
            .tool(&format!("{line} {rest}"))
            .env("WORKING_DIR", "./of_environment")
    };
    assert_eq!(place(every("--source ./of_flag --job job.yaml")), "./of_flag");
    assert_eq!(place(every("--job job.yaml")), "./of_job");
    assert_eq!(place(every("--source json")), "./of_environment");
    assert_eq!(
        place(scene.tool(&format!("--source json {rest}"))),
        "./of_dot_env"
    );
    std::fs::remove_file(scene.path(".env")).unwrap();
    assert_eq!(
        place(scene.tool(&format!("--source json {rest}"))),
        "./rag_storage"
    );
}

#[test]
fn a_kind_alone_on_the_command_line_takes_its_place_from_the_job_file() {
    let scene = Scene::new();
    std::fs::create_dir(scene.path("of_job")).unwrap();
    scene.file("job.yaml", "source: { kind: json, working_dir: ./of_job }\n");
    let run = scene.run("--source JsonKVStorage --job job.yaml --target ./new/x.json --dry-run");
    assert_eq!(plan(&run.expect(0)).0, "./of_job");
}

#[test]
fn a_workspace_comes_from_the_strongest_that_names_it() {
    let scene = Scene::new();
    scene
        .file("job.yaml", "workspaces: of_job\n")
        .file(".env", "WORKSPACE=of_dot_env\n");
    let workspace = |tool: Tool| plan(&tool.run().expect(0)).1;
    let rest = "--source ./rag_storage --target ./new --dry-run";
    let every = |line: &str| {
        scene
            .tool(&format!("{line} {rest}"))
            .env("WORKSPACE", "of_environment")
    };

    assert_eq!(workspace(every("--workspace of_flag --job job.yaml")), "of_flag");
    assert_eq!(
        workspace(every("--source-workspace of_flag --job job.yaml")),
        "of_flag"
    );
    assert_eq!(
        workspace(every("--workspace-map of_flag=x --job job.yaml")),
        "of_flag"
    );
    assert_eq!(workspace(every("--all-workspaces --job job.yaml")), "");
    assert_eq!(workspace(every("--job job.yaml")), "of_job");
    assert_eq!(workspace(every("")), "of_environment");
    assert_eq!(workspace(scene.tool(rest)), "of_dot_env");
    std::fs::remove_file(scene.path(".env")).unwrap();
    assert_eq!(workspace(scene.tool(rest)), "");
}

#[test]
fn options_of_flags_win_over_those_of_the_job_file() {
    let scene = Scene::new();
    scene.file(
        "job.yaml",
        "source: ./rag_storage\ntarget: ./new\non_conflict: skip\non_invalid: sanitize\n\
         batch: { records: 5, bytes: 1KiB }\nconcurrency: 3\ntimeout: 5s\ntypes: [summary]\n",
    );
    let options = |line: &str| {
        let run = scene.run(&format!("--job job.yaml --dry-run {line}")).expect(0);
        run.events_of("plan").next().unwrap().clone()
    };
    let of_job = options("");
    assert_eq!(of_job["types"], serde_json::json!(["summary"]));
    let flags = "--on-conflict newer --on-invalid reject --batch-size 6 --batch-bytes 2KiB --concurrency 4 \
                 --timeout 6s --types query";
    let of_flags = options(flags);
    assert_eq!(of_flags["types"], serde_json::json!(["query"]));
    for (name, job, flag) in [
        ("on_conflict", "\"skip\"", "\"newer\""),
        ("on_invalid", "\"sanitize\"", "\"reject\""),
        ("batch_records", "5", "6"),
        ("batch_bytes", "1024", "2048"),
        ("concurrency", "3", "4"),
        ("timeout_ms", "5000", "6000"),
    ] {
        assert_eq!(of_job["options"][name].to_string(), job, "{name}");
        assert_eq!(of_flags["options"][name].to_string(), flag, "{name}");
    }
}

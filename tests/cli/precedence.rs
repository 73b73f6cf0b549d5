//! Flag > job file > process environment > `.env` > `config.ini` > default, step by step.

use crate::{
    scene::Scene,
    support::{
        place::service,
        tool::{Run, Tool},
    },
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

#[test]
fn every_step_counts_for_a_server() {
    // A database number for each step; a dry run makes nothing in any.
    let address = |database: u8| {
        let mut url = url::Url::parse(&service("redis")).unwrap();
        url.set_path(&database.to_string());
        String::from(url)
    };
    let scene = Scene::new();
    scene
        .file(
            "job.yaml",
            &format!("target: {{ kind: redis, uri: \"{}\" }}\n", address(2)),
        )
        .file(".env", &format!("REDIS_URI={}\n", address(4)))
        .file("config.ini", &format!("[redis]\nuri = {}\n", address(5)));
    let database = |tool: Tool| {
        let run = tool.run().expect(0);
        let plan = run.events_of("plan").next().unwrap();
        plan["target"]["location"]
            .as_str()
            .unwrap()
            .rsplit('/')
            .next()
            .unwrap()
            .to_owned()
    };
    let tool = |line: &str| scene.tool(&format!("--source ./rag_storage --dry-run {line}"));
    let every = |line: &str| tool(line).env("REDIS_URI", &address(3));

    assert_eq!(
        database(every(&format!("--job job.yaml --target {}", address(1)))),
        "1"
    );
    assert_eq!(database(every("--job job.yaml")), "2");
    assert_eq!(database(every("--target redis")), "3");
    assert_eq!(database(tool("--target redis")), "4");
    std::fs::remove_file(scene.path(".env")).unwrap();
    assert_eq!(database(tool("--target redis")), "5");
    std::fs::remove_file(scene.path("config.ini")).unwrap();
    // Nobody may listen at the default address, which is then named.
    let run = tool("--target redis --retries 0").run();
    let told = format!("{}{}", run.stdout, run.stderr);
    assert!(told.contains("localhost:6379"), "{told}");
}

#[test]
fn a_workspace_of_one_storage_comes_before_that_of_all() {
    let scene = Scene::new();
    let target = format!("--target {}", service("redis"));
    let run = scene
        .tool(&format!("--source ./rag_storage --dry-run {target}"))
        .env("WORKSPACE", "of_all")
        .env("REDIS_WORKSPACE", "of_redis")
        .run()
        .expect(0);
    let plan = run.events_of("plan").next().unwrap();
    assert_eq!(
        plan["workspaces"],
        serde_json::json!([{"from": "of_all", "to": "of_redis"}])
    );
}

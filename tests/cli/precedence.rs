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
    let rest = "--target ./new/x.json --dry-run --allow-missing";

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
    let run =
        scene.run("--source JsonKVStorage --job job.yaml --target ./new/x.json --dry-run --allow-missing");
    assert_eq!(plan(&run.expect(0)).0, "./of_job");
}

#[test]
fn a_workspace_comes_from_the_strongest_that_names_it() {
    let scene = Scene::new();
    scene
        .file("job.yaml", "workspaces: of_job\n")
        .file(".env", "WORKSPACE=of_dot_env\n");
    let workspace = |tool: Tool| plan(&tool.run().expect(0)).1;
    let rest = "--source ./rag_storage --target ./new --dry-run --allow-missing";
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
#[ignore = "needs the test servers: scripts/services.sh"]
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
#[ignore = "needs the test servers: scripts/services.sh"]
fn a_workspace_of_one_storage_comes_before_that_of_all() {
    let scene = Scene::new();
    let target = format!("--target {}", service("redis"));
    let run = scene
        .tool(&format!(
            "--source ./rag_storage --dry-run --allow-missing {target}"
        ))
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

/// Both workspaces of the one pair in the plan.
fn pair(run: &Run) -> (String, String) {
    let plan = run.events_of("plan").next().expect("a plan");
    let name = |side: &str| plan["workspaces"][0][side].as_str().unwrap().to_owned();
    (name("from"), name("to"))
}

#[test]
fn a_workspace_that_is_named_for_one_side_is_the_other_sides_too_unless_that_has_one() {
    let scene = Scene::new();
    scene.file("job.yaml", "workspaces: { from: job_from, to: job_to }\n");
    let rest = "--source ./rag_storage --target ./new --dry-run --allow-missing";
    let of = |line: &str, environment: Option<&str>| {
        let tool = scene.tool(&format!("{rest} {line}"));
        let tool = environment
            .into_iter()
            .fold(tool, |tool, name| tool.env("WORKSPACE", name));
        pair(&tool.run().expect(0))
    };
    for (line, environment, from, to) in [
        ("--source-workspace space1", None, "space1", "space1"),
        ("--target-workspace x", None, "x", "x"),
        ("--source-workspace space1", Some("w"), "space1", "w"),
        ("--target-workspace x", Some("space2"), "space2", "x"),
        (
            "--workspace space1 --target-workspace x",
            Some("w"),
            "space1",
            "x",
        ),
        (
            "--workspace x --source-workspace space1",
            Some("w"),
            "space1",
            "x",
        ),
        ("--job job.yaml", Some("w"), "job_from", "job_to"),
        (
            "--job job.yaml --source-workspace space1",
            Some("w"),
            "space1",
            "job_to",
        ),
        ("--job job.yaml --target-workspace x", Some("w"), "job_from", "x"),
        ("", Some(""), "", ""),
    ] {
        let expected = (from.to_owned(), to.to_owned());
        assert_eq!(
            of(line, environment),
            expected,
            "{line} with WORKSPACE={environment:?}"
        );
    }
    scene.file("job.yaml", "workspaces: [a, b]\n");
    scene
        .run(&format!("{rest} --job job.yaml --target-workspace x"))
        .expect(2);
}

#[test]
fn of_the_names_in_workspace_and_of_lightrags_server_the_one_with_a_cache_counts() {
    let entries =
        serde_json::json!({"default:extract:0123456789abcdef0123456789abcdef": crate::scene::value("x")});
    let run = |folders: &[&str], code: i32| {
        let scene = Scene::new();
        for folder in folders {
            scene.cache(folder, &entries);
        }
        let run = scene
            .tool("--source ./rag_storage --target ./new --dry-run --allow-missing")
            .env("WORKSPACE", "my-app")
            .run();
        run.expect(code)
    };
    for (folders, from, to) in [
        (&["rag_storage/my_app"][..], "my_app", "my_app"),
        (&["rag_storage/my-app"], "my-app", "my-app"),
        (&["rag_storage/my-app", "new/my_app"], "my-app", "my_app"),
        (&["rag_storage/my_app", "new/my-app"], "my_app", "my-app"),
        (&[], "my-app", "my-app"),
    ] {
        let run = run(folders, 0);
        assert_eq!(pair(&run), (from.to_owned(), to.to_owned()), "{folders:?}");
        let warnings = run.report()["warnings"].to_string();
        assert!(warnings.contains("LightRAG's server makes my_app"), "{warnings}");
    }
    let both = run(&["rag_storage/my-app", "rag_storage/my_app"], 10);
    let told = both.report()["errors"].to_string();
    assert!(told.contains("my-app") && told.contains("my_app"), "{told}");
    run(&["new/my-app", "new/my_app"], 10);
}

/// LightRAG's server replaces what no folder can be called, and its library refuses such a name: so only one can be meant.
#[test]
fn a_name_in_workspace_that_no_workspace_can_have_is_the_one_that_lightrags_server_makes_of_it() {
    let entries =
        serde_json::json!({"default:extract:0123456789abcdef0123456789abcdef": crate::scene::value("x")});
    for (line, workspace) in [
        ("WORKSPACE=a\\$b", "a__b"),
        ("WORKSPACE=team/docs", "team_docs"),
        ("WORKSPACE=..", "__"),
    ] {
        let scene = Scene::new();
        scene.cache(&format!("rag_storage/{workspace}"), &entries);
        scene.file(".env", line);
        let run = scene.run("--source ./rag_storage --target ./new --yes").expect(0);
        assert_eq!(pair(&run), (workspace.to_owned(), workspace.to_owned()), "{line}");
        assert_eq!(run.total("written"), 1, "{line}");
        let warnings = run.report()["warnings"].to_string();
        let told = format!("LightRAG's server makes {workspace} of it");
        assert!(warnings.contains(&told), "{line}: {warnings}");
        assert!(warnings.contains("./.env line 1"), "{line}: {warnings}");
        // Where somebody names it for a storage or to us, it is taken as it is, and refused.
        let name = line.split_once('=').unwrap().1;
        scene
            .tool("--source ./rag_storage --target redis://127.0.0.1:1/0 --dry-run")
            .env("REDIS_WORKSPACE", name)
            .run()
            .expect(2);
    }
    // A password that was put there would be taken apart, and not recognized any more.
    let scene = Scene::new();
    scene.file(".env", "WORKSPACE=redis://u:hidden@h/0\n");
    let run = scene
        .tool("--source ./rag_storage --target ./new --dry-run")
        .secret("hidden")
        .run();
    run.expect(2);
}

/// Lines that python-dotenv reads, or only warns of, and that have nothing to do with the run.
#[test]
fn what_else_is_in_dot_env_concerns_nobody() {
    for (line, is_warned_of) in [
        ("WEBUI_TITLE=Graph RAG Engine", false),
        ("ENTITY_TYPES=[\"Person\", \"Place\"]", false),
        ("MODELS=C:\\models\\x", false),
        ("TITLE=Anna's graph", false),
        ("FLAG", false),
        ("MY-KEY.x=1", false),
        ("X=\"C:\\users\"", false),
        ("Y='it\\'s'", false),
        ("; note", true),
        ("X=\"open", true),
    ] {
        let scene = Scene::new();
        scene.file(
            ".env",
            &format!("\u{feff}# first\r\n{line}\r\nWORKSPACE=${{W:-space1}}\r\n"),
        );
        let run = scene
            .run("--source ./rag_storage --target ./new --dry-run")
            .expect(0);
        assert_eq!(pair(&run).0, "space1", "{line}");
        let warnings = run.report()["warnings"].to_string();
        assert_eq!(
            warnings.contains("./.env line 2 "),
            is_warned_of,
            "{line}: {warnings}"
        );
        assert_eq!(run.events_of("warning").count() > 0, is_warned_of, "{line}");
    }
}

#[test]
fn a_dry_run_says_where_each_setting_came_from() {
    let scene = Scene::new();
    scene
        .file(
            "job.yaml",
            "source:\n  kind: json\n  working_dir: ./rag_storage\n",
        )
        .file(".env", "# note\nWORKING_DIR=./new\n")
        .file("config.ini", "[postgres]\nuser = x\n");
    let run = scene
        .tool("--job job.yaml --target json --source-workspace space1 --dry-run")
        .env("WORKSPACE", "w")
        .run()
        .expect(0);
    let plan = run.events_of("plan").next().unwrap();
    assert_eq!(
        plan["settings"],
        serde_json::json!({
            "source": [
                {"name": "working_dir", "value": "./rag_storage", "origin": "source.working_dir in job.yaml line 3"},
                {"name": "workspace", "value": "space1", "origin": "--source-workspace"},
            ],
            "target": [
                {"name": "working_dir", "value": "./new", "origin": "WORKING_DIR in ./.env line 2"},
                {"name": "workspace", "value": "w", "origin": "the variable WORKSPACE"},
            ],
        })
    );
}

#[test]
fn a_config_ini_that_lightrag_refuses_is_an_error_only_for_who_needs_a_value_of_it() {
    let scene = Scene::new();
    scene.file(
        "config.ini",
        "[redis]\nuri = redis://127.0.0.1:1\n[postgres]\nuser = a\nuser = b\n",
    );
    let warned = scene
        .run("--source ./rag_storage --target ./new --dry-run")
        .expect(0);
    let warnings = warned.report()["warnings"].to_string();
    assert!(
        warnings.contains("./config.ini line 5: `user` is defined twice"),
        "{warnings}"
    );
    let refused = scene.run("--source ./rag_storage --target redis").expect(2);
    let told = refused.report()["errors"].to_string();
    assert!(
        told.contains("./config.ini line 5") && told.contains("[redis] uri"),
        "{told}"
    );
    let given = scene.tool("--source ./rag_storage --target redis --retries 0");
    given.env("REDIS_URI", "redis://127.0.0.1:2").run().expect(5);
}

#[test]
fn a_folder_in_place_of_dot_env_is_ignored() {
    let scene = Scene::new();
    std::fs::create_dir(scene.path(".env")).unwrap();
    let run = scene.run("--source json --target ./new --dry-run").expect(0);
    assert!(
        run.report()["warnings"]
            .to_string()
            .contains("./.env is a folder")
    );
}

#[test]
fn a_password_that_lightrag_is_not_told_is_its_clients() {
    let scene = Scene::new();
    scene.file(
        ".env",
        "POSTGRES_HOST=127.0.0.1\nPOSTGRES_PORT=1\nPGPASSWORD=theirs\n",
    );
    let arguments = "--source ./rag_storage --target postgres --workspace space1 --dry-run --retries 0";
    let told = |own: Option<&str>| {
        let tool = scene.tool(arguments);
        let run = match own {
            Some(password) => tool.env("POSTGRES_PASSWORD", password).run(),
            None => tool.run(),
        };
        run.expect(5).report()["errors"].to_string()
    };
    let clients = "password from PGPASSWORD in ./.env line 3";
    assert!(told(None).contains(clients), "{}", told(None));
    // An empty one is a password to the client.
    for own in ["", "ours"] {
        let told = told(Some(own));
        assert!(
            told.contains("password from the variable POSTGRES_PASSWORD"),
            "{told}"
        );
    }
}

//! The guided way, at a terminal of 80 × 24, as somebody goes it who knows the guide to LightRAG's tool.

use rexpect::process::Signal;
use serde_json::Value;

use crate::{
    scene::Scene,
    support::{
        place::Place,
        state,
        terminal::{Screen, Terminal},
        tool::Tool,
    },
};

const SOURCE: &str = "Select the source storage type";
const TARGET: &str = "Select the target storage type";
const WORKSPACES: &str = "Workspaces to move";

/// The program with LightRAG's variables for a place, which is to be the target.
fn tool(scene: &Scene, line: &str, place: &Place, variable: &str) -> Tool {
    let tool = scene
        .tool(line)
        .env("WORKSPACE", "space1")
        .env(variable, &place.workspace("w"));
    place
        .lightrag_env()
        .into_iter()
        .fold(tool, |tool, (name, value)| tool.env(name, &value))
}

/// The report that `--report report.json` left.
fn report(scene: &Scene) -> Value {
    let report = scene.read("report.json");
    crate::support::tool::check_report(&report);
    report
}

fn assert_shows(screen: &Screen, text: &str) {
    assert!(screen.text().contains(text), "no {text:?} in:\n{}", screen.text());
}

#[test]
#[ignore = "needs the test servers: scripts/services.sh"]
fn the_whole_way_of_the_guide_from_json_to_redis() {
    let scene = Scene::new();
    let place = Place::new("redis");
    let tool = tool(
        &scene,
        "--interactive --report report.json",
        &place,
        "REDIS_WORKSPACE",
    );
    let mut terminal = Terminal::start(tool, "");
    terminal
        .wait_for(SOURCE)
        .enter("1")
        .wait_for("Workspaces to move, such as 1,2 (Enter for space1)")
        .enter("")
        .wait_for(TARGET)
        .enter("1");
    let screen = terminal.wait_for("Continue?").enter("y").end().expect(0);
    let mut settings = scene.settings();
    settings.add_filter(&place.prefix, "");
    settings.bind(|| insta::assert_snapshot!(screen.text()));
    assert_eq!(screen.wrapped, Vec::<String>::new());
    assert_eq!(report(&scene)["totals"]["written"], 22);
    assert_eq!(state::of(&place).len(), 22);
    let password = url::Url::parse(&place.address).unwrap();
    assert!(!screen.raw().contains(password.password().unwrap()));

    // Once more: what is there is told before it is written over.
    let tool = self::tool(
        &scene,
        "--interactive --on-conflict skip",
        &place,
        "REDIS_WORKSPACE",
    );
    let mut terminal = Terminal::start(tool, "");
    terminal
        .wait_for(SOURCE)
        .enter("JsonKVStorage")
        .wait_for(WORKSPACES)
        .enter("")
        .wait_for(TARGET)
        .enter("redis");
    terminal.wait_for("Warning: the target already has 22 records");
    let screen = terminal.wait_for("Continue?").enter("y").end().expect(0);
    assert_shows(&screen, "Skipped (already there):          22");
}

#[test]
fn a_wrong_entry_is_asked_again() {
    let scene = Scene::new();
    let tool = scene.tool("--interactive");
    let mut terminal = Terminal::start(tool, "");
    terminal
        .wait_for(SOURCE)
        .enter("9")
        .wait_for("[9] is not in the list: enter a number from 0 to 6");
    // The field is empty again.
    terminal.enter("jsn").wait_for("did you mean json?");
    terminal
        .enter("1")
        .wait_for(WORKSPACES)
        .enter("spce1")
        .wait_for("did you mean space1?")
        .enter("1,4")
        .wait_for("[4] is not in the list: enter numbers from 1 to 3")
        .enter("")
        .wait_for(TARGET)
        .enter("6")
        .wait_for("[6] is not in the list");
    terminal.enter("0").end().expect(0);
}

#[test]
fn an_archive_is_asked_for_its_path() {
    let scene = Scene::new();
    let tool = scene.tool("--interactive --source ./rag_storage --all-workspaces");
    let mut terminal = Terminal::start(tool, "");
    terminal.wait_for(TARGET).enter("archive");
    terminal
        .wait_for("Path of the target (archive):")
        .enter("backup.zip")
        .wait_for("a path that ends in .jsonl or .jsonl.zst");
    terminal.enter("").wait_for("enter a path that ends in");
    // As a file manager or a shell copies it.
    terminal.enter("\"backup.jsonl.zst\" ");
    terminal.wait_for("Continue?").enter("YES").end().expect(0);
    let lines =
        zstd::stream::decode_all(&std::fs::read(scene.path("backup.jsonl.zst")).unwrap()[..]).unwrap();
    assert_eq!(lines.iter().filter(|byte| **byte == b'\n').count(), 67 + 2);
}

#[test]
fn workspaces_are_picked_from_a_list() {
    for (answer, target_workspace, records, command) in [
        ("a", None, 67, "--all-workspaces"),
        ("3, space1", None, 31, "--workspace-map space2=space2"),
        ("space2", None, 9, "--source-workspace space2"),
        ("space2", Some("other"), 9, "--target-workspace other"),
    ] {
        let scene = Scene::new();
        let line = "--interactive --target ./new --report report.json";
        let mut terminal = Terminal::start(scene.tool(line), "");
        terminal
            .wait_for(SOURCE)
            .enter("1")
            .wait_for("[1] (empty)")
            .wait_for("[a] all")
            .wait_for("(Enter for (empty))")
            .enter(answer);
        if target_workspace.is_some() {
            drop(terminal);
            let mut asked = Terminal::start(scene.tool("--interactive --report report.json"), "");
            asked
                .wait_for(SOURCE)
                .enter("1")
                .wait_for(WORKSPACES)
                .enter(answer);
            asked.wait_for(TARGET).enter("a").wait_for("(1-6)").enter("1");
            asked.wait_for("Address or path").enter("./new");
            asked
                .wait_for("Workspace of the target (Enter for space2)")
                .enter("other");
            terminal = asked;
        }
        terminal.wait_for(command);
        terminal.wait_for("Continue?").enter("y").end().expect(0);
        assert_eq!(report(&scene)["totals"]["written"], records);
    }
}

#[test]
fn the_same_run_is_shown_as_a_command_and_saved_as_a_job_file() {
    let scene = Scene::new();
    scene.file("taken.yaml", "");
    let line = "--interactive --source ./rag_storage --workspace space1 --types extract,summary";
    let mut terminal = Terminal::start(scene.tool(line).env("WORKING_DIR", "./new"), "");
    terminal.wait_for(TARGET).enter("a").wait_for("(1-6)").enter("1");
    terminal.wait_for("Address or path").enter("./new");
    terminal.wait_for("Continue?").enter("s");
    terminal
        .wait_for("Path of the job file")
        .enter("taken.yaml")
        .wait_for("exists already")
        .enter("job.yaml")
        .wait_for("Saved. To run it: migrate-llm-cache --job job.yaml --yes");
    let screen = terminal.wait_for("Continue?").enter("y").end().expect(0);
    let shown = screen.text();
    let (_, command) = shown.split_once("The same run as a command:").expect("a command");
    let command: Vec<&str> = command.lines().skip(1).take(2).collect();
    assert_eq!(
        command,
        [
            "  migrate-llm-cache --source ./rag_storage --target ./new --workspace space1 \\",
            "    --types extract,summary --yes",
        ],
        "{shown}"
    );
    for again in [
        "--source ./rag_storage --target ./new --workspace space1 --types extract,summary --yes",
        "--job job.yaml --yes",
    ] {
        let run = scene.run(&format!("{again} --on-conflict skip")).expect(0);
        assert!(run.total("skipped") > 0 && run.total("written") == 0, "{again}");
    }
    assert_eq!(std::fs::read_to_string(scene.path("taken.yaml")).unwrap(), "");
    // Settings of a job file are in one already.
    let line = "--interactive --job job.yaml";
    let mut terminal = Terminal::start(scene.tool(line), "");
    terminal
        .wait_for("Continue? (y/n)")
        .enter("s")
        .wait_for("enter y or n")
        .enter("n")
        .end()
        .expect(2);
}

#[test]
fn the_source_is_left_out_of_the_targets_unless_asked_for() {
    let scene = Scene::new();
    let mut terminal = Terminal::start(scene.tool("--interactive --source ./rag_storage"), "");
    terminal
        .wait_for("[1] RedisKVStorage")
        .wait_for("[4] OpenSearchKVStorage");
    terminal.wait_for("[a] show all").wait_for("(1-5)").enter("a");
    terminal
        .wait_for("[1] JsonKVStorage")
        .wait_for("(1-6)")
        .enter("1");
    terminal
        .wait_for("Address or path of the target")
        .enter("./new")
        .wait_for("Workspace of the target")
        .enter("w");
    let screen = terminal.wait_for("Continue?").enter("y").end().expect(0);
    assert_shows(&screen, "source workspace (empty): 36");
    assert_eq!(
        scene
            .read(&format!("new/w/{}", crate::scene::CACHE))
            .as_object()
            .unwrap()
            .len(),
        36
    );
}

#[test]
fn enter_and_0_end_it_with_nothing_done() {
    for (answers, line) in [
        (&[""][..], "--interactive"),
        (&["0"], "--interactive"),
        (&["1", ""], "--interactive --workspace space1"),
        (&["1", "0"], "--interactive --workspace space1"),
        (&["0"], "--interactive --target ./new"),
    ] {
        let scene = Scene::new();
        let mut terminal = Terminal::start(scene.tool(&format!("{line} --report report.json")), "");
        for answer in answers {
            terminal.wait_for("to exit):").enter(answer);
        }
        let screen = terminal.end().expect(0);
        assert_shows(&screen, "Nothing was selected. Nothing was written.");
        let report = report(&scene);
        assert_eq!(
            (&report["status"], &report["totals"]["read"]),
            (&"ok".into(), &0.into())
        );
    }
}

#[test]
fn ctrl_c_and_ctrl_d_end_every_question_with_130() {
    for key in ["\u{3}", "\u{4}"] {
        for questions in 0..3 {
            let scene = Scene::new();
            let line = "--interactive --workspace w --report report.json";
            let mut terminal = Terminal::start(scene.tool(line), "");
            terminal.wait_for(SOURCE);
            if questions > 0 {
                terminal.enter("1").wait_for(TARGET);
            }
            if questions > 1 {
                terminal
                    .enter("a")
                    .wait_for("(1-6)")
                    .enter("1")
                    .wait_for("Address or path of the target");
            }
            let screen = terminal.keys(key).end().expect(130);
            assert_eq!(report(&scene)["status"], "interrupted", "{}", screen.text());
        }
    }
}

#[test]
fn a_service_manager_ends_a_question_with_143() {
    let scene = Scene::new();
    let mut terminal = Terminal::start(scene.tool("--interactive --report report.json"), "");
    terminal
        .wait_for(SOURCE)
        .signal(Signal::SIGTERM)
        .end()
        .expect(143);
    assert_eq!(report(&scene)["exit_code"], 143);
}

#[test]
fn a_no_writes_nothing_and_is_code_2() {
    let scene = Scene::new();
    let line = "--interactive --source ./rag_storage --target ./new --report report.json";
    let mut terminal = Terminal::start(scene.tool(line), "");
    let screen = terminal
        .wait_for("Continue?")
        .enter("")
        .wait_for("enter y, n or s")
        .enter("n")
        .end()
        .expect(2);
    assert_shows(&screen, "nothing was written");
    assert!(!scene.path("new").exists());
    assert_eq!(report(&scene)["errors"]["by_kind"]["not_confirmed"], 1);
}

#[test]
fn copies_are_offered_where_lightrag_asks_for_other_keys() {
    for (answer, rekeyed) in [("y", true), ("n", false)] {
        let scene = Scene::new();
        let tool = scene
            .tool("--interactive --source ./rag_storage --target ./new --report report.json")
            .env("LLM_BINDING", "openai")
            .env("LLM_MODEL", "gpt-4o-mini");
        let mut terminal = Terminal::start(tool, "");
        terminal
            .wait_for("0 of 36 records will be used by LightRAG")
            .wait_for("Add copies under the keys that LightRAG will look up")
            .enter(answer);
        terminal.wait_for("Continue?").enter("y").end().expect(0);
        let report = report(&scene);
        assert_eq!(report["totals"]["written"], 36);
        assert_eq!(report["hits"].is_object(), rekeyed, "{report:#}");
        if rekeyed {
            let total = &report["hits"]["total"];
            assert!(total["rekeyed"].as_u64().unwrap() > 0, "{total:#}");
        }
    }
}

#[test]
fn what_is_given_is_not_asked() {
    for (line, code) in [
        ("--source ./rag_storage --target ./new --yes", 0),
        ("--source ./rag_storage --target ./new --dry-run", 0),
        ("--source ./rag_storage --target ./rag_storage --yes", 10),
        ("--source ./none --target ./new", 4),
    ] {
        let scene = Scene::new();
        let screen = Terminal::start(scene.tool(&format!("--interactive {line}")), "")
            .end()
            .expect(code);
        assert!(!screen.text().contains('?'), "{}", screen.text());
    }
}

#[test]
#[ignore = "needs the test servers: scripts/services.sh"]
fn a_wrong_variable_is_named_and_may_be_corrected_meanwhile() {
    let scene = Scene::new();
    scene.file(".env", "# note\nPOSTGRES_PORT=543x\n");
    let place = Place::new("postgres");
    let port = url::Url::parse(&place.address).unwrap().port().unwrap();
    let line = "--interactive --source ./rag_storage --source-workspace space1";
    let tool = place
        .lightrag_env()
        .into_iter()
        .filter(|(name, _)| *name != "POSTGRES_PORT")
        .fold(scene.tool(line), |tool, (name, value)| tool.env(name, &value))
        .env("POSTGRES_WORKSPACE", &place.workspace("w"));
    let mut terminal = Terminal::start(tool, "");
    terminal
        .wait_for(TARGET)
        .enter("PGKVStorage")
        .wait_for("error: target: POSTGRES_PORT=543x in ./.env line 2: expected a port");
    terminal.wait_for(TARGET);
    scene.file(".env", &format!("POSTGRES_PORT={port}\n"));
    terminal.enter("2").wait_for("POSTGRES_PORT (./.env line 1)");
    terminal.wait_for("Continue?").enter("y").end().expect(0);
    assert_eq!(state::of(&place).len(), 22);
}

#[test]
fn a_server_that_is_not_there_is_told_and_another_may_be_chosen() {
    let scene = Scene::new();
    let tool = scene
        .tool("--interactive --source ./rag_storage --retries 0 --report report.json")
        .env("REDIS_URI", "redis://127.0.0.1:1");
    let mut terminal = Terminal::start(tool, "");
    terminal.wait_for(TARGET).enter("1").wait_for("error: target: ");
    terminal.wait_for(TARGET).enter("").end().expect(0);
    assert_eq!(report(&scene)["errors"]["total"], 0);
}

#[test]
fn without_a_terminal_it_says_so() {
    let scene = Scene::new();
    snapshot!(scene, scene.run("--interactive"));
    // A terminal for the words alone is not enough, nor one for the answers alone.
    for redirection in ["</dev/null", "2>/dev/null"] {
        Terminal::start(scene.tool("--interactive"), redirection)
            .end()
            .expect(2);
    }
}

#[test]
fn standard_output_is_data_alone() {
    let scene = Scene::new();
    let line = "--interactive --source ./rag_storage --target ./new";
    let mut terminal = Terminal::start(scene.tool(line), ">events.jsonl");
    let screen = terminal.wait_for("Continue?").enter("y").end().expect(0);
    assert_shows(&screen, "Successfully migrated:");
    let events = std::fs::read_to_string(scene.path("events.jsonl")).unwrap();
    let events: Vec<Value> = events
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(events.last().unwrap()["event"], "report");
    assert_eq!(events[0]["event"], "run_started");
}

#[test]
fn an_empty_source_is_told_before_a_target_is_chosen_and_nothing_is_asked_then() {
    let scene = Scene::new();
    let line = "--interactive --source ./rag_storage --workspace spce1";
    let mut terminal = Terminal::start(scene.tool(line).env("WORKING_DIR", "./new"), "");
    terminal
        .wait_for("caches in these workspaces: (empty), space1, space2")
        .wait_for(TARGET);
    let screen = terminal
        .enter("a")
        .wait_for("(1-6)")
        .enter("1")
        .wait_for("Address or path")
        .enter("")
        .end()
        .expect(9);
    assert_shows(&screen, "has no cache in the workspace spce1");
}

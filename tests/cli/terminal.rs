//! What a person sees while a run goes on: bars at a terminal, lines in a pipe, colours where they are wanted.

use serde_json::{Map, Value, json};

use crate::{
    scene::{Scene, value},
    support::{
        records::key,
        terminal::{Screen, Terminal},
    },
};

/// A scene with a cache of so many records in ./many.
fn scene_of(records: u64) -> Scene {
    let scene = Scene::new();
    let entries: Map<String, Value> = (0..records).map(|n| (key("extract", n), value("x"))).collect();
    scene.cache("many", &entries.into());
    scene
}

/// Whether a text has an escape code.
fn has_escapes(text: &str) -> bool {
    text.contains('\u{1b}')
}

fn at_terminal(scene: &Scene, line: &str) -> Screen {
    Terminal::start(scene.tool(line).env("TERM", "xterm-256color"), "").end()
}

#[test]
fn bars_disappear_and_results_remain() {
    let scene = scene_of(3_000);
    let screen = at_terminal(&scene, "--source ./many --target ./new --yes --batch-size 100").expect(0);
    let raw = screen.raw();
    for shown in [
        "Counting the source",
        "Moving (empty)",
        "/3,000 records, ",
        "extract",
        " left",
    ] {
        assert!(raw.contains(shown), "no {shown} in {raw}");
    }
    assert_eq!(screen.wrapped, Vec::<String>::new());
    scene.settings().bind(|| insta::assert_snapshot!(screen.text()));
}

#[test]
fn the_workspaces_are_numbered() {
    let scene = Scene::new();
    let line = "--source ./rag_storage --target ./new --yes --all-workspaces --verify full";
    let screen = at_terminal(&scene, line).expect(0);
    assert!(
        screen.raw().contains("Moving space2 (3 of 3)"),
        "{}",
        screen.raw()
    );
    assert_eq!(screen.wrapped, Vec::<String>::new());
}

#[test]
fn many_workspaces_have_one_bar() {
    let scene = Scene::new();
    scene.workspaces("many", 9);
    // Slow enough for a bar to be drawn.
    let line = "--source ./many --target ./new --yes --all-workspaces --verify full --rate-limit 20/s";
    let screen = at_terminal(&scene, line).expect(0);
    assert!(screen.raw().contains("Moving 9 workspaces"), "{}", screen.raw());
    assert!(!screen.raw().contains("Moving w"), "{}", screen.raw());
    assert!(!screen.text().contains("Verified w"), "{}", screen.text());
    assert_eq!(screen.wrapped, Vec::<String>::new());
}

#[test]
fn wide_names_and_keys_stay_in_their_line() {
    let scene = Scene::new();
    let workspace = "w".repeat(120);
    let wide = format!("default:extract:{}", "k".repeat(300));
    scene.cache(
        &format!("odd/{workspace}"),
        &json!({wide: null, key("extract", 1): value("x")}),
    );
    let line = format!(
        "--source ./odd --target ./{} --yes --all-workspaces",
        "t".repeat(120)
    );
    let screen = at_terminal(&scene, &line).expect(3);
    assert!(
        screen.text().contains("1. default:extract:kk"),
        "{}",
        screen.text()
    );
    assert_eq!(screen.wrapped, Vec::<String>::new());
}

#[test]
fn rejected_records_are_listed_once() {
    let scene = Scene::new();
    let entries: Map<String, Value> = (0..40)
        .map(|n| {
            (
                key("extract", n),
                if n % 2 == 0 { value("x") } else { Value::Null },
            )
        })
        .collect();
    scene.cache("odd", &entries.into());
    let screen = at_terminal(&scene, "--source ./odd --target ./new --yes --batch-size 2").expect(3);
    assert_eq!(screen.wrapped, Vec::<String>::new());
    scene.settings().bind(|| insta::assert_snapshot!(screen.text()));
}

#[test]
fn colours_follow_the_flag_and_no_color() {
    let scene = Scene::new();
    let line = "--source ./rag_storage --target ./new --yes";
    let colored = |more: &str, variable: Option<&str>| {
        let mut tool = scene
            .tool(&format!("{line} {more}"))
            .env("TERM", "xterm-256color");
        if let Some(name) = variable {
            tool = tool.env(name, "1");
        }
        Terminal::start(tool, "").end().expect(0).has_colors()
    };
    assert!(colored("", None));
    assert!(!colored("", Some("NO_COLOR")));
    assert!(!colored("--color never", None));
    assert!(colored("--color always", Some("NO_COLOR")));
}

#[test]
fn questions_have_no_colours_either_where_none_are_wanted() {
    let scene = Scene::new();
    for (line, variable) in [("--color never", "OTHER"), ("", "NO_COLOR")] {
        let tool = scene.tool(&format!(
            "--interactive --source ./rag_storage --target ./new {line}"
        ));
        let tool = tool.env("TERM", "xterm-256color").env(variable, "1");
        let mut terminal = Terminal::start(tool, "");
        let screen = terminal.wait_for("Continue?").enter("y").end().expect(0);
        assert!(!screen.has_colors(), "{:?}", screen.raw());
    }
}

#[test]
fn a_pipe_gets_lines_without_escape_codes() {
    let scene = scene_of(3_000);
    let line = "--source ./many --target ./new --yes --batch-size 1 --output human";
    let run = scene.run(line).expect(0);
    assert!(!has_escapes(&run.stderr), "{}", run.stderr);
    // Not one for each batch.
    assert!(run.stderr.lines().count() < 40, "{}", run.stderr);
    assert!(run.stderr.contains("3,000/3,000"), "{}", run.stderr);
    let forced = scene.run(&format!("{line} --color always")).expect(0);
    assert!(has_escapes(&forced.stderr), "{}", forced.stderr);
    let forced = scene.tool(line).env("CLICOLOR_FORCE", "1").run().expect(0);
    assert!(has_escapes(&forced.stderr), "{}", forced.stderr);
}

#[test]
fn help_and_errors_follow_the_flag_too() {
    let scene = Scene::new();
    assert!(!has_escapes(&scene.run("--help").stdout));
    assert!(has_escapes(&scene.run("--help --color always").stdout));
    assert!(at_terminal(&scene, "--help").has_colors());
    assert!(!at_terminal(&scene, "--help --color never").has_colors());
    assert!(!has_escapes(&scene.run("--sorce x").stderr));
    let wrong = scene.run("--sorce x --color=always --output human").expect(2);
    assert!(
        has_escapes(&wrong.stderr) && wrong.stderr.contains("`--source`"),
        "{}",
        wrong.stderr
    );
}

#[test]
fn the_job_file_may_say_it() {
    let scene = Scene::new();
    scene.file(
        "job.yaml",
        "source: ./rag_storage\ntarget: ./new\nyes: true\noutput: human\ncolor: always\n",
    );
    assert!(has_escapes(&scene.run("--job job.yaml").expect(0).stderr));
    assert!(!has_escapes(
        &scene.run("--job job.yaml --color never").expect(0).stderr
    ));
}

#[test]
fn rejected_records_are_reported_even_with_quiet() {
    let scene = Scene::new();
    scene.cache(
        "odd",
        &json!({key("extract", 1): null, key("extract", 2): value("x")}),
    );
    for line in ["--quiet", "--quiet --output human", ""] {
        let run = scene
            .run(&format!("--source ./odd --target ./new --yes {line}"))
            .expect(3);
        let first = run.stderr.lines().next().unwrap_or_default();
        assert_eq!(
            first, "error: 1 of 2 records was rejected (not_an_object 1)",
            "{line}"
        );
    }
}

#[test]
fn several_workspaces_are_reported_as_a_table() {
    let scene = Scene::new();
    let line = "--source ./rag_storage --target ./new --all-workspaces --output human";
    for run in [
        scene.run(&format!("{line} --dry-run")).expect(0),
        scene.run(&format!("{line} --yes")).expect(0),
    ] {
        let (_, table) = run.stderr.split_once("\nWorkspace  To move").expect("a table");
        let lines: Vec<&str> = table.lines().skip(1).take(3).collect();
        for (line, name) in lines.iter().zip(["(empty) ", "space1 ", "space2 "]) {
            assert!(line.starts_with(name), "{}", run.stderr);
        }
    }
    let one = scene.run("--source ./rag_storage --target ./one --workspace space1 --yes --output human");
    assert!(!one.stderr.contains("\nWorkspace  To move"), "{}", one.stderr);
    snapshot!(scene, scene.run(&format!("{line} --yes --on-conflict skip")));
}

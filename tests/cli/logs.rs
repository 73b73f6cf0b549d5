//! The log on standard error: for people, or for a collector of logs.

use serde_json::Value;

use crate::{scene::Scene, support::tool::Run};

/// Every line of standard error as an object.
fn lines(run: &Run) -> Vec<Value> {
    let lines = run.stderr.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect()
}

const MOVE: &str = "--source ./rag_storage --target ./new --all-workspaces --yes";

#[test]
fn a_run_that_goes_well_logs_nothing() {
    let scene = Scene::new();
    let run = scene.run(&format!("{MOVE} --log-format json")).expect(0);
    assert_eq!(run.stderr, "");
}

#[test]
fn the_beginning_and_the_end_of_a_run_are_logged_for_information() {
    let scene = Scene::new();
    let run = scene
        .run(&format!("{MOVE} --log-format json --log-level info"))
        .expect(0);
    let lines = lines(&run);
    let messages: Vec<_> = lines
        .iter()
        .map(|line| line["message"].as_str().unwrap())
        .collect();
    assert_eq!(messages, ["run started", "run ended"]);
    assert_eq!(lines[1]["written"].as_u64(), Some(run.total("written")));
    assert_eq!(lines[1]["level"], "INFO");
    assert_eq!(lines[0]["run_id"], run.report()["run_id"]);
}

#[test]
fn requests_are_logged_to_find_the_slow_one() {
    let scene = Scene::new();
    let run = scene
        .run(&format!(
            "{MOVE} --log-format json --log-level migrate_llm_cache=debug"
        ))
        .expect(0);
    let requests: Vec<_> = lines(&run)
        .into_iter()
        .filter(|line| line["message"] == "request")
        .collect();
    assert!(
        requests.iter().any(|line| line["request"] == "connecting"),
        "{requests:?}"
    );
    assert!(requests.iter().all(|line| line["duration_ms"].is_u64()));
}

#[test]
fn errors_are_lines_of_the_log_where_that_is_json() {
    let scene = Scene::new();
    scene.file("job.yaml", "source: ./none\ntarget: ./new\nlog_format: json\n");
    for (line, code, kind) in [
        ("--job job.yaml", 4, "not_found"),
        ("--job job.yaml --log-level warnn", 2, "config"),
        ("--sorce x --log-format json", 2, "usage"),
    ] {
        let run = scene.run(line).expect(code);
        let errors = lines(&run);
        assert_eq!(errors.len(), 1, "{}", run.stderr);
        assert_eq!(
            (&errors[0]["level"], &errors[0]["kind"]),
            (&"ERROR".into(), &kind.into())
        );
        assert_eq!(errors[0]["exit_code"], code);
        assert!(errors[0]["remedy"].is_string(), "{errors:?}");
    }
}

#[test]
fn the_environment_filters_the_log_where_no_flag_does() {
    let scene = Scene::new();
    let logged = |level: &str, flags: &str| {
        let run = scene
            .tool(&format!("{MOVE} {flags}"))
            .env("RUST_LOG", level)
            .run();
        run.expect(0).stderr
    };
    assert!(logged("info", "").contains("INFO migrate_llm_cache::app: run started"));
    assert_eq!(logged("info", "--log-level off"), "");
    assert_eq!(logged("migrate_llm_cache=error", ""), "");
}

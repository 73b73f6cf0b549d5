//! Every exit code, with all that is said beside it. 130 and 143 are among the signals, 141 in the output's tests.

use std::{process::Stdio, time::Duration};

use serde_json::{Map, Value, json};

use crate::{
    scene::{Scene, value},
    support::{records::key, tool::Run},
};

#[test]
fn code_0_for_a_run_that_moved_everything() {
    let scene = Scene::new();
    snapshot!(
        scene,
        scene.run("--source ./rag_storage --target ./new --workspace space2 --yes")
    );
}

#[test]
fn code_0_for_nothing_to_do() {
    let scene = Scene::new();
    let run = snapshot!(
        scene,
        scene.run("--source ./rag_storage --target ./new --workspace none --allow-missing --yes")
    );
    assert_eq!(run.code, 0);
    assert!(!scene.path("new").exists());
}

#[test]
fn code_2_for_a_missing_yes() {
    let scene = Scene::new();
    let run = snapshot!(scene, scene.run("--source ./rag_storage --target ./new"));
    assert_eq!(run.code, 2);
    assert!(!scene.path("new").exists());
}

#[test]
fn code_2_for_a_wrong_flag() {
    let scene = Scene::new();
    snapshot!(scene, scene.run("--sorce ./rag_storage --target ./new"));
}

#[test]
fn code_3_for_a_run_that_had_to_leave_records() {
    let scene = Scene::new();
    let entries = json!({
        key("extract", 1): value("good"),
        key("extract", 2): null,
        key("extract", 3): "a string",
        key("summary", 4): [1, 2],
        "mix:query:00000000000000000000000000000005": null,
    });
    scene.cache("odd", &entries);
    let run = snapshot!(scene, scene.run("--source ./odd --target ./new --yes"));
    assert_eq!((run.code, run.total("written"), run.total("rejected")), (3, 1, 3));
}

#[test]
fn code_4_for_a_source_that_cannot_be_read() {
    let scene = Scene::new();
    snapshot!(scene, scene.run("--source ./rag_strage --target ./new --yes"));
}

#[test]
fn code_5_for_a_target_that_cannot_be_written() {
    let scene = Scene::new();
    scene.file("file", "");
    snapshot!(
        scene,
        scene.run("--source ./rag_storage --target ./file/new --yes")
    );
}

#[test]
fn code_6_for_a_target_that_differs() {
    let scene = Scene::new();
    scene
        .cache("old", &json!({key("extract", 1): value("same"), key("extract", 2): value("old"), key("extract", 3): value("x")}))
        .cache("new", &json!({key("extract", 1): value("same"), key("extract", 2): value("new")}));
    let run = snapshot!(scene, scene.run("--source ./old --target ./new --verify-only"));
    assert_eq!(run.code, 6);
}

#[test]
fn code_7_for_more_rejects_than_allowed() {
    let scene = Scene::new();
    scene.cache(
        "odd",
        &json!({key("extract", 1): null, key("extract", 2): null, key("extract", 3): value("x")}),
    );
    let run = snapshot!(
        scene,
        scene.run("--source ./odd --target ./new --yes --max-errors 1 --batch-size 1 --concurrency 1")
    );
    assert_eq!(run.code, 7);
}

#[test]
fn code_8_for_a_run_that_took_too_long() {
    let scene = Scene::new();
    let entries: Map<String, Value> = (0..3_000).map(|n| (key("extract", n), value("x"))).collect();
    scene.cache("many", &entries.into());
    let line = "--source ./many --target ./new --yes --batch-size 1 --max-duration 2s --checkpoint c";
    let child = scene
        .tool(line)
        .into_command()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Nobody reads, so that the run waits with its output until its time is over.
    std::thread::sleep(Duration::from_millis(2500));
    let run = Run::of(child.wait_with_output().unwrap()).checked().expect(8);
    snapshot_end!(scene, run);
}

#[test]
fn code_11_for_the_checkpoint_of_another_job() {
    let scene = Scene::new();
    let line = "--source ./rag_storage --yes --checkpoint checkpoint";
    scene.run(&format!("{line} --target ./one")).expect(0);
    let run = snapshot!(scene, scene.run(&format!("{line} --target ./new --resume")));
    assert_eq!(run.code, 11);
    assert!(!scene.path("new").exists());
}

#[test]
fn code_9_for_nothing_where_there_should_be_something() {
    let scene = Scene::new();
    snapshot!(
        scene,
        scene.run(
            "--source ./rag_storage --target ./new --workspace none --allow-missing --yes --fail-on-empty"
        )
    );
}

#[test]
fn code_10_for_the_same_place_on_both_sides() {
    let scene = Scene::new();
    snapshot!(
        scene,
        scene.run("--source ./rag_storage --target ./rag_storage/../rag_storage --yes")
    );
}

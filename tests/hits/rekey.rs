//! LightRAG ingests, the cache is moved, LightRAG with the model at another host ingests again: who pays?

use std::path::Path;

use serde_json::{Value, json};

use crate::{
    lightrag::{cache_of, ingest_again},
    support::{
        place::Place,
        tool::{Run, Tool},
    },
};

const NEWEST: &str = "1.5.7";

fn at(host: &str) -> Value {
    json!({"identity": {"binding": "openai", "model": "m", "host": host}})
}

/// The tool where LightRAG's configuration still names the old host, and a flag the new one.
fn tool(folder: &Path, arguments: &[&str]) -> Run {
    std::fs::write(
        folder.join(".env"),
        "LLM_BINDING=openai\nLLM_MODEL=m\nLLM_BINDING_HOST=http://compose:8000/v1\n",
    )
    .unwrap();
    let mut all = vec!["--llm-host", "http://cluster/v1", "--output", "jsonl", "--yes"];
    all.extend(arguments);
    Tool::new(&all).in_directory(folder).run()
}

fn report(run: &Run) -> &Value {
    run.events.last().unwrap()
}

fn moved_with_rekey(kind: &'static str) {
    let (source, workspace, first) = cache_of(NEWEST, &at("http://compose:8000/v1"));
    assert!(first.calls > 10);
    let target = Place::new(kind);
    let to = target.workspace("moved");
    let folder = tempfile::tempdir().unwrap();
    let run = tool(
        folder.path(),
        &[
            "--source",
            &source.address,
            "--target",
            &target.address,
            "--source-workspace",
            &workspace,
            "--target-workspace",
            &to,
            "--rekey",
            "host",
            "--verify",
            "full",
        ],
    );
    assert_eq!(run.code, 0, "{}", run.stderr);
    let report = report(&run);
    assert_eq!(report["rekeyed"], first.calls, "{report}");
    assert_eq!(report["totals"]["written"], first.calls);
    assert_eq!(report["hits"]["total"]["other_host"], first.calls);
    assert_eq!(report["verification"]["copies"], first.calls);
    assert_eq!(report["verification"]["beyond"], 0);
    let again = ingest_again(NEWEST, &target, &to, &at("http://cluster/v1"));
    assert_eq!(again.calls, 0, "every answer is in the cache");
    let with_old_keys = ingest_again(NEWEST, &target, &to, &at("http://compose:8000/v1"));
    assert_eq!(with_old_keys.calls, 0);
}

macro_rules! kinds {
    ($($kind:ident)*) => {
        mod after_a_move_with_rekey_nothing_is_paid_again {
            $(
                #[test]
                fn $kind() {
                    super::moved_with_rekey(stringify!($kind));
                }
            )*
        }
    };
}

kinds!(json redis postgres mongo opensearch);

#[test]
fn after_a_move_without_rekey_everything_is_paid_again() {
    let (source, workspace, first) = cache_of(NEWEST, &at("http://compose:8000/v1"));
    let target = Place::new("redis");
    let to = target.workspace("moved");
    let folder = tempfile::tempdir().unwrap();
    let run = tool(
        folder.path(),
        &[
            "--source",
            &source.address,
            "--target",
            &target.address,
            "--source-workspace",
            &workspace,
            "--target-workspace",
            &to,
            "--hits",
        ],
    );
    assert_eq!(run.code, 0, "{}", run.stderr);
    let report = report(&run);
    assert_eq!(report["hits"]["total"]["other_host"], first.calls);
    assert_eq!(
        (&report["hits"]["total"]["will_hit"], &report["rekeyed"]),
        (&json!(0), &json!(0))
    );
    let again = ingest_again(NEWEST, &target, &to, &at("http://cluster/v1"));
    assert_eq!(again.calls, first.calls);
}

fn rekeyed_in_place(kind: &'static str) {
    let (source, workspace, first) = cache_of(NEWEST, &at("http://compose:8000/v1"));
    let folder = tempfile::tempdir().unwrap();
    let (place, name) = if kind == "json" {
        (source, workspace)
    } else {
        let place = Place::new(kind);
        let name = place.workspace("there");
        let run = tool(
            folder.path(),
            &[
                "--source",
                &source.address,
                "--target",
                &place.address,
                "--source-workspace",
                &workspace,
                "--target-workspace",
                &name,
            ],
        );
        assert_eq!(run.code, 0, "{}", run.stderr);
        (place, name)
    };
    let arguments = [
        "--source",
        &place.address,
        "--target",
        &place.address,
        "--workspace",
        &name,
        "--rekey",
        "host",
        "--verify",
        "full",
    ];
    let run = tool(folder.path(), &arguments);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let done = report(&run);
    assert_eq!(done["rekeyed"], first.calls, "{done}");
    assert_eq!(done["totals"]["written"], 0);
    assert_eq!(done["totals"]["selected"], done["totals"]["skipped"]);

    // Once more adds nothing.
    let run = tool(folder.path(), &arguments);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let total = &report(&run)["hits"]["total"];
    assert_eq!(report(&run)["rekeyed"], 0);
    assert_eq!(total["rekey_existing"], first.calls);
    assert_eq!(total["records"], 2 * first.calls);
    assert_eq!(total["will_hit"], first.calls);

    let again = ingest_again(NEWEST, &place, &name, &at("http://cluster/v1"));
    assert_eq!(again.calls, 0);
}

#[test]
fn rekeyed_in_place_json_costs_nothing() {
    rekeyed_in_place("json");
}

#[test]
fn rekeyed_in_place_redis_costs_nothing() {
    rekeyed_in_place("redis");
}

#[test]
fn rekeyed_in_place_postgres_costs_nothing() {
    rekeyed_in_place("postgres");
}

#[test]
fn the_same_place_is_refused_without_rekey() {
    let (source, workspace, _) = cache_of(NEWEST, &at("http://compose:8000/v1"));
    let folder = tempfile::tempdir().unwrap();
    let arguments = [
        "--source",
        &source.address,
        "--target",
        &source.address,
        "--workspace",
        &workspace,
        "--hits",
    ];
    assert_eq!(tool(folder.path(), &arguments).code, 10);
}

#[test]
fn a_record_that_is_under_the_new_key_already_is_left_as_it_is() {
    let (source, workspace, first) = cache_of(NEWEST, &at("http://compose:8000/v1"));
    let (other, other_workspace, _) = cache_of(NEWEST, &at("http://cluster/v1"));
    // The target has the answers of the new host, with a mark.
    let text = std::fs::read_to_string(other.file(&other_workspace)).unwrap();
    let mut records: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
    for record in records.values_mut() {
        record["mark"] = json!("own");
    }
    let target = Place::new("json");
    let to = target.workspace("moved");
    std::fs::create_dir_all(target.file(&to).parent().unwrap()).unwrap();
    std::fs::write(target.file(&to), serde_json::to_string(&records).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let run = tool(
        folder.path(),
        &[
            "--source",
            &source.address,
            "--target",
            &target.address,
            "--source-workspace",
            &workspace,
            "--target-workspace",
            &to,
            "--rekey",
            "host",
        ],
    );
    assert_eq!(run.code, 0, "{}", run.stderr);
    let total = &report(&run)["hits"]["total"];
    assert_eq!(
        (&total["rekeyed"], &total["rekey_existing"]),
        (&json!(0), &json!(first.calls))
    );
    let text = std::fs::read_to_string(target.file(&to)).unwrap();
    let after: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(after.len() as u64, 2 * first.calls);
    assert_eq!(
        after.values().filter(|record| record["mark"] == "own").count() as u64,
        first.calls
    );
}

#[test]
fn an_unknown_release_is_refused_before_anything_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let run = tool(
        folder.path(),
        &[
            "--source",
            "./nowhere",
            "--target",
            "./nothing",
            "--lightrag-version",
            "9.9.9",
        ],
    );
    assert_eq!(run.code, 2);
    assert!(
        run.stderr.contains("9.9.9") && run.stderr.contains("1.5.7"),
        "{}",
        run.stderr
    );
}

//! What holds for every storage and each of its servers in whole runs.

use serde_json::{Map, Value};

use crate::{
    pair::put,
    support::{
        oracle,
        place::{Place, SERVERS},
        records::{key, known_meaning, shapes},
        state,
        tool::Tool,
    },
};

/// The cache that LightRAG wrote: the empty workspace, space1 and space2.
const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/sample/rag_storage");

/// A dry run leaves the target's server as it was, down to tables and folders.
pub fn a_dry_run_makes_nothing(server: &str) {
    let target = Place::alone(server);
    let workspace = target.workspace("w");
    let before = state::of(&target);
    let arguments = [
        "--source",
        SAMPLE,
        "--target",
        &target.address,
        "--source-workspace",
        "space1",
        "--target-workspace",
        &workspace,
        "--dry-run",
    ];
    let run = Tool::new(&arguments).run().expect(0);
    assert!(run.total("selected") > 0);
    assert_eq!(run.total("written"), 0);
    assert_eq!(state::of(&target), before);
    if target.server.is_files() {
        assert!(!std::path::Path::new(&target.address).exists());
    }
}

/// `--all-workspaces` finds what has a cache. Servers are shared, so that only ours are looked for.
pub fn all_workspaces_are_all_that_the_source_has(server: &str) {
    let source = Place::alone(server);
    let ours = [source.workspace("one"), source.workspace("two")];
    let value = shapes().remove(0).1;
    for workspace in &ours {
        put(&source, workspace, &[(key("extract", 1), value.clone())]);
    }
    let target = Place::new("json");
    // Whatever else is on a shared server is not ours to move.
    let shared = matches!(source.kind, "redis" | "opensearch");
    let how = if shared { "--dry-run" } else { "--yes" };
    let arguments = [
        "--source",
        &source.address,
        "--target",
        &target.address,
        "--all-workspaces",
        how,
    ];
    let run = Tool::new(&arguments).run().expect(0);
    let plan = run.events_of("plan").next().unwrap();
    let mut found: Vec<&str> = plan["workspaces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| pair["from"].as_str().unwrap())
        .collect();
    if shared {
        found.retain(|name| name.starts_with(&source.prefix));
        assert_eq!(found, ours);
        return;
    }
    assert_eq!(found, ours);
    for workspace in &ours {
        let read = oracle::read(&target, workspace, &[key("extract", 1)]);
        assert_eq!(read[0].as_ref().unwrap()["return"], value["return"]);
    }
}

/// The empty workspace, which PostgreSQL calls `default`, is the empty one again when it comes back.
pub fn the_empty_workspace_comes_back(server: &str) {
    let (there, back) = (Place::alone(server), Place::new("json"));
    for (source, target) in [(SAMPLE, &there.address), (&there.address, &back.address)] {
        let arguments = ["--source", source, "--target", target, "--workspace", "", "--yes"];
        let run = Tool::new(&arguments).run().expect(0);
        assert!(run.total("written") > 0);
    }
    let text = std::fs::read(back.file("")).unwrap();
    let keys: Map<String, Value> = serde_json::from_slice(&text).unwrap();
    let keys: Vec<String> = keys.into_iter().map(|(key, _)| key).collect();
    let expected = oracle::read(&there, "", &keys);
    for ((key, found), expected) in keys.iter().zip(oracle::read(&back, "", &keys)).zip(expected) {
        assert_eq!(
            known_meaning(&found.unwrap()),
            known_meaning(&expected.unwrap()),
            "{key}"
        );
    }
}

/// A state that would not show a write would prove nothing.
#[test]
fn a_state_changes_with_every_write_and_with_no_read() {
    for name in SERVERS.iter().map(|server| server.name) {
        let place = Place::new(name);
        let workspace = place.workspace("w");
        let records = [(key("extract", 1), shapes().remove(0).1)];
        let nothing = state::of(&place);
        oracle::write(&place, &workspace, &records, 1_700_000_000);
        let written = state::of(&place);
        assert_ne!(written, nothing, "{name}");
        oracle::read(&place, &workspace, &[key("extract", 1)]);
        assert_eq!(state::of(&place), written, "{name}");
        oracle::write(&place, &workspace, &records, 1_700_000_001);
        assert_ne!(state::of(&place), written, "{name}");
        state::remove(&place);
        assert!(place.server.is_files() || state::of(&place).is_empty(), "{name}");
    }
}

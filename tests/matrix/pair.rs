//! One source, one target, two workspaces at once.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::support::{
    oracle,
    place::Place,
    records::{KNOWN, key, known_meaning, shapes, unknown_fields},
    state::{self, State},
    tool::{Run, Tool},
};

/// A record's key and value.
type Entry = (String, Value);

/// When LightRAG wrote the source.
const WRITTEN: u64 = 1_700_000_000;

/// Moves two workspaces from one server to another, or to other workspaces of the same.
pub fn moves(source: &str, target: &str) {
    let elsewhere = (source != target).then(|| Place::new(target));
    let source = Place::new(source);
    let target = elsewhere.as_ref().unwrap_or(&source);
    let pairs = ["one", "two"].map(|name| (source.workspace(name), target.workspace(&format!("new{name}"))));

    let given: Vec<Vec<Entry>> = pairs.iter().map(|(from, _)| fill(&source, from)).collect();
    let neighbour = target.workspace("neighbour");
    oracle::write(target, &neighbour, &plain("somebody else's", "extract"), WRITTEN);
    oracle::write(target, &pairs[0].1, &plain("old", "extract"), WRITTEN);
    oracle::write(target, &pairs[0].1, &queries("the target's own"), WRITTEN);

    let before = Bystanders::of(&source, target, &pairs, &neighbour);
    let run = migrate(&source, target, &pairs);
    let moved: usize = given.iter().map(Vec::len).sum();
    assert_eq!(run.total("selected"), moved as u64);
    assert_eq!(run.total("written"), moved as u64);
    assert_eq!(run.total("rejected"), 0);
    before.assert_untouched(&Bystanders::of(&source, target, &pairs, &neighbour));

    let odd: BTreeSet<String> = odd("").into_iter().map(|(key, _)| key).collect();
    for ((from, to), given) in pairs.iter().zip(&given) {
        let keys: Vec<String> = given.iter().map(|(key, _)| key.clone()).collect();
        let expected = read_without_touching(&source, from, &keys);
        let found = oracle::read(target, to, &keys);
        for (((key, value), expected), found) in given.iter().zip(expected).zip(found) {
            let expected = expected.unwrap_or_else(|| panic!("LightRAG finds no {key} at the source"));
            let found = found.unwrap_or_else(|| panic!("LightRAG finds no {key} at the target"));
            assert_eq!(known_meaning(&found), known_meaning(&expected), "{key}");
            if holds_any_field(source.kind) && holds_any_field(target.kind) {
                assert_eq!(unknown(&found), unknown(&expected), "{key}");
            }
            assert_eq!(found["return"], value["return"], "{key}");
            // What LightRAG wrote itself it stamped and completed; what we wrote for it is as it was given.
            if odd.contains(key) {
                assert_eq!(
                    known_meaning(&found),
                    known_meaning(value.as_object().unwrap()),
                    "{key}"
                );
            }
        }
    }
    assert_queries_stayed(target, &pairs);
    assert_left_behind_is_told(source.kind, target.kind, &run);
}

/// Fills a workspace: what LightRAG writes by LightRAG, and by our tool what LightRAG would not write any more. Gives what
/// a migration is to move.
fn fill(source: &Place, workspace: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    for cache_type in ["extract", "summary", "analysis"] {
        entries.extend(plain(workspace, cache_type));
    }
    oracle::write(source, workspace, &entries, WRITTEN);
    oracle::write(source, workspace, &queries("the source's own"), WRITTEN);
    let odd = odd(workspace);
    put(source, workspace, &odd);
    if source.kind == "redis" {
        state::expire(source, &format!("{workspace}_llm_response_cache:{}", odd[0].0));
    }
    entries.extend(odd);
    entries
}

/// Records as LightRAG makes them. The texts tell workspaces apart, the keys do not.
fn plain(text: &str, cache_type: &str) -> Vec<Entry> {
    let entry = |number| {
        let value = json!({
            "return": format!("{text} {number}"), "original_prompt": format!("{text}?"), "cache_type": cache_type,
            "chunk_id": (cache_type == "extract").then(|| format!("chunk-{number}")), "queryparam": null,
        });
        (key(cache_type, number), value)
    };
    (0..5).map(entry).collect()
}

/// Answers to questions, which stay where they are.
fn queries(text: &str) -> Vec<Entry> {
    let entry = |(mode, cache_type)| {
        let value = json!({
            "return": text, "original_prompt": "Who keeps the light?", "cache_type": cache_type,
            "chunk_id": null, "queryparam": {"mode": mode, "top_k": 40},
        });
        (format!("{mode}:{cache_type}:{:032x}", 7), value)
    };
    [("mix", "query"), ("local", "keywords")]
        .into_iter()
        .map(entry)
        .collect()
}

/// Records that LightRAG reads and does not write, or not any more.
fn odd(workspace: &str) -> Vec<Entry> {
    let values = shapes().into_iter().map(|(_, value)| value);
    let mut own = unknown_fields();
    own["return"] = json!(workspace);
    let numbered = values.chain([own]).enumerate();
    numbered
        .map(|(at, value)| (key("extract", 1000 + at as u64), value))
        .collect()
}

/// Puts records as they are at a place, by way of a JSON file.
pub fn put(place: &Place, workspace: &str, entries: &[Entry]) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("records.json");
    let all: Map<String, Value> = entries.iter().cloned().collect();
    std::fs::write(&file, serde_json::to_vec_pretty(&all).unwrap()).unwrap();
    let file = file.to_str().unwrap();
    let arguments = [
        "--source",
        file,
        "--target",
        &place.address,
        "--target-workspace",
        workspace,
        "--yes",
    ];
    let run = Tool::new(&arguments).run().expect(0);
    assert_eq!(run.total("written"), entries.len() as u64);
}

fn migrate(source: &Place, target: &Place, pairs: &[(String, String)]) -> Run {
    let mut arguments = vec!["--source", &source.address, "--target", &target.address, "--yes"];
    let maps: Vec<String> = pairs.iter().map(|(from, to)| format!("{from}={to}")).collect();
    for map in &maps {
        arguments.extend(["--workspace-map", map]);
    }
    Tool::new(&arguments).run().expect(0)
}

/// Has LightRAG read at the source. A JSON source is copied first: LightRAG may rewrite what it opens.
fn read_without_touching(
    source: &Place,
    workspace: &str,
    keys: &[String],
) -> Vec<Option<Map<String, Value>>> {
    if source.kind == "json" {
        oracle::read(&source.copy(), workspace, keys)
    } else {
        oracle::read(source, workspace, keys)
    }
}

fn holds_any_field(kind: &str) -> bool {
    kind != "postgres"
}

/// The fields that LightRAG does not know.
fn unknown(value: &Map<String, Value>) -> BTreeMap<&String, &Value> {
    let ours = unknown_fields();
    value
        .iter()
        .filter(|(name, _)| ours.get(name).is_some() && !KNOWN.contains(&name.as_str()))
        .collect()
}

/// What a run must not touch.
struct Bystanders {
    /// The workspaces that were read.
    read: State,
    /// A workspace at the target that the run does not name.
    neighbour: State,
    /// Query caches in a workspace that was written.
    queries: State,
}

impl Bystanders {
    fn of(source: &Place, target: &Place, pairs: &[(String, String)], neighbour: &str) -> Self {
        let of_source = state::of(source);
        let of_target = state::of(target);
        let read = pairs.iter().flat_map(|(from, _)| state::part(&of_source, from));
        Self {
            read: read.collect(),
            neighbour: state::part(&of_target, neighbour),
            queries: state::part(&state::part(&of_target, &pairs[0].1), "mix:query:"),
        }
    }

    fn assert_untouched(&self, after: &Self) {
        assert!(!self.read.is_empty() && !self.neighbour.is_empty());
        assert_eq!(after.read, self.read, "the source was touched");
        assert_eq!(after.neighbour, self.neighbour, "another workspace was touched");
        assert_eq!(after.queries, self.queries, "a query cache was touched");
    }
}

/// LightRAG still finds the target's own answers to questions, and none of the source's.
fn assert_queries_stayed(target: &Place, pairs: &[(String, String)]) {
    let keys: Vec<String> = queries("").into_iter().map(|(key, _)| key).collect();
    for found in oracle::read(target, &pairs[0].1, &keys) {
        assert_eq!(found.unwrap()["return"], "the target's own");
    }
    for found in oracle::read(target, &pairs[1].1, &keys) {
        assert_eq!(found, None, "a query cache was moved");
    }
}

/// A field for which the target has no place is named, once a workspace.
fn assert_left_behind_is_told(source_kind: &str, target_kind: &str, run: &Run) {
    let warnings = run.events_of("warning").map(|event| event["message"].to_string());
    let told = warnings.filter(|message| message.contains("`score`")).count();
    let expected = if holds_any_field(source_kind) && !holds_any_field(target_kind) {
        2
    } else {
        0
    };
    assert_eq!(told, expected);
}

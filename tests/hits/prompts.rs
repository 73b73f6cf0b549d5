//! A cache of many releases' prompts: what is said to be hit is what LightRAG asks for.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::{
    lightrag::cache_of,
    support::{place::Place, tool::Tool},
};

const NEWEST: &str = "1.5.7";

fn identity() -> Value {
    json!({"binding": "openai", "model": "m", "host": "http://here"})
}

/// The entries of a cache file, by flat key.
fn entries(place: &Place, workspace: &str) -> BTreeMap<String, Value> {
    let text = std::fs::read_to_string(place.file(workspace)).unwrap();
    let mut entries: BTreeMap<String, Value> = serde_json::from_str(&text).unwrap();
    if let Some(Value::Object(nested)) = entries.remove("default") {
        let flat = nested
            .into_iter()
            .map(|(hash, value)| (format!("default:extract:{hash}"), value));
        entries.extend(flat);
    }
    entries
}

/// What the program finds out about a cache of these entries, read by the newest LightRAG.
fn examined(entries: &BTreeMap<String, Value>, json: bool) -> Value {
    let place = Place::new("json");
    let file = place.file("w");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, serde_json::to_string(entries).unwrap()).unwrap();
    let target = Place::new("json");
    let run = Tool::new(&[
        "--source",
        &place.address,
        "--target",
        &target.address,
        "--workspace",
        "w",
        "--dry-run",
        "--hits",
        "--types",
        "extract,summary",
        "--llm-binding",
        "openai",
        "--llm-model",
        "m",
        "--llm-host",
        "http://here",
        "--output",
        "jsonl",
    ])
    .env("ENTITY_EXTRACTION_USE_JSON", if json { "true" } else { "false" })
    .run();
    assert_eq!(run.code, 0, "{}", run.stderr);
    run.events
        .iter()
        .find(|event| event["event"] == "hits")
        .expect("a hits event")["total"]
        .clone()
}

/// The same documents, ingested by each release: those of its records that the newest one asks for are those that are
/// said to be hit, and the prompt of no other is taken for one of its own.
fn every_release(json: bool, releases: &[&str]) {
    let settings = json!({"identity": identity(), "json": json, "gleaning": 1});
    let (_, _, newest) = cache_of(NEWEST, &settings);
    let mut all = BTreeMap::new();
    for release in releases {
        let (place, workspace, _) = cache_of(release, &settings);
        let made = entries(&place, &workspace);
        let keys: BTreeSet<String> = made.keys().cloned().collect();
        let asked = keys.intersection(&newest.asked).count();
        let counts = examined(&made, json);
        assert_eq!(counts["records"], made.len(), "{release}");
        assert_eq!(counts["will_hit"], asked, "{release}: {counts}");
        for none in ["unexplained", "unknown_prompt", "other_host", "other_model"] {
            assert_eq!(counts[none], 0, "{release}: {counts}");
        }
        all.extend(made);
    }
    let keys: BTreeSet<String> = all.keys().cloned().collect();
    let asked = keys.intersection(&newest.asked).count();
    let counts = examined(&all, json);
    assert_eq!(
        (counts["records"].as_u64(), counts["will_hit"].as_u64()),
        (Some(all.len() as u64), Some(asked as u64))
    );
    assert!(asked > 0 && asked < all.len());
}

#[test]
fn of_every_releases_prompts_those_are_hit_that_the_newest_asks() {
    every_release(
        false,
        &[
            "1.3.9", "1.4.7", "1.4.9.3", "1.4.16", "1.5.0", "1.5.1", "1.5.4", "1.5.5", "1.5.6", "1.5.7",
        ],
    );
}

#[test]
fn of_every_releases_prompts_for_json_those_are_hit_that_the_newest_asks() {
    every_release(true, &["1.5.0", "1.5.1", "1.5.4", "1.5.5", "1.5.7"]);
}

#[test]
fn a_template_of_the_users_own_is_told_from_those_of_releases() {
    let template = "Sum up {description_type} {description_name}: {description_list} in {language}, {summary_length} tokens.";
    let settings = json!({
        "identity": identity(),
        "prompts": {"summarize_entity_descriptions": template},
        "addon_params": {"entity_types_guidance": "Use `Thing` for every thing."},
    });
    let (place, workspace, _) = cache_of(NEWEST, &settings);
    let made = entries(&place, &workspace);
    let counts = examined(&made, false);
    assert_eq!(counts["unknown_prompt"], made.len(), "{counts}");
}

#[test]
fn text_prompts_are_not_hit_by_a_lightrag_that_asks_for_json() {
    let (place, workspace, _) = cache_of(NEWEST, &json!({"identity": identity()}));
    let made = entries(&place, &workspace);
    let summaries = made
        .keys()
        .filter(|key| key.starts_with("default:summary:"))
        .count();
    let counts = examined(&made, true);
    assert_eq!(counts["will_hit"], summaries, "{counts}");
    assert_eq!(counts["older_prompt"], made.len() - summaries, "{counts}");
}

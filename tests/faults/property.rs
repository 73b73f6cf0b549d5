//! Random records, good and bad, in batches of random sizes over a wire that is cut at random: the numbers always add
//! up, every rejected record stands in the rejects file, and what was written is what was read.

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use serde_json::{json, value::RawValue};

use crate::support::{
    place::Place,
    proxy::{Fault, Proxy, Way, When, server_of},
    tool::Tool,
};

/// One run.
#[derive(Debug, Clone)]
struct Scene {
    entries: Vec<(String, String)>,
    batch: usize,
    concurrency: usize,
    on_invalid: &'static str,
    on_conflict: &'static str,
    fault: Option<(bool, u64, u32)>,
}

fn text() -> impl Strategy<Value = String> {
    let odd = prop::sample::select(vec![
        r#""\u0000""#,
        r#""a\ud83d""#,
        r#""\udc00\ud83d\ude00""#,
        "null",
        "12",
        r#"{"a": [1.5, "x"]}"#,
        r#""""#,
    ]);
    prop_oneof![
        6 => any::<String>().prop_map(|text| json!(text).to_string()),
        1 => odd.prop_map(str::to_owned),
    ]
}

fn value() -> impl Strategy<Value = String> {
    let time = prop_oneof![
        4 => (0_i64..4_000_000_000).prop_map(|time| time.to_string()),
        1 => prop::sample::select(vec!["null", "-5", "17.5", "\"1700000000\""]).prop_map(str::to_owned),
    ];
    let record = (text(), text(), prop::option::of(time), prop::option::of(Just(r#"{"mode": "mix", "k": [1]}"#)))
        .prop_map(|(answer, prompt, time, parameters)| {
            let time = time.map(|time| format!(r#", "create_time": {time}, "update_time": {time}"#)).unwrap_or_default();
            let parameters = parameters.map(|p| format!(r#", "queryparam": {p}"#)).unwrap_or_default();
            format!(r#"{{"return": {answer}, "original_prompt": {prompt}, "cache_type": "extract"{time}{parameters}}}"#)
        });
    let none = prop::sample::select(vec!["null", "\"text\"", "7", "[1]", "true"]).prop_map(str::to_owned);
    prop_oneof![9 => record, 1 => none]
}

fn scene() -> impl Strategy<Value = Scene> {
    let name = prop_oneof![4 => "[0-9a-f]{32}", 1 => "[ -~é🚀]{1,20}"];
    let types = prop::sample::select(vec![
        "default:extract",
        "default:summary",
        "default:analysis",
        "mix:query",
    ]);
    let key = (types, name).prop_map(|(prefix, name)| format!("{prefix}:{}", name.replace(':', ".")));
    (
        prop::collection::vec((key, value()), 0..40),
        1_usize..12,
        1_usize..4,
        prop::sample::select(vec!["reject", "sanitize"]),
        prop::sample::select(vec!["overwrite", "skip", "newer"]),
        prop::option::of((any::<bool>(), 2_000_u64..12_000, 1_u32..3)),
    )
        .prop_map(
            |(entries, batch, concurrency, on_invalid, on_conflict, fault)| Scene {
                entries,
                batch,
                concurrency,
                on_invalid,
                on_conflict,
                fault,
            },
        )
}

/// Runs random scenes against a storage.
pub fn every_record_is_accounted_for(kind: &'static str) {
    let cases = std::env::var("PROPERTY_CASES").map_or(12, |cases| cases.parse().expect("a number"));
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 60,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&scene(), |scene| {
            play(kind, &scene);
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
}

/// What cuts the connections to a server, if the scene has such a fault.
fn proxy_of(scene: &Scene, place: &Place) -> Option<Proxy> {
    scene
        .fault
        .filter(|_| place.kind != "json")
        .map(|(to_server, after, times)| {
            let way = if to_server { Way::ToServer } else { Way::ToProgram };
            let delay = std::time::Duration::ZERO;
            Proxy::new(
                server_of(&place.address),
                Fault {
                    way,
                    when: When::After(after),
                    times,
                    delay,
                },
            )
        })
}

/// Everything that was written is equal, and nothing else is there.
fn verify(source: &str, place: &Place, common: &[&str], written: u64) {
    let arguments = [
        "--source",
        source,
        "--target",
        &place.address,
        "--verify-only",
        "--verify",
        "full",
    ];
    let verified = Tool::new(&[&arguments[..], common].concat()).run().expect(0);
    let found = &verified.report()["verification"];
    assert_eq!(found["equal"].as_u64(), Some(written), "{found}");
    assert_eq!(found["beyond"], 0);
}

fn play(kind: &'static str, scene: &Scene) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (source, rejects) = (path("cache.json"), path("rejects.jsonl"));
    let entries: Vec<String> = scene
        .entries
        .iter()
        .map(|(key, value)| format!("{}: {value}", json!(key)))
        .collect();
    std::fs::write(&source, format!("{{\n{}\n}}", entries.join(",\n"))).unwrap();
    let place = Place::new(kind);
    let workspace = place.workspace("w");
    let proxy = proxy_of(scene, &place);
    let target = proxy
        .as_ref()
        .map_or_else(|| place.address.clone(), |proxy| proxy.instead_of(&place.address));
    let map = format!("={workspace}");
    let (batch, concurrency) = (scene.batch.to_string(), scene.concurrency.to_string());
    let common = [
        "--workspace-map",
        &map,
        "--on-invalid",
        scene.on_invalid,
        "--on-conflict",
        scene.on_conflict,
    ];
    let arguments = [
        "--source",
        &source,
        "--target",
        &target,
        "--yes",
        "--batch-size",
        &batch,
        "--concurrency",
        &concurrency,
        "--rejects",
        &rejects,
        "--retries",
        "8",
    ];
    let run = Tool::new(&[&arguments[..], &common[..]].concat()).run();
    // A connection that is cut while the server says hello is a server that cannot be reached.
    if run.code == 5 && run.total("written") == 0 {
        return;
    }
    let rejected = run.total("rejected");
    assert_eq!(
        run.code,
        if rejected > 0 { 3 } else { 0 },
        "{}\n{}",
        run.stderr,
        run.stdout
    );
    let lines = std::fs::read_to_string(&rejects).unwrap_or_default();
    // As text: half of a surrogate pair has no value in Rust.
    let lines: Vec<&RawValue> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len() as u64, rejected, "lines in the rejects file");
    verify(&source, &place, &common, run.total("written"));
}

//! Copies of records under the keys that LightRAG will ask for.

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use bytes::Bytes;
use md5::{Digest as _, Md5};

use super::world::{Ran, World, number};
use crate::{
    model::{
        HitCounts, Identity, LightRag, Named, OnConflict, RateLimit, Rekey,
        record::{CacheKey, Record},
    },
    storage::memory::Memory,
};

const OLD: &str = "http://old";
const NEW: &str = "http://new";

fn key_of(text: &str) -> String {
    let hash: [u8; 16] = Md5::digest(text).into();
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("default:extract:{hash}")
}

fn prompt(n: usize) -> String {
    format!("My own prompt, number {n}.")
}

/// The key that LightRAG 1.5.7 makes for a model at this host.
fn key_at(host: &str, n: usize) -> String {
    let identity = format!(r#"{{"binding":"openai","host":"{host}","model":"m","role":"extract"}}"#);
    let parts = [
        &prompt(n),
        "\n<response_format>\n",
        "",
        "\n<llm_identity>\n",
        &identity,
    ];
    key_of(&parts.map(|part| format!("{}:{part}", part.len())).concat())
}

/// The key that LightRAG made before 1.5.
fn plain_key(n: usize) -> String {
    key_of(&prompt(n))
}

fn record(key: String, n: usize, answer: &str) -> Record {
    let value = serde_json::json!({"return": answer, "original_prompt": prompt(n)}).to_string();
    Record::new(CacheKey::new(key), Bytes::from(value)).unwrap()
}

/// A world of these records, in which LightRAG asks a model that has moved to another host.
fn world(records: impl IntoIterator<Item = Record>) -> World {
    let mut world = World::new(0);
    world.source.put(world.workspace(), records);
    let identity = Identity::new("openai", "m", NEW);
    world.settings.lightrag = Some(LightRag {
        version: None,
        extract: identity.clone(),
        vlm: identity,
        json_extraction: false,
        named: Named {
            bindings: vec!["openai".to_owned()],
            models: vec!["m".to_owned()],
            hosts: vec![OLD.to_owned(), NEW.to_owned()],
        },
        origins: Vec::new(),
        is_default: false,
    });
    world.settings.rekey = Rekey::Host;
    world
}

fn made_for_old_host(count: usize) -> Vec<Record> {
    (0..count)
        .map(|n| record(key_at(OLD, n), n, &format!("answer {n}")))
        .collect()
}

fn total(ran: &Ran) -> HitCounts {
    ran.report.hits.as_ref().unwrap().hits.total.clone()
}

#[test]
fn a_copy_is_added_under_the_key_that_lightrag_will_ask_for_and_nothing_else_changes() {
    let world = world(made_for_old_host(7));
    let ran = world.run();
    assert!(ran.is_done(), "{:?}", ran.report.errors);
    let kept = world.kept();
    assert_eq!(kept.len(), 14);
    for n in 0..7 {
        assert_eq!(kept[&key_at(NEW, n)], kept[&key_at(OLD, n)]);
    }
    let total = total(&ran);
    assert_eq!((total.records, total.other_host, total.rekeyed), (7, 7, 7));
    assert_eq!((ran.report.rekeyed, ran.report.totals.written), (7, 7));
}

#[test]
fn a_copy_that_is_not_there_is_missing() {
    let mut world = world(made_for_old_host(7));
    world.settings.verify = crate::model::VerifyLevel::Full;
    let verified = |ran: &Ran| ran.report.verification.as_ref().unwrap().numbers.clone();
    let numbers = verified(&world.run());
    assert_eq!((numbers.copies, numbers.missing), (7, 0));
    world.target.remove(world.workspace(), &key_at(NEW, 3));
    world.settings.mode = crate::model::Mode::Verify;
    let ran = world.run();
    let numbers = verified(&ran);
    assert_eq!((numbers.copies, numbers.missing, ran.report.exit_code), (6, 1, 6));
}

#[test]
fn what_is_under_that_key_at_the_target_is_left_as_it_is() {
    let world = world(made_for_old_host(3));
    let theirs = record(key_at(NEW, 1), 1, "theirs");
    world.target.put(world.workspace(), [theirs]);
    let ran = world.run();
    assert!(ran.is_done());
    assert!(world.kept()[&key_at(NEW, 1)].contains("theirs"));
    assert_eq!((total(&ran).rekeyed, total(&ran).rekey_existing), (2, 1));
}

#[test]
fn no_copy_takes_the_place_of_a_record_that_is_still_to_come() {
    // One whose own record comes before the record of today's key.
    let n = (0..).find(|n| key_at(OLD, *n) < key_at(NEW, *n)).unwrap();
    let mut world = world([
        record(key_at(OLD, n), n, "a copy"),
        record(key_at(NEW, n), n, "its own"),
    ]);
    world.settings.batch_records = number(1);
    world.settings.concurrency = number(1);
    world.settings.on_conflict = OnConflict::Skip;
    let ran = world.run();
    assert!(ran.is_done());
    assert!(world.kept()[&key_at(NEW, n)].contains("its own"));
    assert_eq!((total(&ran).rekeyed, total(&ran).rekey_existing), (0, 1));
}

#[test]
fn of_two_records_of_one_prompt_one_is_copied() {
    let world = world([
        record(key_at(OLD, 1), 1, "one"),
        record(plain_key(1), 1, "the other"),
    ]);
    let ran = world.run();
    assert!(ran.is_done());
    assert_eq!(world.kept().len(), 3);
    let total = total(&ran);
    assert_eq!((total.to_rekey, total.rekeyed, total.rekey_existing), (2, 1, 1));
}

#[test]
fn a_record_that_the_target_rejects_is_not_copied_either() {
    let world = world(made_for_old_host(3));
    world.target.change_rules(|rules| {
        rules.rejects.insert(key_at(OLD, 1));
    });
    let ran = world.run();
    assert_eq!(ran.report.exit_code, 3);
    assert!(!world.kept().contains_key(&key_at(NEW, 1)));
    assert_eq!(total(&ran).rekeyed, 2);
}

#[test]
fn copies_count_towards_the_rate_limit() {
    let took = |rekey| {
        let mut world = world(made_for_old_host(60));
        world.settings.rekey = rekey;
        for memory in [&world.source, &world.target] {
            memory.change_rules(|rules| rules.latency = Some(Duration::from_millis(10)));
        }
        world.settings.rate_limit = Some(RateLimit::Records(NonZeroU64::new(10).unwrap()));
        let ran = world.run();
        assert!(ran.is_done(), "{:?}", ran.report.errors);
        ran.took.as_secs_f64()
    };
    let (without, with) = (took(Rekey::Off), took(Rekey::Host));
    assert!((5.0..7.0).contains(&without), "{without}");
    assert!((11.0..13.0).contains(&with), "{with}");
}

#[test]
fn copies_that_are_added_in_place_are_no_records() {
    let mut world = world([]);
    let place = Arc::new(Memory::new("both"));
    place.put(world.workspace(), made_for_old_host(20));
    world.source = Arc::clone(&place);
    world.target = place;
    let ran = world.run();
    assert!(ran.is_done(), "{:?}", ran.report.errors);
    assert_eq!(world.kept().len(), 40);
    assert_eq!((total(&ran).records, total(&ran).rekeyed), (20, 20));
    assert_eq!(ran.report.totals.written, 0);
    // Once more adds nothing.
    let again = world.run();
    assert_eq!((total(&again).records, total(&again).will_hit), (40, 0));
    assert_eq!((total(&again).rekeyed, total(&again).rekey_existing), (0, 20));
}

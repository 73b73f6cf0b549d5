//! Comparing what the target keeps with the source.

use std::time::Duration;

use super::world::{Ran, World, key, record};
use crate::{
    model::{ErrorKind, Mode, OnConflict, Side, VerifyLevel, record::OnInvalid},
    report::{DifferenceKind, Event, VerifyNumbers},
    storage::memory::{Call, Fault},
};

fn numbers(ran: &Ran) -> &VerifyNumbers {
    &ran.report.verification.as_ref().unwrap().numbers
}

fn verified(count: usize) -> World {
    let mut world = World::new(count);
    world.settings.verify = VerifyLevel::Full;
    world
}

#[test]
fn what_was_moved_is_equal() {
    let world = verified(20);
    let ran = world.run();
    assert!(ran.is_done());
    let numbers = numbers(&ran);
    assert_eq!(
        (numbers.compared, numbers.equal, numbers.beyond),
        (20, 20, Some(0))
    );
}

#[test]
fn small_workspaces_are_compared_several_at_a_time_and_their_differences_are_in_order() {
    let mut world = verified(6).with_workspaces(40, 6);
    assert!(world.run().is_done());
    for workspace in [&world.workspaces[7], &world.workspaces[23]] {
        world.target.remove(workspace, &key(3));
    }
    world.settings.mode = Mode::Verify;
    // The first workspace that differs takes longest.
    let (slow, slowest) = (Duration::from_secs(20), Duration::from_secs(100));
    let eighth = world.target.calls(Call::Get) + 8;
    world.fault(Side::Target, Call::Get, eighth, 1, Fault::Slow(slowest));
    world.fault(Side::Target, Call::Get, 1, usize::MAX, Fault::Slow(slow));
    let ran = world.run();
    let found = ran.report.verification.as_ref().unwrap();
    assert_eq!((found.numbers.compared, found.numbers.missing), (240, 2));
    let missing = found.first.iter().map(|one| &one.workspace);
    assert!(missing.eq([&world.workspaces[7], &world.workspaces[23]]));
    // One after the other, 40 look-ups would take 800 seconds.
    assert!(ran.took < Duration::from_secs(400), "{:?}", ran.took);
}

#[test]
fn a_target_that_lacks_or_changed_records_differs() {
    let mut world = verified(20);
    assert!(world.run().is_done());
    world.target.remove(world.workspace(), &key(3));
    let others = [
        record(&key(4), "another", 100),
        record("default:extract:beyond", "x", 1),
    ];
    world.target.put(world.workspace(), others);
    world.settings.mode = Mode::Verify;
    let ran = world.run();
    assert_eq!(ran.report.exit_code, 6);
    let found = numbers(&ran);
    assert_eq!(
        (found.equal, found.missing, found.different, found.beyond),
        (18, 1, 1, Some(1))
    );
    // The source is asked for no key that was found on the target.
    assert_eq!(world.source.calls(Call::Get), 1);
    let first = &ran.report.verification.as_ref().unwrap().first;
    assert!(
        first
            .iter()
            .any(|one| one.key == key(4) && one.fields == ["return"]),
        "{first:?}"
    );
    assert!(
        first.iter().any(|one| one.key == key(3) && one.fields.is_empty()),
        "{first:?}"
    );
}

#[test]
fn what_a_target_had_to_change_is_no_difference() {
    let mut world = verified(6);
    world.settings.on_invalid = OnInvalid::Sanitize;
    let with_nul = record(&key(2), "a\0b", 100);
    world.source.put(world.workspace(), [with_nul]);
    world.target.change_rules(|rules| {
        rules.sanitizes = true;
        rules.drops = Some("update_time");
    });
    let ran = world.run();
    assert!(ran.is_done(), "{:?}", ran.report.errors);
    assert_eq!(ran.report.totals.sanitized, 1);
    assert_eq!((numbers(&ran).equal, ran.report.warnings.len()), (6, 1));
    // What was not to be changed is a difference still.
    let changed = record(&key(2), "ab changed", 100);
    world.target.put(world.workspace(), [changed]);
    world.settings.mode = Mode::Verify;
    assert_eq!(numbers(&world.run()).different, 1);
}

#[test]
fn what_a_target_cannot_hold_is_not_missing() {
    let world = verified(6);
    world.target.change_rules(|rules| {
        rules.rejects.insert(key(1));
    });
    let ran = world.run();
    assert_eq!(ran.report.exit_code, 3);
    assert_eq!((numbers(&ran).equal, numbers(&ran).unmovable), (5, 1));
}

#[test]
fn what_a_policy_kept_is_no_difference() {
    for (policy, kept) in [(OnConflict::Skip, 2), (OnConflict::Newer, 1)] {
        let mut world = verified(6);
        world.settings.on_conflict = policy;
        let theirs = [record(&key(0), "theirs", 50), record(&key(1), "theirs", 150)];
        world.target.put(world.workspace(), theirs);
        let ran = world.run();
        assert!(ran.is_done(), "{policy:?}");
        assert_eq!(
            (numbers(&ran).kept, numbers(&ran).equal),
            (kept, 6 - kept),
            "{policy:?}"
        );
    }
}

#[test]
fn what_differs_is_named_with_its_fields_and_all_of_it_is_in_the_file() {
    let mut world = verified(60);
    world.settings.on_conflict = OnConflict::Newer;
    assert!(world.run().is_done());
    // Thirty that are older at the target, three that are newer there, and one that is gone.
    let older = (0..30).map(|n| record(&key(n), "theirs", 50));
    let newer = (30..33).map(|n| record(&key(n), "theirs", 150));
    world.target.put(world.workspace(), older.chain(newer));
    world.target.remove(world.workspace(), &key(40));
    world.settings.mode = Mode::Verify;
    let file = world.file("differences.jsonl");
    world.settings.differences = Some(file.clone());
    let ran = world.run();
    assert_eq!(ran.report.exit_code, 6);
    let found = ran.report.verification.as_ref().unwrap();
    assert_eq!(
        (found.numbers.different, found.numbers.missing, found.numbers.kept),
        (30, 1, 3)
    );
    assert_eq!((found.first.len(), found.first_kept.len()), (20, 3));
    assert!(
        found
            .first_kept
            .iter()
            .all(|one| one.kind == DifferenceKind::Kept)
    );
    assert!(found.first.iter().all(|one| one.kind != DifferenceKind::Kept));
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(ran.report.differences.as_deref(), file.to_str());
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of_kind = |kind: &str| lines.iter().filter(|line| line["kind"] == kind).count();
    assert_eq!((lines.len(), of_kind("missing"), of_kind("kept")), (34, 1, 3));
    let different = lines.iter().find(|line| line["kind"] == "different").unwrap();
    assert_eq!(different["fields"], serde_json::json!(["return", "update_time"]));
    assert_eq!(different["workspace"], "w");
    // A dry run writes no file.
    std::fs::remove_file(&file).unwrap();
    world.settings.mode = Mode::DryRun;
    assert!(world.run().is_done());
    assert!(!file.exists());
}

/// Without unexpected differences, the two sides still need not agree.
#[test]
fn a_verification_claims_no_more_than_it_compared() {
    let mut world = verified(6);
    world.settings.on_conflict = OnConflict::Skip;
    world
        .target
        .put(world.workspace(), [record(&key(0), "theirs", 50)]);
    world.target.change_rules(|rules| {
        rules.rejects.insert(key(1));
    });
    assert_eq!(world.run().report.exit_code, 3);
    world.settings.mode = Mode::Verify;
    let next = world.run().report.next;
    assert!(
        next.starts_with("Of 6 records")
            && next.contains("1 has a different value")
            && next.contains("1 cannot"),
        "{next}"
    );
    assert!(!next.contains("agree"), "{next}");
}

#[test]
fn a_verification_emits_its_progress() {
    let mut world = verified(300);
    world.settings.mode = Mode::Verify;
    let ran = world.run();
    let events = ran.events.iter().filter_map(|event| match event {
        Event::Verify(verify) => Some(verify),
        _ => None,
    });
    let events: Vec<_> = events.collect();
    let seconds = usize::try_from(ran.took.as_secs()).unwrap();
    assert!(
        (3..seconds + 3).contains(&events.len()),
        "{seconds} s: {events:?}"
    );
    assert!(events.iter().all(|event| event.total == 300));
    let early = events[0];
    assert!(early.done > 0 && early.done < 300 && !early.complete);
    // Every page takes as long as the one before.
    let expected = early.elapsed_ms as f64 / early.done as f64 * (300 - early.done) as f64;
    let remaining = early.remaining_ms.unwrap() as f64;
    assert!((remaining - expected).abs() <= 1.0, "{remaining} {expected}");
    let last = events[events.len() - 1];
    assert_eq!(
        (last.done, last.remaining_ms, last.complete),
        (300, Some(0), true)
    );
}

#[test]
fn what_was_compared_before_a_comparison_failed_is_in_the_report() {
    let mut world = verified(6).with_workspaces(40, 6);
    assert!(world.run().is_done());
    world.settings.mode = Mode::Verify;
    let eighth = world.target.calls(Call::Get) + 8;
    world.fault(Side::Target, Call::Get, eighth, 1, Fault::Before(ErrorKind::Full));
    let ran = world.run();
    assert_eq!(ran.report.exit_code, 5);
    // Of the sixteen that were under way, all but one; no other was begun.
    assert_eq!(numbers(&ran).compared, 15 * 6);
}

#[test]
fn a_sample_is_a_part_of_a_large_workspace_and_the_same_each_time() {
    let mut world = World::new(5000);
    world.settings.batch_records = super::world::number(500);
    world.settings.verify = VerifyLevel::Sample;
    let ran = world.run();
    let compared = numbers(&ran).compared;
    assert!((700..1300).contains(&compared), "{compared}");
    world.settings.mode = Mode::Verify;
    assert_eq!(numbers(&world.run()).compared, compared);
    world.settings.verify = VerifyLevel::Full;
    assert_eq!(numbers(&world.run()).compared, 5000);
    let mut world = World::new(900);
    world.settings.verify = VerifyLevel::Sample;
    assert_eq!(numbers(&world.run()).compared, 900);
}

#[test]
fn a_comparison_is_tried_again() {
    for (side, call) in [
        (Side::Source, Call::Page),
        (Side::Target, Call::Get),
        (Side::Target, Call::Page),
    ] {
        for fault in [
            Fault::Before(ErrorKind::Busy),
            Fault::After(ErrorKind::ConnectionLost),
            Fault::Hold,
        ] {
            let mut world = verified(9);
            assert!(world.run().is_done());
            world.settings.mode = Mode::Verify;
            world.revive(false);
            // A target of as many records as were found in it need not be read.
            world
                .target
                .put(world.workspace(), [record("default:extract:more", "theirs", 1)]);
            world.fault(side, call, 1, 2, fault);
            let ran = world.run();
            assert!(ran.is_done(), "{side} {call:?} {fault:?}");
            assert_eq!(
                (numbers(&ran).equal, ran.retries()),
                (9, 2),
                "{side} {call:?} {fault:?}"
            );
        }
    }
}

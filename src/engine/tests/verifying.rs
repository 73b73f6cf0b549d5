//! Comparing what the target keeps with the source.

use super::world::{Ran, World, key, record};
use crate::{
    model::{ErrorKind, Mode, OnConflict, Side, VerifyLevel, record::OnInvalid},
    report::VerifyNumbers,
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
fn a_sample_is_a_part_of_a_large_workspace_and_the_same_each_time() {
    let mut world = World::new(5000);
    world.settings.batch_records = super::world::number(500);
    world.settings.verify = VerifyLevel::Sample;
    let ran = world.run();
    let compared = numbers(&ran).compared;
    assert!((700..1300).contains(&compared), "{compared}");
    world.settings.mode = Mode::Verify;
    assert_eq!(numbers(&world.run()).compared, compared);
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

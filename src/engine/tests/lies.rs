//! Targets that say that they have written what they do not have: no run over one of them is a success.

use std::sync::Arc;

use super::world::{Ran, World, key, number, record, records};
use crate::{
    model::{Mode, OnConflict, Side, VerifyLevel},
    report::{DifferenceKind, Event, ReadBackReport},
    storage::memory::{Call, Lie, Victims},
};

const LIES: [Lie; 5] = [
    Lie::Swallow,
    Lie::Alter,
    Lie::DropField,
    Lie::Misplace,
    Lie::LoseAfterFlush,
];

const POLICIES: [OnConflict; 4] = [
    OnConflict::Overwrite,
    OnConflict::Skip,
    OnConflict::Newer,
    OnConflict::Fail,
];

/// One of many: the last of a thousand. It is in no sample, as the test of the sample shows.
const ONE: &str = "default:extract:0999";

fn read_back(ran: &Ran) -> &ReadBackReport {
    ran.report.read_back.as_ref().unwrap()
}

fn lying(count: usize, lie: Lie, victims: Victims) -> World {
    let mut world = World::new(count);
    world.settings.batch_records = number(100);
    world
        .target
        .change_rules(|rules| rules.lie = Some((lie, victims)));
    world
}

#[test]
fn a_run_over_a_lying_target_never_ends_with_0() {
    for lie in LIES {
        for policy in POLICIES {
            for visible_when_flushed in [true, false] {
                let mut world =
                    lying(10, lie, Victims::All).with_target_visible_when_flushed(visible_when_flushed);
                world
                    .target
                    .change_rules(|rules| rules.lie = Some((lie, Victims::All)));
                world.settings.on_conflict = policy;
                let ran = world.run();
                let case = format!("{lie:?} {policy:?} {visible_when_flushed}");
                if lie == Lie::LoseAfterFlush && !visible_when_flushed {
                    assert!(world.kept().is_empty(), "{case}");
                }
                assert_eq!(ran.report.exit_code, 6, "{case}");
                let found = read_back(&ran);
                assert_eq!(found.records, 10, "{case}");
                let expected = match lie {
                    Lie::Alter | Lie::DropField => (0, 10),
                    _ => (10, 0),
                };
                assert_eq!((found.missing, found.different), expected, "{case}");
            }
        }
    }
}

/// The sample does not hold the record; the number of records says that one is missing, and a look at all of them which.
#[test]
fn one_record_of_many_that_is_not_there_is_found() {
    for lie in [Lie::Swallow, Lie::LoseAfterFlush] {
        for knows_size in [None, Some(false)] {
            for policy in POLICIES {
                let mut world = lying(1000, lie, Victims::One(ONE));
                world.target.change_rules(|rules| rules.knows_size = knows_size);
                world.settings.on_conflict = policy;
                let ran = world.run();
                let case = format!("{lie:?} {knows_size:?} {policy:?}");
                assert_eq!(ran.report.exit_code, 6, "{case}");
                let found = read_back(&ran);
                assert_eq!((found.missing, found.different), (1, 0), "{case}");
                // The sample, then all of them; the target is counted before and after, and not once more.
                assert_eq!(found.records, 256 + 1000, "{case}");
                assert_eq!(world.target.calls(Call::Count), 2, "{case}");
                let first = &found.first[0];
                assert_eq!((first.key.as_str(), first.kind), (ONE, DifferenceKind::Missing));
                assert_eq!(ran.report.workspaces[0].target_records_after, Some(999), "{case}");
            }
        }
    }
}

#[test]
fn a_target_that_keeps_its_word_is_asked_for_few_records_and_its_size() {
    for knows_size in [None, Some(false)] {
        let mut world = World::new(1000);
        world.settings.batch_records = number(100);
        world.target.change_rules(|rules| rules.knows_size = knows_size);
        let ran = world.run();
        assert!(ran.is_done());
        assert_eq!((read_back(&ran).records, world.target.calls(Call::Get)), (256, 1));
        // Once before the run, and once after it where the target does not know its size.
        let counts = if knows_size.is_some() { 1 } else { 2 };
        assert_eq!(world.target.calls(Call::Count), counts);
        let after = knows_size.is_none().then_some(1000);
        assert_eq!(ran.report.workspaces[0].target_records_after, after);
        assert_eq!(ran.report.verification, None);
    }
}

/// In a run with many workspaces, few records of each later one are read, but all of its keys are looked up.
#[test]
fn a_missing_record_of_a_later_workspace_is_found() {
    // Its digest is none of the smallest, so that it is not read.
    const LOST: &str = "default:extract:lost";
    let run = |lie: Option<Lie>| {
        let world = World::new(20).with_workspaces(102, 20);
        world
            .source
            .put(&world.workspaces[101], vec![record(LOST, "x", 1)]);
        world
            .target
            .change_rules(|rules| rules.lie = lie.map(|lie| (lie, Victims::One(LOST))));
        let ran = world.run();
        // What was lost in the last workspace was found by its key, not by the number of records.
        assert_eq!(world.target.calls(Call::Count), 102);
        // A request for the records of each, and one for the keys of the last two.
        assert_eq!(world.target.calls(Call::Get), 102 + 2);
        let looked_up = (read_back(&ran).records, read_back(&ran).keys);
        assert_eq!(looked_up, (100 * 20 + 2 * 4, 16 + 17));
        (
            ran.report.exit_code,
            read_back(&ran).missing,
            read_back(&ran).different,
        )
    };
    assert_eq!(run(None), (0, 0, 0));
    assert_eq!(run(Some(Lie::Swallow)), (6, 1, 0));
    assert_eq!(run(Some(Lie::Misplace)), (6, 1, 0));
}

#[test]
fn a_target_that_sets_times_itself_causes_a_warning() {
    let ran = lying(10, Lie::AlterTime, Victims::All).run();
    assert!(ran.is_done());
    let warnings = &ran.report.warnings;
    assert!(
        warnings[0].contains("they differ from the source in 10 of 10 records"),
        "{warnings:?}"
    );
}

#[test]
fn nothing_is_read_back_where_that_is_turned_off_or_nothing_was_written() {
    let mut world = lying(10, Lie::Swallow, Victims::All);
    world.settings.verify = VerifyLevel::Off;
    let ran = world.run();
    assert!(ran.is_done());
    assert_eq!((ran.report.read_back, world.target.calls(Call::Get)), (None, 0));
    world.settings.verify = VerifyLevel::ReadBack;
    world.settings.mode = Mode::DryRun;
    let ran = world.run();
    assert!(ran.is_done());
    assert_eq!(ran.report.read_back, None);
}

/// Somebody else removes records of theirs while the run goes on: the count alone is no difference.
#[test]
fn records_that_another_process_removes_are_not_a_difference() {
    for knows_size in [None, Some(false)] {
        let world = World::new(9);
        world.target.change_rules(|rules| rules.knows_size = knows_size);
        let theirs: Vec<_> = (0..5)
            .map(|n| record(&format!("default:extract:theirs{n}"), "x", 1))
            .collect();
        world.target.put(world.workspace(), theirs);
        let (target, workspace) = (Arc::clone(&world.target), world.workspace().clone());
        let removed = std::sync::atomic::AtomicUsize::new(0);
        let observer = move |event: &Event| {
            if let Event::Batch(batch) = event {
                removed.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                target.remove(&workspace, &format!("default:extract:theirs{}", batch.batch));
            }
        };
        let mut world = world;
        world.settings.on_conflict = OnConflict::Skip;
        let ran = world.run_observed(usize::MAX, Box::new(observer)).unwrap();
        assert!(ran.is_done(), "{:?}", ran.report.errors);
        assert_eq!(ran.report.workspaces[0].target_records_after, Some(11));
        assert!(
            ran.report.warnings[0].contains("has 11 records but should have at least 14"),
            "{:?}",
            ran.report.warnings
        );
        let lacking = ran.events.iter().find_map(|event| match event {
            Event::Warning(warning) => warning.count,
            _ => None,
        });
        assert_eq!(lacking, Some(3));
    }
}

/// What an earlier run found to be missing is not done: the next one moves it again.
#[test]
fn a_later_run_does_not_rely_on_what_was_not_there() {
    for lie in LIES {
        let mut world = lying(30, lie, Victims::All).with_checkpoint();
        world.settings.batch_records = number(3);
        assert_eq!(world.run().report.exit_code, 6);
        world.revive(false);
        assert_eq!(world.run().report.exit_code, 6, "{lie:?}");
        world.revive(false);
        world.target.change_rules(|rules| rules.lie = None);
        let ran = world.run();
        assert!(ran.is_done(), "{lie:?}");
        assert_eq!(
            (ran.report.totals.written, read_back(&ran).records),
            (30, 30),
            "{lie:?}"
        );
        for one in records(30) {
            assert!(world.kept().contains_key(one.key().as_str()), "{lie:?}");
        }
    }
}

/// What was lost of what an earlier run had written is seen by the number of records.
#[test]
fn a_run_that_goes_on_counts_what_an_earlier_one_wrote() {
    let mut world = World::new(30).with_checkpoint();
    assert!(world.run_until(14).is_none());
    let before = world.kept().len();
    assert!(before > 3);
    world.revive(false);
    world.target.remove(world.workspace(), &key(0));
    let ran = world.run();
    assert_eq!(ran.report.exit_code, 6, "{:?}", ran.report);
    assert_eq!(read_back(&ran).missing, 1);
    assert_eq!(read_back(&ran).first[0].key, key(0));
}

/// What was there, and what an earlier run wrote, is not expected a second time.
#[test]
fn a_target_with_as_many_records_as_expected_is_not_searched() {
    for knows_size in [None, Some(false)] {
        // Under `fail`, what was written after the last checkpoint is a conflict.
        for policy in [OnConflict::Overwrite, OnConflict::Skip, OnConflict::Newer] {
            let mut world = World::new(30).with_checkpoint();
            world.target.change_rules(|rules| rules.knows_size = knows_size);
            world.settings.on_conflict = policy;
            let theirs = (0..5).map(|n| record(&format!("default:extract:theirs{n}"), "x", 1));
            world.target.put(world.workspace(), theirs);
            assert!(world.run_until(14).is_none());
            world.revive(false);
            let counted = world.target.calls(Call::Count);
            let ran = world.run();
            let case = format!("{knows_size:?} {policy:?}");
            assert!(ran.is_done(), "{case}");
            assert_eq!(ran.report.warnings, Vec::<String>::new(), "{case}");
            assert!(read_back(&ran).records <= 30, "{case}");
            // Once before the run, and once after it where the target does not know its size.
            let counts = if knows_size.is_some() { 1 } else { 2 };
            assert_eq!(world.target.calls(Call::Count) - counted, counts, "{case}");
        }
    }
}

#[test]
fn a_target_that_cannot_be_read_back_fails() {
    use crate::{model::ErrorKind, storage::memory::Fault};
    let world = World::new(9);
    world.fault(
        Side::Target,
        Call::Get,
        1,
        usize::MAX,
        Fault::Before(ErrorKind::Permission),
    );
    let ran = world.run();
    assert_eq!((ran.report.exit_code, ran.report.totals.written), (5, 9));
}

//! Numbers and warnings that mean what they say.

use std::time::Duration;

use super::world::{World, key, number, record, records};
use crate::{
    model::{ErrorKind, Mode, OnConflict, Selection, Shard, Side, Workspace},
    report::{Event, WarningEvent, WarningKind},
    storage::memory::{Call, Fault, Lie, Victims},
};

fn warnings(ran: &super::world::Ran) -> Vec<&WarningEvent> {
    let mut warnings = Vec::new();
    for event in &ran.events {
        if let Event::Warning(warning) = event {
            warnings.push(warning);
        }
    }
    warnings
}

#[test]
fn a_dry_run_counts_what_is_new_and_what_is_there() {
    for known in [0, 4] {
        let mut world = World::new(10);
        let theirs = (0..known).map(|n| record(&key(n), "theirs", 50));
        world.target.put(world.workspace(), theirs);
        world
            .target
            .put(world.workspace(), [record("mix:query:1", "x", 1)]);
        world.settings.mode = Mode::DryRun;
        let ran = world.run();
        assert!(ran.is_done());
        let report = &ran.report;
        let (new, existing) = (10 - known as u64, known as u64);
        assert_eq!(
            (report.to_move, report.new, report.existing),
            (Some(10), Some(new), Some(existing))
        );
        let of_workspace = report.workspaces[0].rehearsal.unwrap();
        assert_eq!((of_workspace.new, of_workspace.existing), (new, existing));
        // Of an empty target nothing is asked, and of another one a page at a time.
        let asked = if known == 0 { 0 } else { 4 };
        assert_eq!(world.target.calls(Call::Get), asked);
        assert_eq!(
            (world.target.calls(Call::Prepare), world.target.calls(Call::Write)),
            (0, 0)
        );
        // What it promises is what a run does.
        world.settings.mode = Mode::Migrate;
        world.settings.on_conflict = OnConflict::Skip;
        let ran = world.run();
        assert_eq!(
            (ran.report.totals.written, ran.report.totals.skipped),
            (new, existing)
        );
        let report = &ran.report;
        assert_eq!((report.to_move, report.existing), (None, None));
        assert_eq!((report.new, report.replaced), (Some(new), Some(0)));
    }
}

#[test]
fn new_and_replaced_records_are_counted_apart() {
    struct Case {
        known: usize,
        on_conflict: OnConflict,
        knows_size: Option<bool>,
        new: Option<u64>,
    }
    let case = |known, on_conflict, knows_size, new| Case {
        known,
        on_conflict,
        knows_size,
        new,
    };
    for Case {
        known,
        on_conflict,
        knows_size,
        new,
    } in [
        case(0, OnConflict::Overwrite, None, Some(10)),
        case(4, OnConflict::Overwrite, None, Some(6)),
        case(4, OnConflict::Overwrite, Some(true), Some(6)),
        case(10, OnConflict::Overwrite, None, Some(0)),
        case(4, OnConflict::Newer, None, Some(6)),
        // Nothing is replaced, so nothing has to be counted.
        case(4, OnConflict::Skip, Some(false), Some(6)),
        case(0, OnConflict::Overwrite, Some(false), Some(10)),
        // A total over everything that the server has does not tell what was added to one workspace.
        case(4, OnConflict::Overwrite, Some(false), None),
    ] {
        let mut world = World::new(10);
        let theirs = (0..known).map(|n| record(&key(n), "theirs", 50));
        world.target.put(world.workspace(), theirs);
        world.target.change_rules(|rules| rules.knows_size = knows_size);
        world.settings.on_conflict = on_conflict;
        let ran = world.run();
        assert!(ran.is_done());
        let report = &ran.report;
        let replaced = new.map(|new| report.totals.written - new);
        assert_eq!(
            (report.new, report.replaced, report.workspaces[0].new),
            (new, replaced, new),
            "{known} known, {on_conflict:?}"
        );
    }
}

/// The size of a target that several shards write at once says nothing about one of them.
#[test]
fn what_a_shard_replaced_is_not_taken_from_the_size_of_the_target() {
    let mut world = World::new(10);
    let theirs = (0..10).map(|n| record(&key(n), "theirs", 50));
    world.target.put(world.workspace(), theirs);
    world.target.change_rules(|rules| rules.knows_size = Some(true));
    world.settings.selection = Selection::default().of_shard(Shard::new(0, 2));
    let ran = world.run();
    assert!(ran.is_done(), "{:?}", ran.report.errors);
    assert!(ran.report.totals.written > 0);
    assert_eq!((ran.report.new, ran.report.replaced), (None, None));
}

#[test]
fn what_a_resumed_run_replaced_is_not_guessed() {
    let mut world = World::new(10).with_checkpoint();
    world
        .target
        .put(world.workspace(), [record(&key(9), "theirs", 50)]);
    world.fault(Side::Target, Call::Write, 2, 1, Fault::Before(ErrorKind::Full));
    assert!(!world.run().is_done());
    world.target.clear_faults();
    world.revive(false);
    let ran = world.run();
    assert!(ran.is_done());
    assert_eq!(ran.report.totals.written, 10);
    assert_eq!((ran.report.new, ran.report.replaced), (None, None));
}

#[test]
fn a_conflict_is_counted_once() {
    let mut world = World::new(9);
    world.settings.on_conflict = OnConflict::Fail;
    world
        .target
        .put(world.workspace(), [record(&key(1), "theirs", 50)]);
    let ran = world.run();
    let errors = &ran.report.errors;
    assert_eq!((errors.total, errors.by_kind["conflict"]), (1, 1), "{errors:?}");
    assert_eq!((ran.report.totals.rejected, ran.report.exit_code), (1, 5));
}

#[test]
fn a_batch_that_is_given_up_counts_as_failed() {
    let mut world = World::new(9);
    world.settings.concurrency = number(1);
    world.fault(
        Side::Target,
        Call::Write,
        2,
        9,
        Fault::Before(ErrorKind::Permission),
    );
    let batches = world.run().report.batches;
    assert_eq!((batches.total, batches.ok, batches.failed), (2, 1, 1));
}

/// Each half needed a second try.
#[test]
fn a_batch_whose_parts_were_retried_counts_as_retried_once() {
    let mut world = World::new(4);
    world.settings.batch_records = number(4);
    world.target.change_rules(|rules| rules.largest_batch = Some(2));
    for attempt in [2, 4] {
        world.fault(
            Side::Target,
            Call::Write,
            attempt,
            1,
            Fault::Before(ErrorKind::Busy),
        );
    }
    let ran = world.run();
    assert!(ran.is_done());
    assert_eq!((ran.retries(), ran.report.batches.retried), (2, 1));
}

/// Nine records, and a target that refuses to be prepared.
fn attempting_nothing() -> World {
    let world = World::new(9);
    world.fault(
        Side::Target,
        Call::Prepare,
        1,
        9,
        Fault::Before(ErrorKind::Permission),
    );
    world
}

#[test]
fn what_was_not_attempted_is_counted_by_type() {
    let report = attempting_nothing().run().report;
    let by_type: Vec<(u64, u64)> = report
        .by_cache_type
        .values()
        .map(|totals| (totals.selected, totals.not_attempted))
        .collect();
    assert_eq!(by_type, [(3, 3); 3]);
    assert_eq!(report.totals.not_attempted, 9);
}

#[test]
fn a_run_that_attempted_nothing_has_no_rate_of_success() {
    assert_eq!(attempting_nothing().run().report.success_rate, None);
}

/// What an earlier run had written took none of this run's time.
#[test]
fn rates_are_of_what_this_run_moved() {
    let mut world = World::new(60).with_checkpoint();
    assert!(world.run_until(25).is_none());
    world.target.clear_faults();
    world.revive(false);
    let ran = world.run();
    assert!(ran.is_done());
    let batches = ran.events.iter().filter_map(|event| match event {
        Event::Batch(batch) => Some(batch.written),
        _ => None,
    });
    let moved: u64 = batches.sum();
    let totals = &ran.report.totals;
    assert!(
        totals.written == 60 && moved < 40,
        "{moved} of {}",
        totals.written
    );
    // It took less than all of the run's time.
    let least = moved as f64 / ran.took.as_secs_f64();
    let most = least * 4.0;
    let rate = ran.report.records_per_second;
    assert!(rate >= least && rate <= most, "{least} {rate} {most}");
}

/// Every batch takes as long as the one before.
#[test]
fn the_time_that_remains_follows_from_the_time_so_far() {
    let world = World::new(60);
    world.fault(
        Side::Target,
        Call::Write,
        1,
        99,
        Fault::Slow(Duration::from_secs(10)),
    );
    let ran = world.run();
    let estimates = ran.events.iter().filter_map(|event| match event {
        Event::Batch(batch) => Some((batch, batch.remaining_ms?)),
        _ => None,
    });
    let estimates: Vec<_> = estimates.collect();
    assert_eq!(estimates.len(), 20);
    for (batch, remaining) in estimates {
        let left = (batch.run_total - batch.run_done) as f64;
        let expected = batch.elapsed_ms as f64 * left / batch.run_done as f64;
        // Two batches are written at once.
        let remaining = remaining as f64;
        assert!(
            remaining > 0.5 * expected - 1.0 && remaining < 2.0 * expected + 1.0,
            "{remaining} {expected}"
        );
    }
}

#[test]
fn warnings_say_what_they_are_about() {
    let world = World::new(6);
    world.target.change_rules(|rules| {
        rules.drops = Some("update_time");
        rules.fills = Some("cache_type");
    });
    let ran = world.run();
    let warnings = warnings(&ran);
    let [dropped, filled] = warnings[..] else {
        panic!("{warnings:?}")
    };
    for (warning, kind, field) in [
        (dropped, WarningKind::DroppedField, "update_time"),
        (filled, WarningKind::FilledField, "cache_type"),
    ] {
        assert_eq!(warning.kind, kind);
        assert_eq!((warning.field.as_deref(), warning.count), (Some(field), Some(6)));
        assert_eq!(warning.workspace, Some(world.workspace().clone()));
    }
}

#[test]
fn a_type_that_is_not_there_is_told_with_the_one_that_may_have_been_meant() {
    let mut world = World::new(9);
    world.settings.selection = crate::model::Selection::parse(["extract", "sumary"]).unwrap();
    world.settings.mode = Mode::DryRun;
    let ran = world.run();
    let warnings = warnings(&ran);
    assert!(
        warnings
            .iter()
            .any(|warning| warning.kind == WarningKind::NothingSelected
                && warning
                    .message
                    .ends_with("no records of type sumary; did you mean summary?")),
        "{warnings:?}"
    );
}

#[test]
fn records_that_go_to_the_empty_workspace_are_said_to() {
    let mut world = World::new(3);
    world.targets = vec![Workspace::default()];
    let ran = world.run();
    assert!(ran.is_done());
    assert!(
        ran.report.next.contains("the unnamed workspace"),
        "{}",
        ran.report.next
    );
}

/// A record that comes again was written twice, and is there once.
#[test]
fn a_record_that_was_written_twice_is_no_shortage() {
    let world = World::new(9);
    world.source.change_rules(|rules| {
        rules.again.insert(2, record(&key(0), "later", 200));
    });
    let ran = world.run();
    assert!(ran.is_done(), "{:?}", ran.report.errors);
    assert_eq!(ran.report.totals.written, 10);
    assert_eq!(world.target.calls(Call::Get), 1);
}

/// Somebody adds records to the source, and the target loses one: the new ones were not to be moved.
#[test]
fn what_came_to_the_source_meanwhile_is_not_missing() {
    let mut world = World::new(1000);
    world.settings.batch_records = number(100);
    world
        .target
        .change_rules(|rules| rules.lie = Some((Lie::Swallow, Victims::One("default:extract:0999"))));
    let (source, workspace) = (std::sync::Arc::clone(&world.source), world.workspace().clone());
    let now = 1 << 40;
    let observer = move |event: &Event| {
        if matches!(event, Event::Batch(batch) if batch.batch == 10) {
            source.put(&workspace, [record("default:extract:later", "x", now)]);
            source.put(
                &workspace,
                [record(&records(1)[0].key().to_string(), "changed", now)],
            );
        }
    };
    let ran = world.run_observed(usize::MAX, Box::new(observer)).unwrap();
    let found = ran.report.read_back.unwrap();
    assert_eq!((ran.report.exit_code, found.missing, found.different), (6, 1, 0));
}

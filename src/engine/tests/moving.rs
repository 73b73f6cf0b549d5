//! Moving records: all of them, in order, and nothing twice.

use std::{sync::Arc, time::Duration};

use super::world::{World, key, number, record, records, texts};
use crate::{
    model::{ErrorKind, Mode, OnConflict, Side, VerifyLevel, Workspace, record::OnInvalid},
    report::{BatchEvent, Event, WarningKind},
    storage::memory::{Call, Fault},
};

#[test]
fn every_record_arrives_and_the_events_add_up_to_the_report() {
    let world = World::new(20);
    let ran = world.run();
    assert!(ran.is_done());
    assert_eq!(world.kept(), texts(&records(20)));
    let totals = &ran.report.totals;
    assert_eq!((totals.read, totals.written, totals.not_attempted), (20, 20, 0));
    for location in [&ran.report.source, &ran.report.target] {
        assert_eq!(location.as_ref().unwrap().kind, "memory");
    }
    assert_eq!(
        (ran.report.batches.total, ran.report.success_rate),
        (7, Some(100.0))
    );
    let batches = ran.events.iter().filter_map(|event| match event {
        Event::Batch(batch) => Some(batch),
        _ => None,
    });
    let batches: Vec<_> = batches.collect();
    assert_eq!(batches.iter().map(|batch| batch.written).sum::<u64>(), 20);
    assert_eq!(batches.iter().map(|batch| batch.bytes).sum::<u64>(), totals.bytes);
    assert!(batches.iter().map(|batch| batch.batch).eq(1..=7));
    let last = batches[6];
    assert_eq!((last.done, last.run_done, last.run_total), (20, 20, 20));
    assert_eq!(last.remaining_ms, Some(0));
    assert!(
        batches
            .iter()
            .all(|batch| batch.by_cache_type.values().sum::<u64>() == batch.records)
    );
}

#[test]
fn what_is_not_selected_is_read_and_stays() {
    let world = World::new(5);
    let others = [record("mix:query:1", "x", 1), record("a key", "y", 1)];
    world.source.put(world.workspace(), others);
    let ran = world.run();
    assert_eq!(world.kept(), texts(&records(5)));
    assert_eq!((ran.report.totals.read, ran.report.totals.selected), (7, 5));
}

#[test]
fn several_batches_are_written_at_once_and_no_more_than_allowed() {
    let mut world = World::new(60);
    world.settings.concurrency = number(4);
    world.fault(
        Side::Target,
        Call::Write,
        1,
        9,
        Fault::Slow(Duration::from_secs(20)),
    );
    world.run();
    assert_eq!(world.target.most_under_way(), 4);
}

#[test]
fn records_are_read_while_the_target_is_asked_for_its_size() {
    let world = World::new(6);
    let slow = Fault::Slow(Duration::from_secs(20));
    world.fault(Side::Source, Call::Page, 1, 1, slow);
    world.fault(Side::Target, Call::Size, 1, 1, slow);
    let ran = world.run();
    assert!(ran.is_done());
    assert!(ran.took < Duration::from_secs(35), "{:?}", ran.took);
}

/// The first value is still being written when the second is ready.
#[test]
fn of_a_record_that_comes_twice_the_later_value_stays() {
    for fault in [
        Fault::Slow(Duration::from_secs(20)),
        Fault::Before(ErrorKind::Busy),
        Fault::After(ErrorKind::ConnectionLost),
        Fault::HoldAfter,
    ] {
        let mut world = World::new(12);
        world.settings.concurrency = number(4);
        let again = record(&key(0), "later", 200);
        world.source.change_rules(|rules| {
            rules.again.insert(2, again.clone());
        });
        world.fault(Side::Target, Call::Write, 2, 1, fault);
        let ran = world.run();
        assert!(ran.is_done(), "{fault:?}");
        assert_eq!(world.kept()[&key(0)], texts(&[again])[&key(0)], "{fault:?}");
        assert_eq!(ran.report.totals.written, 13, "{fault:?}");
    }
}

/// A target that shows everything at the end, and has no space for that.
fn cannot_finish(count: usize) -> World {
    let world = World::new(count).with_target_visible_when_flushed(false);
    world.fault(Side::Target, Call::Finish, 1, 9, Fault::Before(ErrorKind::Full));
    world
}

#[test]
fn a_target_that_shows_everything_at_the_end_shows_nothing_of_a_run_that_failed() {
    let world = cannot_finish(12);
    let ran = world.run();
    assert!(world.kept().is_empty());
    let totals = &ran.report.totals;
    assert_eq!((totals.written, totals.bytes, totals.not_attempted), (0, 0, 12));
    assert_eq!(ran.report.errors.first[0].records, 12);
    world.target.clear_faults();
    assert!(world.run().is_done());
    assert_eq!(world.kept().len(), 12);
}

/// What the target lost was not sanitized either.
#[test]
fn sanitized_records_that_the_target_lost_are_not_counted() {
    let mut world = cannot_finish(6);
    world.settings.on_invalid = OnInvalid::Sanitize;
    world.target.change_rules(|rules| rules.sanitizes = true);
    world
        .source
        .put(world.workspace(), [record(&key(2), "a\0b", 100)]);
    let totals = world.run().report.totals;
    assert_eq!((totals.written, totals.sanitized), (0, 0));
    world.target.clear_faults();
    assert_eq!(world.run().report.totals.sanitized, 1);
}

#[test]
fn a_source_that_grows_while_it_is_moved_causes_a_warning() {
    let world = World::new(9);
    let (source, workspace) = (Arc::clone(&world.source), world.workspace().clone());
    let observer = move |event: &Event| {
        if matches!(event, Event::Count(count) if count.side == Side::Target) {
            source.put(&workspace, [record("default:extract:later", "x", 100)]);
        }
    };
    let ran = world.run_observed(usize::MAX, Box::new(observer)).unwrap();
    assert!(ran.is_done());
    assert_eq!(ran.report.totals.written, 10);
    let warning = ran.events.iter().find_map(|event| match event {
        Event::Warning(warning) => Some(warning),
        _ => None,
    });
    let warning = warning.unwrap();
    assert_eq!(
        (warning.kind, warning.count),
        (WarningKind::SourceChanged, Some(1))
    );
}

#[test]
fn nothing_is_made_at_the_target_for_a_workspace_without_records() {
    let mut world = World::new(3);
    world.workspaces.push(Workspace::new("empty").unwrap());
    assert_eq!(world.run().report.exit_code, 9);
    assert_eq!(world.target.calls(Call::Prepare), 0);
    world.settings.allow_missing = true;
    let ran = world.run();
    assert!(ran.is_done());
    assert_eq!(
        (world.target.calls(Call::Prepare), ran.report.workspaces.len()),
        (1, 2)
    );
}

/// The user did not name it, so it cannot be misspelt.
#[test]
fn a_workspace_that_was_cleared_after_it_was_listed_is_no_error() {
    for has_all in [true, false] {
        let mut world = World::new(3);
        let second = Workspace::new("second").unwrap();
        world.source.put(&second, records(2));
        world.workspaces.push(second.clone());
        world.has_all = has_all;
        let source = Arc::clone(&world.source);
        let observer = move |event: &Event| {
            if matches!(event, Event::Plan(_)) {
                source.clear(&second);
            }
        };
        let ran = world.run_observed(usize::MAX, Box::new(observer)).unwrap();
        let (exit_code, written) = if has_all { (0, 3) } else { (9, 0) };
        assert_eq!(
            (ran.report.exit_code, ran.report.totals.written),
            (exit_code, written)
        );
    }
}

#[test]
fn a_source_that_gives_fewer_records_than_it_counted_is_an_error() {
    let mut world = World::new(9).with_checkpoint();
    let workspace = world.workspace().clone();
    let source = Arc::clone(&world.source);
    let observer = move |event: &Event| {
        if matches!(event, Event::Count(count) if count.side == Side::Target) {
            source.remove(&workspace, &key(8));
        }
    };
    let ran = world.run_observed(usize::MAX, Box::new(observer)).unwrap();
    assert!(!ran.is_done());
    assert_eq!(ran.report.errors.first[0].kind, "incomplete");
    assert_eq!((ran.report.exit_code, ran.report.totals.written), (4, 8));
    // The workspace is not done: the next run looks at it again.
    world.source.put(&world.workspace().clone(), records(9));
    world.revive(false);
    let ran = world.run();
    assert!(ran.is_done(), "{:?}", ran.report.errors);
    assert_eq!(world.kept(), texts(&records(9)));
}

#[test]
fn each_policy_keeps_what_it_is_to_keep() {
    for (policy, kept_old, kept_new) in [
        (OnConflict::Overwrite, "answer 0", "answer 1"),
        (OnConflict::Skip, "theirs", "theirs"),
        (OnConflict::Newer, "answer 0", "theirs"),
        (OnConflict::Fail, "theirs", "theirs"),
    ] {
        let mut world = World::new(9);
        world.settings.on_conflict = policy;
        // Older than the source's, newer, and as old.
        let theirs = [50, 150, 100].into_iter().enumerate();
        let theirs = theirs.map(|(n, time)| record(&key(n), "theirs", time));
        world.target.put(world.workspace(), theirs);
        let ran = world.run();
        let kept = world.kept();
        assert_eq!(
            kept[&key(2)].contains("theirs"),
            policy != OnConflict::Overwrite,
            "{policy:?}"
        );
        assert!(kept[&key(0)].contains(kept_old), "{policy:?}");
        assert!(kept[&key(1)].contains(kept_new), "{policy:?}");
        assert_eq!(ran.is_done(), policy != OnConflict::Fail);
        let skipped = match policy {
            OnConflict::Skip => 3,
            OnConflict::Newer => 2,
            _ => 0,
        };
        assert_eq!(ran.report.totals.skipped, skipped, "{policy:?}");
        let of_batches = |number: fn(&BatchEvent) -> u64| -> u64 {
            ran.events
                .iter()
                .map(|event| match event {
                    Event::Batch(batch) => number(batch),
                    _ => 0,
                })
                .sum()
        };
        assert_eq!(of_batches(|batch| batch.skipped), skipped, "{policy:?}");
        let rejected = ran.report.totals.rejected;
        assert_eq!(of_batches(|batch| batch.rejected), rejected, "{policy:?}");
        assert_eq!(rejected > 0, policy == OnConflict::Fail, "{policy:?}");
    }
}

/// Only after a lost answer may an equal record be one that this run wrote.
#[test]
fn an_equal_record_that_was_there_before_counts_as_skipped() {
    let mut world = World::new(9);
    world.target.put(world.workspace(), records(4));
    world.settings.on_conflict = OnConflict::Skip;
    let totals = world.run().report.totals;
    assert_eq!((totals.written, totals.skipped), (5, 4));
}

/// Who waits for a server to come up says so with a retry of the whole command.
#[test]
fn a_side_that_cannot_be_reached_ends_the_run_at_once() {
    for (side, code) in [(Side::Source, 4), (Side::Target, 5)] {
        for kind in [ErrorKind::Unreachable, ErrorKind::ConnectionLost] {
            let world = World::new(3);
            world.fault(side, Call::Connect, 1, 1, Fault::Before(kind));
            let ran = world.run();
            assert_eq!(
                (ran.report.exit_code, ran.retries()),
                (code, 0),
                "{side} {kind:?}"
            );
        }
    }
}

#[test]
fn a_side_that_is_busy_is_connected_to_again() {
    for side in [Side::Source, Side::Target] {
        let world = World::new(3);
        world.fault(side, Call::Connect, 1, 2, Fault::Before(ErrorKind::Busy));
        let ran = world.run();
        assert!(ran.is_done(), "{:?}", ran.report.errors);
        assert_eq!(ran.retries(), 2, "{side}");
    }
}

/// A world of so many workspaces with six records each.
fn many_workspaces(workspaces: usize) -> World {
    let mut world = World::new(6).with_workspaces(workspaces, 6);
    world.settings.concurrency = number(8);
    world
}

#[test]
fn small_workspaces_are_moved_several_at_a_time_and_told_of_in_their_order() {
    let world = many_workspaces(40);
    let slow = Fault::Slow(Duration::from_secs(20));
    world.fault(Side::Target, Call::Write, 1, usize::MAX, slow);
    world.fault(Side::Source, Call::Count, 1, usize::MAX, slow);
    let ran = world.run();
    assert!(ran.is_done());
    for workspace in &world.workspaces {
        assert_eq!(world.target.durable(workspace), texts(&records(6)), "{workspace}");
    }
    assert_eq!(ran.report.totals.written, 240);
    // One after the other, 80 writes and 40 counts would take 40 minutes.
    assert!(ran.took < Duration::from_secs(600), "{:?}", ran.took);
    assert_eq!(world.target.most_under_way(), 8);
    let counted = ran.events.iter().filter_map(|event| match event {
        Event::Count(count) if count.side == Side::Source => Some(&count.workspace),
        _ => None,
    });
    assert!(counted.eq(&world.workspaces));
    let of_report = ran.report.workspaces.iter().map(|workspace| &workspace.from);
    assert!(of_report.eq(&world.workspaces));
}

#[test]
fn behind_a_workspace_that_fails_none_begins_and_those_under_way_are_ended() {
    let world = many_workspaces(60);
    world.fault(Side::Target, Call::Write, 5, 1, Fault::Before(ErrorKind::Full));
    let ran = world.run();
    assert_eq!((ran.is_done(), ran.report.exit_code), (false, 5));
    assert_eq!(ran.report.errors.total, 1);
    let totals = &ran.report.totals;
    assert!((3..=6 * 20).contains(&totals.written), "{totals:?}");
    let kept = world
        .workspaces
        .iter()
        .map(|name| world.target.durable(name).len());
    assert_eq!(kept.sum::<usize>() as u64, totals.written);
}

#[test]
fn few_workspaces_are_moved_one_after_the_other() {
    assert_one_after_the_other(&many_workspaces(4));
}

#[test]
fn with_a_checkpoint_workspaces_are_moved_one_after_the_other() {
    let world = many_workspaces(12).with_checkpoint();
    assert_one_after_the_other(&world);
}

fn assert_one_after_the_other(world: &World) {
    let slow = Fault::Slow(Duration::from_secs(20));
    world.fault(Side::Target, Call::Write, 1, usize::MAX, slow);
    let ran = world.run();
    let batches = ran.events.iter().filter_map(|event| match event {
        Event::Batch(batch) => Some(batch.workspace.clone()),
        _ => None,
    });
    let batches: Vec<Workspace> = batches.collect();
    let twice = world.workspaces.iter().flat_map(|name| [name, name]);
    assert!(batches.iter().eq(twice), "{batches:?}");
}

/// A server that finds one workspace by looking over all that it has looks for all of them at once, whatever the run does.
#[test]
fn many_workspaces_are_looked_for_together() {
    let gathers = |most: Option<usize>| {
        let mut world = World::new(2);
        world.workspaces = (0..12)
            .map(|n| Workspace::new(format!("w{n}")).unwrap())
            .collect();
        for workspace in &world.workspaces {
            world.source.put(workspace, records(4));
            world.target.put(workspace, records(2));
        }
        for memory in [&world.source, &world.target] {
            memory.change_rules(|rules| rules.most_gathered = most);
        }
        world
    };
    let in_mode = |mode, most| {
        let mut world = gathers(most);
        world.settings.mode = mode;
        world.settings.verify = VerifyLevel::Full;
        let ran = world.run();
        assert_eq!(ran.report.workspaces.len(), 12);
        (world.source.looks(), world.target.looks(), ran)
    };
    // To count, and to look records up.
    let (source, target, ran) = in_mode(Mode::DryRun, None);
    assert_eq!((source, target), (2, 1));
    assert_eq!((ran.report.to_move, ran.report.existing), (Some(48), Some(24)));
    assert_eq!(in_mode(Mode::DryRun, Some(5)).0, 6);
    // To count, and to compare.
    let (source, target, ran) = in_mode(Mode::Verify, None);
    assert_eq!((source, target), (2, 2));
    let numbers = &ran.report.verification.as_ref().unwrap().numbers;
    assert_eq!((numbers.equal, numbers.missing), (24, 24));
    assert_eq!(in_mode(Mode::Verify, Some(5)).0, 6);
}

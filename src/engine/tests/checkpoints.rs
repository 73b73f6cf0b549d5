//! Going on where an earlier run stopped.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::world::{World, key, number, record, records, texts};
use crate::{
    engine::checkpoint::Progress,
    model::{ErrorKind, Side},
    report::{Event, RunOutcome},
    storage::memory::{Call, Fault, Memory},
};

/// The checkpoint file as it is now.
fn progress(path: &PathBuf) -> Progress {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// How many lines the rejects file has.
fn rejected(world: &World) -> usize {
    let rejects = std::fs::read_to_string(world.file("rejects.jsonl")).unwrap();
    rejects.lines().count()
}

#[test]
fn a_checkpoint_says_no_more_than_what_is_durable() {
    for fault in [
        None,
        Some((Call::Flush, Fault::Before(ErrorKind::ConnectionLost))),
        Some((Call::Flush, Fault::After(ErrorKind::ConnectionLost))),
        Some((Call::Flush, Fault::Slow(Duration::from_secs(10)))),
        Some((Call::Write, Fault::After(ErrorKind::ConnectionLost))),
        Some((Call::Write, Fault::Half(ErrorKind::ConnectionLost))),
        Some((Call::Write, Fault::Hold)),
    ] {
        let world = World::new(40).with_checkpoint();
        if let Some((call, fault)) = fault {
            world.fault(Side::Target, call, 2, 1, fault);
        }
        let path = world.settings.checkpoint.clone().unwrap();
        let (target, workspace) = (Arc::clone(&world.target), world.workspace().clone());
        let mut sorted: Vec<String> = (0..40).map(key).collect();
        sorted.sort();
        let observer = move |event: &Event| {
            if !matches!(event, Event::Checkpoint(_)) {
                return;
            }
            let progress = progress(&path);
            let done = &progress.workspaces[0];
            let durable = target.durable(&workspace);
            let up_to = done.cursor.as_ref().map_or("~", |cursor| &cursor.0);
            for key in sorted.iter().filter(|key| key.as_str() <= up_to) {
                assert!(
                    durable.contains_key(key),
                    "{key} is before {up_to} and not durable"
                );
            }
            let counted = sorted.iter().filter(|key| key.as_str() <= up_to).count() as u64;
            assert_eq!(done.totals.done(), counted);
        };
        let ran = world.run_observed(usize::MAX, Box::new(observer)).unwrap();
        assert!(
            ran.is_done() && ran.checkpoints() > 2,
            "{fault:?}: {}",
            ran.checkpoints()
        );
    }
}

/// Every event of a run is a moment at which its process may be killed; a server may have lost what was not durable.
#[test]
fn a_run_that_was_killed_at_any_event_is_finished_by_the_next_one() {
    let world = || {
        let mut world = World::new(26).with_checkpoint();
        world.add_workspace("second", 10);
        world
    };
    let whole = world().run();
    assert!(whole.is_done() && whole.checkpoints() >= 4);
    let mut resumed_behind_the_beginning = 0;
    for most in 1..=whole.events.len() {
        for lose in [false, true] {
            let mut world = world();
            let ran = world.run_until(most);
            assert!(ran.is_none(), "killed at event {most}");
            world.revive(lose);
            let ran = world.run();
            assert!(ran.is_done(), "killed at event {most}: {:?}", ran.report.errors);
            assert_eq!(world.kept(), texts(&records(26)), "killed at event {most}");
            assert_eq!(world.target.durable(&world.workspaces[1]).len(), 10);
            let report = &ran.report;
            assert_eq!(report.totals.written, 36, "killed at event {most}");
            assert_eq!(
                report.batches.total, whole.report.batches.total,
                "killed at event {most}"
            );
            let written: u64 = ran
                .events
                .iter()
                .map(|event| match event {
                    Event::Batch(batch) => batch.written,
                    _ => 0,
                })
                .sum();
            resumed_behind_the_beginning += usize::from(written < 36);
        }
    }
    assert!(
        resumed_behind_the_beginning > 10,
        "{resumed_behind_the_beginning}"
    );
}

#[test]
fn a_reject_is_in_the_file_once_although_the_run_was_killed_after_it() {
    let world = || {
        let mut world = World::new(12).with_checkpoint();
        world.settings.rejects = Some(world.file("rejects.jsonl"));
        world
            .target
            .change_rules(|rules| rules.rejects.extend([key(1), key(7)]));
        world
    };
    let whole = world().run();
    assert_eq!(whole.report.totals.rejected, 2);
    for most in 1..=whole.events.len() {
        let mut world = world();
        assert!(world.run_until(most).is_none());
        world.revive(false);
        assert_eq!(world.run().report.totals.rejected, 2, "killed at event {most}");
        assert_eq!(rejected(&world), 2, "killed at event {most}");
    }
}

/// Each of several kills used to lose a batch from the number of all.
#[test]
fn no_batch_is_lost_from_the_total_however_often_a_run_is_killed() {
    let mut world = World::new(60).with_checkpoint();
    world.settings.batch_records = number(1);
    let path = world.settings.checkpoint.clone().unwrap();
    let mut done = 0;
    for _ in 0..3 {
        assert!(world.run_until(20).is_none());
        world.revive(true);
        let durable = progress(&path).workspaces[0].totals.done();
        assert!(durable > done, "{durable} after {done}");
        done = durable;
    }
    let ran = world.run();
    assert!(ran.is_done());
    assert_eq!((ran.report.batches.total, ran.report.totals.written), (60, 60));
}

#[test]
fn a_batch_is_counted_once_where_pages_end_within_batches() {
    for most in 4..30 {
        let mut world = World::new(40).with_checkpoint();
        // A page of four, so that from here on no batch of three ends where a page does.
        world.source.change_rules(|rules| {
            rules.again.insert(1, record("default:extract:new", "new", 1));
        });
        if world.run_until(most).is_some() {
            break;
        }
        world.revive(true);
        world.source.change_rules(|rules| rules.again.clear());
        let ran = world.run();
        assert!(ran.is_done(), "killed at {most}");
        let kept = world.kept();
        assert!(
            texts(&records(40))
                .iter()
                .all(|(key, text)| kept.get(key) == Some(text))
        );
        let (written, batches) = (ran.report.totals.written, ran.report.batches.total);
        assert!((40..=41).contains(&written), "killed at {most}: {written}");
        assert!((14..=15).contains(&batches), "killed at {most}: {batches}");
    }
}

#[test]
fn a_source_without_an_order_is_read_from_its_beginning_again() {
    let mut source = Memory::new("source");
    source.has_order = false;
    let mut world = World::new(0).with_checkpoint();
    world.source = Arc::new(source);
    world.source.put(world.workspace(), records(20));
    assert!(world.run_until(8).is_none());
    world.revive(true);
    let ran = world.run();
    assert!(ran.is_done());
    assert_eq!(world.kept(), texts(&records(20)));
    assert_eq!((ran.report.totals.written, ran.report.batches.total), (20, 7));
}

#[test]
fn a_finished_job_begins_anew() {
    let mut world = World::new(20).with_checkpoint();
    assert!(world.run().is_done());
    world.revive(false);
    let ran = world.run();
    assert_eq!((ran.report.totals.written, ran.report.batches.total), (20, 7));
}

#[test]
fn the_checkpoint_of_another_job_is_refused() {
    let mut world = World::new(20).with_checkpoint();
    assert!(world.run_until(9).is_none());
    world.revive(false);
    world.settings.on_conflict = crate::model::OnConflict::Skip;
    let ran = world.run();
    assert!(matches!(ran.outcome, RunOutcome::Failed { .. }));
    assert_eq!(ran.report.exit_code, 11);
}

/// The flush before a periodic checkpoint is a request like any other: it is bounded in time and tried again.
#[test]
fn the_flush_before_a_checkpoint_is_tried_again() {
    for fault in [
        Fault::Before(ErrorKind::ConnectionLost),
        Fault::After(ErrorKind::ConnectionLost),
        Fault::Hold,
        Fault::HoldAfter,
    ] {
        let world = World::new(40).with_checkpoint();
        world.fault(Side::Target, Call::Flush, 1, 1, fault);
        let ran = world.run();
        assert!(ran.is_done(), "{fault:?}: {:?}", ran.report.errors);
        assert_eq!(ran.retries(), 1, "{fault:?}");
        assert!(ran.checkpoints() > 2, "{fault:?}");
        let flush = ran.events.iter().find_map(|event| match event {
            Event::Retry(retry) => Some(retry),
            _ => None,
        });
        let flush = flush.unwrap();
        assert_eq!(
            (flush.side, flush.workspace.as_ref()),
            (Side::Target, Some(world.workspace()))
        );
    }
}

#[test]
fn a_run_whose_last_flush_fails_keeps_what_was_durable_before() {
    let mut world = World::new(40).with_checkpoint();
    world.fault(Side::Target, Call::Flush, 3, 99, Fault::Before(ErrorKind::Full));
    let ran = world.run();
    assert_eq!(ran.report.exit_code, 5);
    let written = ran.report.totals.written;
    assert_eq!(written, world.kept().len() as u64);
    assert!(written > 0 && written < 40, "{written}");
    // The flush is of the records that were accepted since the one before.
    let lost = ran.report.errors.first[0].records;
    assert!(lost > 0 && lost <= 40 - written, "{lost}");
    world.target.clear_faults();
    world.revive(true);
    let ran = world.run();
    assert!(ran.is_done());
    assert_eq!((ran.report.totals.written, world.kept().len()), (40, 40));
}

/// Batches after a failed one may have been written, but the next run does not resume after them.
#[test]
fn the_next_run_begins_at_the_batch_that_failed_not_behind_it() {
    let mut written_behind = 0;
    for concurrency in 1..=4 {
        for at in 1..=5 {
            let case = format!("batch {at} of 5, {concurrency} at once");
            let mut world = World::new(15).with_checkpoint();
            world.settings.concurrency = number(concurrency);
            world.fault(Side::Target, Call::Write, at, 1, Fault::Before(ErrorKind::Full));
            let ran = world.run();
            assert_eq!(ran.report.exit_code, 5, "{case}");
            written_behind += world.kept().len().saturating_sub(3 * (at - 1));
            world.target.clear_faults();
            world.revive(true);
            let ran = world.run();
            assert!(ran.is_done(), "{case}: {:?}", ran.report.errors);
            assert_eq!(world.kept(), texts(&records(15)), "{case}");
        }
    }
    assert!(written_behind > 0, "no batch after the failed one was written");
}

/// So many workspaces of two records, between storages that answer fast.
fn small_workspaces(workspaces: usize) -> World {
    let world = World::new(2).with_checkpoint().with_workspaces(workspaces, 2);
    for memory in [&world.source, &world.target] {
        memory.change_rules(|rules| rules.latency = Some(Duration::from_millis(10)));
    }
    world
}

/// A checkpoint contains all workspaces so far, so that one for each would take longer the more there are.
#[test]
fn of_many_small_workspaces_there_is_a_checkpoint_a_second() {
    let ran = small_workspaces(100).run();
    assert!(ran.is_done());
    let seconds = usize::try_from(ran.took.as_secs()).unwrap();
    assert!((3..50).contains(&seconds), "{seconds} s");
    assert!(
        (2..=seconds + 1).contains(&ran.checkpoints()),
        "{} in {seconds} s",
        ran.checkpoints()
    );
}

#[test]
fn a_run_that_fails_saves_the_workspaces_that_ended_since_the_last_checkpoint() {
    let mut world = small_workspaces(40);
    let path = world.settings.checkpoint.clone().unwrap();
    world.fault(Side::Target, Call::Write, 26, 1, Fault::Before(ErrorKind::Full));
    assert_eq!(world.run().report.exit_code, 5);
    let ended = progress(&path).workspaces;
    assert_eq!(ended.iter().filter(|workspace| workspace.complete).count(), 25);
    world.target.clear_faults();
    world.revive(false);
    let before = world.target.calls(Call::Write);
    let ran = world.run();
    assert!(ran.is_done());
    assert_eq!(world.target.calls(Call::Write) - before, 15);
    assert_eq!(ran.report.totals.written, 80);
}

/// A workspace may end less than a second after the last checkpoint, and the next one take hours.
#[test]
fn the_end_of_a_workspace_is_saved_although_no_run_can_resume_in_the_next_one() {
    let mut world = World::new(2)
        .with_checkpoint()
        .with_target_visible_when_flushed(false);
    world.add_workspace("second", 200);
    for memory in [&world.source, &world.target] {
        memory.change_rules(|rules| rules.latency = Some(Duration::from_millis(50)));
    }
    let ran = world.run();
    assert!(ran.is_done());
    let of_first =
        |event: &Event| matches!(event, Event::Checkpoint(saved) if saved.workspace == *world.workspace());
    let of_second =
        |event: &Event| matches!(event, Event::Batch(batch) if batch.workspace == world.workspaces[1]);
    let saved = ran.events.iter().position(of_first).unwrap();
    let last = ran.events.iter().rposition(of_second).unwrap();
    assert!(saved < last, "event {saved} of {last}");
}

#[test]
fn small_workspaces_are_finished_by_the_next_run_after_a_kill_at_any_event() {
    for is_visible in [true, false] {
        kill_small_workspaces(is_visible);
    }
}

fn kill_small_workspaces(is_visible: bool) {
    const WORKSPACES: usize = 12;
    let world = || {
        let mut world = small_workspaces(WORKSPACES).with_target_visible_when_flushed(is_visible);
        world.settings.rejects = Some(world.file("rejects.jsonl"));
        world.target.change_rules(|rules| rules.rejects.extend([key(1)]));
        // Each takes a fifth of a second, so that a checkpoint contains several of them.
        for memory in [&world.source, &world.target] {
            memory.change_rules(|rules| rules.latency = Some(Duration::from_millis(40)));
        }
        world
    };
    let whole = world().run();
    assert!(whole.is_done());
    assert!(
        (2..WORKSPACES).contains(&whole.checkpoints()),
        "{}",
        whole.checkpoints()
    );
    for most in 1..=whole.events.len() {
        for lose in [false, true] {
            let mut world = world();
            assert!(world.run_until(most).is_none());
            world.revive(lose);
            let ran = world.run();
            assert!(ran.is_done(), "killed at event {most}: {:?}", ran.report.errors);
            let totals = &ran.report.totals;
            let workspaces = WORKSPACES as u64;
            assert_eq!(
                (totals.written, totals.rejected),
                (workspaces, workspaces),
                "killed at event {most}"
            );
            for workspace in &world.workspaces {
                assert_eq!(world.target.durable(workspace), texts(&records(1)));
            }
            assert_eq!(rejected(&world), WORKSPACES, "killed at event {most}");
        }
    }
}

/// Two workspaces, each with a record that the target refuses.
fn two_workspaces() -> World {
    let mut world = World::new(9).with_checkpoint();
    world.add_workspace("second", 30);
    world.target.change_rules(|rules| rules.rejects.extend([key(1)]));
    world
}

/// Runs until a batch of the second workspace was settled after a checkpoint of it, and is killed there.
fn kill_in_the_second(world: &World) {
    let whole = two_workspaces().run();
    let of_second = |event: &Event| matches!(event, Event::Checkpoint(checkpoint) if checkpoint.workspace.name() == "second");
    let at = whole.events.iter().position(of_second).unwrap();
    assert!(world.run_until(at + 3).is_none());
}

/// A run that resumes in a workspace and finds that it has to be started again returns to what was before that workspace,
/// not to what was where it resumed.
#[test]
fn a_workspace_that_is_started_again_after_a_resumed_run_counts_once() {
    let world = || {
        let mut world = two_workspaces();
        world.settings.rejects = Some(world.file("rejects.jsonl"));
        // The first of a workspace, as the other is the last.
        world.target.change_rules(|rules| rules.rejects.extend([key(2)]));
        world
    };
    let whole = world().run();
    let of_second =
        |event: &Event| matches!(event, Event::Checkpoint(saved) if saved.workspace.name() == "second");
    let at = whole.events.iter().position(of_second).unwrap();
    let mut world = world();
    assert!(world.run_until(at + 3).is_none());
    world.revive(false);
    // Somebody removes what was written.
    world.target.clear(&world.workspaces[1]);
    assert_eq!(world.run().report.exit_code, 6);
    world.revive(false);
    let ran = world.run();
    assert_eq!(ran.report.exit_code, 3);
    assert_eq!(ran.report.totals, whole.report.totals);
    assert_eq!(ran.report.errors.by_kind, whole.report.errors.by_kind);
    assert_eq!(ran.report.batches.total, whole.report.batches.total);
    assert_eq!(rejected(&world), 4);
}

/// A run without `--resume` starts the rejects file again, so that no later run may resume from the checkpoint before it.
#[test]
fn a_run_that_starts_again_makes_the_checkpoint_before_it_void() {
    let world = || {
        let mut world = World::new(30).with_checkpoint();
        world.settings.rejects = Some(world.file("rejects.jsonl"));
        world
            .target
            .change_rules(|rules| rules.rejects.extend([key(2), key(5)]));
        world
    };
    let whole = world().run();
    let is_saved = |event: &Event| matches!(event, Event::Checkpoint(_));
    let at = whole.events.iter().position(is_saved).unwrap();
    for most in 1..=at {
        let mut world = world();
        assert!(world.run_until(at + 2).is_none());
        world.revive(false);
        world.settings.resume = false;
        assert!(world.run_until(most).is_none());
        world.revive(false);
        let ran = world.run();
        assert_eq!(ran.report.totals.rejected, 2, "killed at event {most}");
        assert_eq!(rejected(&world), 2, "killed at event {most}");
    }
}

#[test]
fn a_rejects_file_that_lacks_what_earlier_runs_wrote_causes_a_warning() {
    let mut world = two_workspaces();
    world.settings.rejects = Some(world.file("rejects.jsonl"));
    kill_in_the_second(&world);
    std::fs::remove_file(world.file("rejects.jsonl")).unwrap();
    world.revive(false);
    let ran = world.run();
    let warnings = &ran.report.warnings;
    assert!(
        warnings
            .iter()
            .any(|warning| warning.contains("records that earlier runs rejected are missing in it")),
        "{warnings:?}"
    );
}

#[test]
fn a_resumed_run_reports_what_earlier_runs_did_and_does_not_do_it_again() {
    let whole = two_workspaces().run();
    let mut world = two_workspaces();
    kill_in_the_second(&world);
    // The workspace that is done stays so from checkpoint to checkpoint.
    world.revive(true);
    assert!(world.run_until(12).is_none());
    world.revive(true);
    let ran = world.run();
    let again = ran
        .events
        .iter()
        .any(|event| matches!(event, Event::Batch(batch) if batch.workspace.name() == "w"));
    assert!(!again, "a finished workspace is moved again");
    assert_eq!(ran.report.totals, whole.report.totals);
    assert_eq!(ran.report.errors.by_kind, whole.report.errors.by_kind);
    assert_eq!(ran.report.batches.total, whole.report.batches.total);
}

#[test]
fn entries_that_are_not_selected_are_counted_once_over_all_runs() {
    let world = || {
        let world = two_workspaces();
        let others = (0..8).map(|n| record(&format!("a key {n}"), "x", 1));
        world.source.put(&world.workspaces[1], others);
        world
    };
    let whole = world().run();
    let mut world = world();
    kill_in_the_second(&world);
    world.revive(true);
    assert_eq!(world.run().report.totals, whole.report.totals);
}

#[test]
fn only_a_run_that_was_to_resume_misses_its_checkpoint() {
    let mut world = World::new(3).with_checkpoint();
    assert_eq!(world.run().report.warnings, Vec::<String>::new());
    let mut world_to_resume = World::new(3).with_checkpoint();
    world_to_resume.settings.resume = true;
    let warnings = world_to_resume.run().report.warnings;
    assert!(warnings[0].contains("no checkpoint at"), "{warnings:?}");
    // A finished one is there, and is begun anew without a warning.
    world.revive(false);
    assert_eq!(world.run().report.warnings, Vec::<String>::new());
}

#[test]
fn what_an_earlier_run_made_durable_stays_written_where_the_next_one_fails() {
    let mut world = two_workspaces();
    kill_in_the_second(&world);
    let done = progress(world.settings.checkpoint.as_ref().unwrap());
    let before: u64 = done
        .workspaces
        .iter()
        .map(|workspace| workspace.totals.written)
        .sum();
    world.revive(true);
    world.fault(
        Side::Target,
        Call::Flush,
        1,
        usize::MAX,
        Fault::Before(ErrorKind::Full),
    );
    let ran = world.run();
    assert_eq!(ran.report.exit_code, 5);
    assert!(before > 8, "{before}");
    assert_eq!(ran.report.totals.written, before);
}

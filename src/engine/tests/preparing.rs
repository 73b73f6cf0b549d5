//! Before the first write: checks, warnings and the progress of counts.

use std::{sync::Arc, time::Duration};

use super::world::{Ran, World};
use crate::{
    model::{Mode, Selection, Shard, VerifyLevel},
    report::Event,
    storage::memory::{Call, Fault, LATENCY, Memory, Script},
};

/// A world with so many records and this mode, and whether it is known how many there are.
fn world(records: usize, mode: Mode, is_estimate: bool) -> World {
    let mut world = World::new(records);
    world.settings.mode = mode;
    world.settings.verify = VerifyLevel::Full;
    world.source.change_rules(|rules| rules.estimates = is_estimate);
    world
}

/// Runs that will write, or would without `--dry-run`, and those that will not.
const WILL_WRITE: [(usize, Mode, bool, bool); 6] = [
    (3, Mode::Migrate, false, true),
    (3, Mode::DryRun, false, true),
    (3, Mode::Verify, false, false),
    (0, Mode::Migrate, false, false),
    (0, Mode::Migrate, true, true),
    (0, Mode::Verify, true, false),
];

#[test]
fn only_a_target_that_is_to_be_written_has_to_be_writable() {
    for (records, mode, is_estimate, will_write) in WILL_WRITE {
        let world = world(records, mode, is_estimate);
        world.target.change_rules(|rules| rules.is_read_only = true);
        let ran = world.run();
        let is_refused = ran.report.exit_code == 5;
        assert_eq!(
            is_refused, will_write,
            "{records} {mode:?} {is_estimate}: {:?}",
            ran.report.errors
        );
    }
}

#[test]
fn only_a_target_that_is_to_be_written_warns() {
    for (records, mode, is_estimate, will_write) in WILL_WRITE {
        let world = world(records, mode, is_estimate);
        world
            .target
            .change_rules(|rules| rules.warning = Some("stop LightRAG"));
        let ran = world.run();
        let has_warned = ran
            .report
            .warnings
            .iter()
            .any(|warning| warning == "stop LightRAG");
        assert_eq!(has_warned, will_write, "{records} {mode:?} {is_estimate}");
    }
}

#[test]
fn a_target_that_is_replaced_as_a_whole_takes_no_shard_of_several() {
    let run = |mode, count| {
        let mut world = world(9, mode, false);
        let mut target = Memory::new("target");
        target.is_visible_when_flushed = false;
        world.target = Arc::new(target);
        world.settings.selection = Selection::default().of_shard(Shard::new(0, count));
        world.run().report.exit_code
    };
    assert_eq!(run(Mode::Migrate, 2), 10);
    assert_eq!(run(Mode::DryRun, 2), 10);
    assert_eq!(run(Mode::Migrate, 1), 0);
    // Nothing is there, so everything differs.
    assert_eq!(run(Mode::Verify, 2), 6);
}

#[test]
fn a_long_count_reports_its_progress_each_second() {
    let ticks = |slow: Duration| {
        let world = World::new(5);
        world.source.add_fault(Script {
            call: Call::Count,
            from: 1,
            times: 1,
            fault: Fault::Slow(slow),
        });
        let Ran { events, .. } = world.run();
        let scanned = events.into_iter().filter_map(|event| match event {
            Event::CountProgress(progress) => Some(progress.scanned),
            _ => None,
        });
        scanned.collect::<Vec<u64>>()
    };
    assert!(ticks(Duration::from_millis(400)).is_empty());
    assert_eq!(ticks(Duration::from_secs(2) - LATENCY), [5]);
}

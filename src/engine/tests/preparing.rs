//! Before the first write: checks, warnings and the progress of counts.

use std::{sync::Arc, time::Duration};

use super::world::{Ran, World, key, record};
use crate::{
    model::{ErrorKind, Mode, Origin, Rekey, Selection, Shard, Side, VerifyLevel, Workspace},
    report::Event,
    storage::memory::{Call, Fault, LATENCY, Memory},
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
        let mut world = world(9, mode, false).with_target_visible_when_flushed(false);
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
        world.fault(Side::Source, Call::Count, 1, 1, Fault::Slow(slow));
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

fn named(name: &str) -> Workspace {
    Workspace::new(name).unwrap()
}

/// A run of a workspace `my-space`, of which LightRAG's server makes `my_space`; the source has the latter alone.
fn renamed(origin: Origin) -> World {
    let mut world = World::new(0);
    world.origin = origin;
    world.workspaces = vec![named("my-space")];
    world.source = Arc::new(Memory::new("source"));
    world
        .source
        .put(&named("my_space"), [record(&key(1), "answer", 100)]);
    world
}

#[test]
fn only_a_name_in_workspace_may_stand_for_the_one_that_lightrags_server_makes_of_it() {
    let variable = || Origin::Variable("WORKSPACE".to_owned());
    let ran = renamed(variable()).run();
    assert_eq!((ran.report.exit_code, ran.report.totals.written), (0, 1));
    for origin in [
        Origin::Flag("--workspace"),
        Origin::Variable("REDIS_WORKSPACE".to_owned()),
    ] {
        assert_eq!(renamed(origin.clone()).run().report.exit_code, 9, "{origin}");
    }
}

#[test]
fn a_target_that_is_not_there_has_no_workspaces_and_any_other_error_ends_the_run() {
    let run = |side, kind| {
        let world = renamed(Origin::Variable("WORKSPACE".to_owned()));
        world.fault(side, Call::Workspaces, 1, 99, Fault::Before(kind));
        world.run().report.exit_code
    };
    assert_eq!(run(Side::Target, ErrorKind::NotFound), 0);
    assert_eq!(run(Side::Target, ErrorKind::Permission), 5);
    assert_eq!(run(Side::Source, ErrorKind::NotFound), 4);
}

#[test]
fn a_workspace_that_cannot_be_read_is_named_with_its_own_reason() {
    let mut world = World::new(1);
    world.workspaces = vec![named("closed")];
    world
        .source
        .change_rules(|rules| rules.unreadable = vec!["another", "closed"]);
    let report = world.run().report;
    assert!(
        report.errors.first[0]
            .message
            .contains("no permission for closed"),
        "{:?}",
        report.errors
    );
}

#[test]
fn workspaces_that_change_places_are_not_one_workspace_in_place() {
    let mut world = World::new(0);
    let place = Arc::new(Memory::new("both"));
    for name in ["a", "b"] {
        place.put(&named(name), [record(&key(1), name, 100)]);
    }
    world.source = Arc::clone(&place);
    world.target = place;
    world.workspaces = vec![named("a"), named("b")];
    world.targets = vec![named("b"), named("a")];
    world.settings.rekey = Rekey::Host;
    assert_eq!(world.run().report.exit_code, 10);
}

#[test]
fn a_misspelt_workspace_that_may_be_missing_is_told_with_the_one_that_is_there() {
    for (asked, end) in [("spcae1", "did you mean space1?"), ("space1,other", "space1, w")] {
        let mut world = World::new(1);
        world
            .source
            .put(&named("space1"), [record(&key(1), "answer", 100)]);
        world.workspaces = vec![named(asked)];
        world.settings.allow_missing = true;
        let warnings = world.run().report.warnings;
        assert!(
            warnings.iter().any(|warning| warning.ends_with(end)),
            "{asked}: {warnings:?}"
        );
    }
}

#[test]
fn a_type_that_is_there_is_no_misspelling_of_another() {
    let mut world = World::new(9);
    let misspelt = record("default:sumary:1", "answer", 100);
    world.source.put(world.workspace(), [misspelt]);
    world.settings.selection = Selection::parse(["summary"]).unwrap();
    let warnings = world.run().report.warnings;
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn of_many_types_that_are_not_selected_eight_are_named() {
    let message = |types: usize| {
        let world = World::new(0);
        let records = (0..types).map(|n| record(&format!("mix:query{n}:1"), "answer", 100));
        world.source.put(world.workspace(), records);
        let warnings = world.run().report.warnings;
        warnings
            .into_iter()
            .find(|warning| warning.contains("of other types"))
            .unwrap()
    };
    for (types, is_cut) in [(8, false), (9, true)] {
        let message = message(types);
        assert_eq!(message.contains(", …"), is_cut, "{message}");
        assert_eq!(message.matches("mix:query").count(), 8, "{message}");
    }
}

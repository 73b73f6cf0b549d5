//! Every policy with every fault: what may pass later is tried again, what cannot ends the run, and the numbers add up
//! either way.

use super::world::{World, key, record, records, texts};
use crate::{
    model::{ErrorKind, OnConflict, Side},
    report::Event,
    storage::memory::{Call, Fault},
};

const POLICIES: [OnConflict; 4] = [
    OnConflict::Overwrite,
    OnConflict::Skip,
    OnConflict::Newer,
    OnConflict::Fail,
];

/// Each call that a run makes, with its side.
const CALLS: [(Side, Call); 9] = [
    (Side::Source, Call::Count),
    (Side::Source, Call::Page),
    (Side::Target, Call::Count),
    (Side::Target, Call::Prepare),
    (Side::Target, Call::Size),
    (Side::Target, Call::Write),
    (Side::Target, Call::Get),
    (Side::Target, Call::Flush),
    (Side::Target, Call::Finish),
];

/// The faults after which another try passes.
fn passing(call: Call) -> Vec<Fault> {
    let mut faults = vec![
        Fault::Before(ErrorKind::Busy),
        Fault::Before(ErrorKind::ConnectionLost),
        Fault::After(ErrorKind::ConnectionLost),
        Fault::Before(ErrorKind::Timeout),
    ];
    if call == Call::Write {
        faults.push(Fault::Half(ErrorKind::ConnectionLost));
    }
    // A count has no bound in time.
    if call != Call::Count {
        faults.extend([Fault::Hold, Fault::HoldAfter]);
    }
    faults
}

/// Ten records, two of which the target has already; with `Fail` it has none.
fn world(policy: OnConflict) -> World {
    let mut world = World::new(10).with_checkpoint();
    world.settings.on_conflict = policy;
    if policy != OnConflict::Fail {
        let theirs = [record(&key(0), "theirs", 50), record(&key(1), "theirs", 150)];
        world.target.put(world.workspace(), theirs);
    }
    world
}

#[test]
fn what_passes_later_leaves_no_trace_but_a_retry() {
    for policy in POLICIES {
        let without = world(policy);
        let expected = without.run();
        assert!(expected.is_done(), "{policy:?}");
        for (side, call) in CALLS {
            for fault in passing(call) {
                let world = world(policy);
                world.fault(side, call, 1, 2, fault);
                let ran = world.run();
                let case = format!("{policy:?}, {side} {call:?} {fault:?}");
                assert!(ran.is_done(), "{case}: {:?}", ran.report.errors);
                assert_eq!(world.kept(), without.kept(), "{case}");
                assert_eq!(ran.report.totals, expected.report.totals, "{case}");
                let asked = match side {
                    Side::Source => world.source.calls(call),
                    Side::Target => world.target.calls(call),
                };
                // Not every policy asks for every call.
                assert_eq!(ran.retries() > 0, asked > 0, "{case}");
            }
        }
    }
}

#[test]
fn what_stays_is_tried_as_often_as_asked_and_ends_the_run_on_its_side() {
    for policy in POLICIES {
        for (side, call) in CALLS {
            for (fault, tries) in [
                (Fault::Before(ErrorKind::Busy), 4),
                (Fault::After(ErrorKind::ConnectionLost), 4),
                (Fault::Before(ErrorKind::Full), 1),
                (Fault::After(ErrorKind::Permission), 1),
            ] {
                let world = world(policy);
                world.fault(side, call, 1, usize::MAX, fault);
                let ran = world.run();
                let case = format!("{policy:?}, {side} {call:?} {fault:?}");
                let asked = match side {
                    Side::Source => world.source.calls(call),
                    Side::Target => world.target.calls(call),
                };
                if asked == 0 {
                    assert!(ran.is_done(), "{case}");
                    continue;
                }
                assert!(!ran.is_done(), "{case}");
                let code = if side == Side::Source { 4 } else { 5 };
                assert_eq!(ran.report.exit_code, code, "{case}: {:?}", ran.report.errors);
                let first = &ran.report.errors.first[0];
                let says_tries = first.message.contains("(tried 4 times)");
                assert_eq!(says_tries, tries == 4, "{case}: {}", first.message);
                // An error is recorded once, with where it happened.
                let messages: Vec<_> = ran
                    .report
                    .errors
                    .first
                    .iter()
                    .map(|e| (&e.message, e.batch))
                    .collect();
                let mut unique = messages.clone();
                unique.dedup();
                assert_eq!(messages.len(), unique.len(), "{case}: {messages:?}");
                if matches!(call, Call::Write | Call::Page | Call::Flush | Call::Finish) {
                    assert_eq!(first.workspace.as_deref(), Some("w"), "{case}");
                    assert_eq!(first.batch.is_some(), call == Call::Write, "{case}");
                }
                // When the fault is gone, the same command finishes the job.
                world.source.clear_faults();
                world.target.clear_faults();
                let mut world = world;
                world.settings.on_conflict = OnConflict::Overwrite;
                world.settings.checkpoint = None;
                assert!(world.run().is_done(), "{case}");
                assert_eq!(world.kept(), texts(&records(10)), "{case}");
            }
        }
    }
}

#[test]
fn a_fault_in_the_middle_keeps_what_was_written_before_and_after_in_order() {
    for at in 1..=4 {
        let world = World::new(12);
        world.fault(
            Side::Target,
            Call::Write,
            at,
            usize::MAX,
            Fault::Before(ErrorKind::Full),
        );
        let ran = world.run();
        assert_eq!(ran.report.exit_code, 5);
        let written = ran.report.totals.written;
        assert_eq!(written, world.kept().len() as u64, "{at}");
        assert_eq!(written, 3 * (at as u64 - 1), "{at}");
    }
}

#[test]
fn a_batch_that_is_refused_is_written_in_halves_down_to_the_record() {
    let mut world = World::new(12);
    world.settings.batch_records = super::world::number(12);
    world.target.change_rules(|rules| {
        rules.refuses.insert(key(7));
    });
    let ran = world.run();
    assert!(ran.is_done());
    assert_eq!((ran.report.totals.written, ran.report.totals.rejected), (11, 1));
    assert_eq!((ran.report.exit_code, ran.report.batches.partial), (3, 1));
    let rejected = ran.events.iter().find_map(|event| match event {
        Event::Reject(reject) => Some(reject.key.clone()),
        _ => None,
    });
    assert_eq!(rejected, Some(key(7)));
}

#[test]
fn a_batch_that_is_too_large_is_written_in_parts() {
    let mut world = World::new(12);
    world.settings.batch_records = super::world::number(12);
    world.target.change_rules(|rules| rules.largest_batch = Some(3));
    let ran = world.run();
    assert_eq!((ran.report.totals.written, ran.report.batches.ok), (12, 1));
    assert_eq!(world.kept(), texts(&records(12)));
}

/// The batches before it arrive, and the run does not look complete.
#[test]
fn a_bug_in_a_storage_fails_the_run() {
    for (side, call) in [(Side::Source, Call::Page), (Side::Target, Call::Write)] {
        let world = World::new(12);
        world.fault(side, call, 2, 1, Fault::Panic);
        let ran = world.run();
        assert_eq!(ran.report.exit_code, 1, "{side} {call:?}");
        let kinds: Vec<&String> = ran.report.errors.by_kind.keys().collect();
        assert_eq!(kinds, ["internal"], "{side} {call:?}");
        assert!(ran.report.totals.written < 12, "{side} {call:?}");
    }
}

/// What another try finds there equals what was to be created: it is our own.
#[test]
fn records_whose_answer_was_lost_count_as_written() {
    for policy in [OnConflict::Skip, OnConflict::Newer, OnConflict::Fail] {
        let mut world = World::new(6);
        world.settings.on_conflict = policy;
        world.fault(
            Side::Target,
            Call::Write,
            1,
            1,
            Fault::After(ErrorKind::ConnectionLost),
        );
        let ran = world.run();
        assert!(ran.is_done(), "{policy:?}");
        assert_eq!(
            (ran.report.totals.written, ran.report.totals.skipped),
            (6, 0),
            "{policy:?}"
        );
        assert_eq!(ran.report.batches.retried, 1);
    }
}

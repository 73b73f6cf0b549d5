//! What ends a run before its end: too many rejected records, its time, a signal.

use std::time::Duration;

use super::world::{World, key, records, texts};
use crate::{
    model::{MaxErrors, Side},
    report::{Event, RunOutcome},
    storage::memory::{Call, Fault},
    system::shutdown::StopReason,
};

#[test]
fn more_rejected_records_than_allowed_end_a_run() {
    for (most, is_done) in [
        (None, true),
        (Some(MaxErrors::Records(4)), true),
        (Some(MaxErrors::Records(3)), false),
        (Some(MaxErrors::Records(0)), false),
        (Some(MaxErrors::Percent(20.0)), true),
        (Some(MaxErrors::Percent(19.0)), false),
    ] {
        let mut world = World::new(20);
        world.settings.max_errors = most;
        world.settings.concurrency = super::world::number(1);
        world
            .target
            .change_rules(|rules| rules.rejects.extend((0..4).map(key)));
        let ran = world.run();
        assert_eq!(ran.is_done(), is_done, "{most:?}");
        assert_eq!(ran.report.exit_code, if is_done { 3 } else { 7 }, "{most:?}");
        let totals = &ran.report.totals;
        assert_eq!(totals.not_attempted == 0, is_done, "{most:?}");
        assert_eq!(totals.written, world.kept().len() as u64, "{most:?}");
        // What ended it counts as one.
        assert_eq!(
            ran.report.errors.total,
            totals.rejected + u64::from(!is_done),
            "{most:?}"
        );
    }
}

#[test]
fn a_run_stops_when_its_time_is_over_and_can_be_resumed() {
    let mut world = World::new(60).with_checkpoint();
    world.settings.max_duration = Some(Duration::from_secs(6));
    let ran = world.run();
    assert!(matches!(
        ran.outcome,
        RunOutcome::Stopped(StopReason::MaxDuration)
    ));
    assert_eq!((ran.report.exit_code, ran.report.retryable), (8, true));
    assert!(ran.took < Duration::from_secs(9), "{:?}", ran.took);
    let written = ran.report.totals.written;
    assert_eq!(written, world.kept().len() as u64);
    assert!(written > 0 && written < 60, "{written}");
    world.settings.max_duration = None;
    world.revive(true);
    let ran = world.run();
    assert!(ran.is_done());
    assert_eq!(ran.report.totals.written, 60);
    let again = ran.events.iter().filter_map(|event| match event {
        Event::Batch(batch) => Some(batch.written),
        _ => None,
    });
    assert_eq!(again.sum::<u64>(), 60 - written);
}

#[test]
fn waiting_for_another_try_ends_with_the_time() {
    let mut world = World::new(6);
    world.settings.retries = 1000;
    world.settings.max_duration = Some(Duration::from_secs(30));
    let busy = Fault::Before(crate::model::ErrorKind::Busy);
    world.fault(Side::Target, Call::Write, 1, usize::MAX, busy);
    let ran = world.run();
    assert!(ran.took < Duration::from_secs(40), "{:?}", ran.took);
    assert_eq!(ran.report.totals.not_attempted, 6);
    assert_eq!(ran.report.exit_code, 8, "{:?}", ran.outcome);
}

/// Whatever the run waits to try again: nothing of what made it wait is why it ended.
#[test]
fn a_signal_while_a_run_waits_for_another_try_stops_it() {
    for (reason, code) in [(StopReason::Interrupted, 130), (StopReason::Terminated, 143)] {
        for (side, call) in [
            (Side::Source, Call::Page),
            (Side::Target, Call::Prepare),
            (Side::Target, Call::Write),
            (Side::Target, Call::Flush),
            (Side::Target, Call::Finish),
        ] {
            let case = format!("{reason:?}, {side} {call:?}");
            let fault = || Fault::Before(crate::model::ErrorKind::ConnectionLost);
            let mut world = World::new(9).with_checkpoint();
            world.fault(side, call, 1, usize::MAX, fault());
            world.settings.retries = 1000;
            world.settings.max_duration = Some(Duration::from_secs(100_000));
            // The first of the waits.
            let probe = world.run();
            let is_retry = |event: &Event| matches!(event, Event::Retry(_));
            let at = probe.events.iter().position(is_retry).expect(&case) + 1;
            let mut world = World::new(9).with_checkpoint();
            world.fault(side, call, 1, usize::MAX, fault());
            world.settings.retries = 1000;
            world.stop_at = Some((at, reason));
            let ran = world.run();
            assert!(
                matches!(ran.outcome, RunOutcome::Stopped(stopped) if stopped == reason),
                "{case}: {:?}",
                ran.outcome
            );
            assert_eq!((ran.report.exit_code, ran.retries()), (code, 1), "{case}");
            assert_eq!(ran.report.totals.written, world.kept().len() as u64, "{case}");
        }
    }
}

/// What another try could not have helped is why the run ended, signal or not.
#[test]
fn a_target_that_refuses_to_make_writes_durable_fails_a_run_that_is_to_stop() {
    let mut world = World::new(9);
    let full = Fault::Before(crate::model::ErrorKind::Full);
    world.fault(Side::Target, Call::Flush, 1, usize::MAX, full);
    let is_batch = |event: &Event| matches!(event, Event::Batch(_));
    let at = World::new(9).run().events.iter().position(is_batch).unwrap() + 1;
    world.stop_at = Some((at, StopReason::Interrupted));
    assert_eq!(world.run().report.exit_code, 5);
}

/// At any event: what was begun is brought to its end, and the next run does the rest.
#[test]
fn a_signal_at_any_event_leaves_what_was_written_and_a_place_to_go_on() {
    let whole = World::new(26).with_checkpoint().run();
    for (reason, code) in [(StopReason::Interrupted, 130), (StopReason::Terminated, 143)] {
        for at in 1..whole.events.len() {
            let mut world = World::new(26).with_checkpoint();
            world.stop_at = Some((at, reason));
            let ran = world.run();
            let written = ran.report.totals.written;
            assert_eq!(written, world.kept().len() as u64, "{reason:?} at {at}");
            match ran.outcome {
                RunOutcome::Stopped(_) => assert_eq!(ran.report.exit_code, code),
                // There was nothing left to stop.
                RunOutcome::Done => assert_eq!(written, 26, "{reason:?} at {at}"),
                other => panic!("{reason:?} at {at}: {other:?}"),
            }
            world.stop_at = None;
            world.revive(true);
            let ran = world.run();
            assert!(ran.is_done(), "{reason:?} at {at}");
            assert_eq!(world.kept(), texts(&records(26)), "{reason:?} at {at}");
            assert_eq!(ran.report.totals.written, 26, "{reason:?} at {at}");
        }
    }
}

/// Of two things that went wrong, one of them for good.
#[test]
fn a_run_that_gave_up_a_batch_and_cannot_keep_the_others_failed() {
    let mut world = World::new(9);
    let lost = Fault::Before(crate::model::ErrorKind::ConnectionLost);
    let full = Fault::Before(crate::model::ErrorKind::Full);
    world.settings.retries = 1000;
    world.fault(Side::Target, Call::Write, 1, usize::MAX, lost);
    world.fault(Side::Target, Call::Flush, 1, usize::MAX, full);
    world.settings.max_duration = Some(Duration::from_secs(30));
    let ran = world.run();
    assert!(ran.retries() > 0);
    assert_eq!(ran.report.exit_code, 5, "{:?}", ran.outcome);
}

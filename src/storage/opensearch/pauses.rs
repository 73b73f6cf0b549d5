//! Long pauses between the requests to a cluster, during which somebody may have changed it.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// A user who answers a question may take this long, or longer.
const LONG: Duration = Duration::from_secs(10);

/// Counts the long pauses of a connection, for facts that must be asked for again after one.
///
/// The age of a fact would say less: a run with thousands of workspaces looks at the first of them long before the last. But
/// while its requests go on, it does not wait for a user.
pub(super) struct Pauses(Mutex<State>);

struct State {
    /// When something was asked or answered last.
    last: Instant,
    long: u64,
}

impl Default for Pauses {
    fn default() -> Self {
        Self::since(Instant::now())
    }
}

impl Pauses {
    fn since(last: Instant) -> Self {
        Self(Mutex::new(State { last, long: 0 }))
    }

    /// The number of long pauses so far, including one that ends now.
    pub(super) fn end(&self) -> u64 {
        self.end_at(Instant::now())
    }

    /// Remembers what was found out just now.
    pub(super) fn remember<T>(&self, value: T) -> Fact<T> {
        Fact {
            value,
            pauses: self.end(),
        }
    }

    /// Notes that something was answered.
    pub(super) fn begin(&self) {
        self.begin_at(Instant::now());
    }

    fn end_at(&self, now: Instant) -> u64 {
        let mut state = self.state();
        if now.saturating_duration_since(state.last) >= LONG {
            state.long += 1;
        }
        state.last = state.last.max(now);
        state.long
    }

    fn begin_at(&self, now: Instant) {
        let mut state = self.state();
        state.last = state.last.max(now);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was found out, and serves another request until there is a long pause.
pub(super) struct Fact<T> {
    value: T,
    /// The number of long pauses before.
    pauses: u64,
}

impl<T> Fact<T> {
    /// What was found out; `None` where it must be asked for again.
    pub(super) fn current(self, pauses: &Pauses) -> Option<T> {
        (self.pauses == pauses.end()).then_some(self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_goes_on_asking_makes_no_pause_however_long_it_takes() {
        let begun = Instant::now();
        let pauses = Pauses::since(begun);
        for seconds in (0..600).step_by(9) {
            assert_eq!(pauses.end_at(begun + Duration::from_secs(seconds)), 0);
        }
    }

    #[test]
    fn a_long_pause_counts_once_for_everything_before_it() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let pauses = Pauses::since(begun);
        assert_eq!(pauses.end_at(at(1)), 0);
        assert_eq!(pauses.end_at(at(11)), 1);
        assert_eq!(pauses.end_at(at(12)), 1);
        assert_eq!(pauses.end_at(at(3600)), 2);
    }

    #[test]
    fn a_fact_from_before_a_long_pause_is_none() {
        let pauses = Pauses::default();
        let fact = pauses.remember(7);
        assert_eq!(fact.current(&pauses), Some(7));
        let fact = pauses.remember(7);
        pauses.state().last -= LONG;
        assert_eq!(fact.current(&pauses), None);
    }

    #[test]
    fn waiting_for_an_answer_is_no_pause() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let pauses = Pauses::since(begun);
        pauses.begin_at(at(60));
        assert_eq!(pauses.end_at(at(61)), 0);
        // The answer to an earlier request may be noted later.
        pauses.begin_at(at(50));
        assert_eq!(pauses.end_at(at(70)), 0);
    }
}

//! Limits the bytes in flight to or from a server to bandwidth × round trip.
//!
//! Two requests in flight keep a nearby server busy. A distant server is idle for a round trip unless more requests follow:
//! as many bytes as the bandwidth delivers in that time. Both are measured as in BBR (Cardwell et al., 2016): the
//! bandwidth is the highest rate of the last rounds, the round trip is the shortest time of a request. More bytes in flight
//! than their product would only wait in the server's queue.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

#[derive(Clone, Copy, Debug)]
pub(crate) struct WindowLimit {
    /// The most requests in flight.
    pub(crate) requests: usize,
    /// The most bytes in flight and in responses that have not been consumed. A single request may be larger.
    pub(crate) bytes: usize,
}

/// The requests admitted before anything is measured: the fewest that show the rate of several.
const FIRST_REQUESTS: usize = 2;

/// While the rate grows, the window doubles in each round.
const SEARCH_GAIN: f64 = 2.0;

/// Afterwards the window is slightly larger than bandwidth × round trip, so that the server always has the next request and
/// a growing rate is noticed.
const STEADY_GAIN: f64 = 1.25;

/// A round counts as growth if the rate grew by at least this factor.
const GROWTH: f64 = 1.25;

/// The search ends after this many rounds without growth.
const ROUNDS_WITHOUT_GROWTH: u32 = 3;

/// A rate is remembered for this many rounds.
const ROUNDS_KEPT: u64 = 10;

/// A round trip is remembered for this time, since the path may change.
const ROUND_TRIP_KEPT: Duration = Duration::from_secs(10);

/// The control algorithm, without a clock.
#[derive(Debug)]
struct Law {
    limit: WindowLimit,
    /// Whether responses that have not been consumed count like those in flight.
    is_for_reading: bool,
    /// Requests and bytes in flight.
    requests: usize,
    bytes: usize,
    /// The bytes answered so far, and the time of the last answer.
    answered: u64,
    answered_at: Option<Instant>,
    /// The current round ends with a request that was sent after this many bytes had been answered.
    round: u64,
    round_ends: u64,
    /// Rates in bytes per second with their rounds, the highest first.
    rates: VecDeque<(u64, f64)>,
    round_trip: Option<(Instant, Duration)>,
    /// The rate at the last growth, and the rounds since.
    found: f64,
    rounds_without_growth: u32,
}

/// The state when a request was sent.
#[derive(Clone, Copy, Debug)]
struct Sent {
    at: Instant,
    answered: u64,
    answered_at: Instant,
}

impl Law {
    fn new(limit: WindowLimit, is_for_reading: bool) -> Self {
        Self {
            limit,
            is_for_reading,
            requests: 0,
            bytes: 0,
            answered: 0,
            answered_at: None,
            round: 0,
            round_ends: 0,
            rates: VecDeque::new(),
            round_trip: None,
            found: 0.0,
            rounds_without_growth: 0,
        }
    }

    /// Whether the window admits another request. `held` bytes are answered but not consumed.
    fn has_room(&self, bytes: usize, held: usize) -> bool {
        if self.requests >= self.limit.requests.max(1) {
            return false;
        }
        if self.requests == 0 && held == 0 {
            return true;
        }
        self.bytes + held + bytes <= self.limit.bytes
            && match self.window() {
                // If the responses are consumed more slowly than they come, more of them would only take memory. Two
                // requests more than the window are admitted: with a slow consumer the rate falls, and only a request
                // that does not wait for the consumer shows that it could be higher.
                Some(window) if self.is_for_reading => {
                    ((self.bytes + held) as f64) < window + 2.0 * bytes as f64
                }
                // One request is always in flight.
                Some(window) => self.requests == 0 || (self.bytes as f64) < window,
                None => self.requests < FIRST_REQUESTS,
            }
    }

    /// The target for the bytes in flight, once measured. Requests are admitted below it.
    fn window(&self) -> Option<f64> {
        let (_, rate) = self.rates.front()?;
        let (_, round_trip) = self.round_trip?;
        let gain = if self.rounds_without_growth < ROUNDS_WITHOUT_GROWTH {
            SEARCH_GAIN
        } else {
            STEADY_GAIN
        };
        Some(gain * rate * round_trip.as_secs_f64())
    }

    fn enter(&mut self, bytes: usize) {
        self.requests += 1;
        self.bytes += bytes;
    }

    fn leave(&mut self, bytes: usize) {
        self.requests -= 1;
        self.bytes -= bytes;
    }

    fn send(&mut self, now: Instant) -> Sent {
        let answered_at = match self.answered_at {
            // A request that was sent alone measures only itself.
            Some(at) if self.requests > 1 => at,
            _ => now,
        };
        Sent {
            at: now,
            answered: self.answered,
            answered_at,
        }
    }

    fn answer(&mut self, now: Instant, sent: Sent, bytes: usize) {
        self.answered += bytes as u64;
        self.answered_at = Some(now);
        if sent.answered >= self.round_ends {
            self.end_round();
        }
        let took = now - sent.at;
        let is_old = |(since, _): &(Instant, Duration)| now - *since > ROUND_TRIP_KEPT;
        if self
            .round_trip
            .is_none_or(|known| took <= known.1 || is_old(&known))
        {
            self.round_trip = Some((now, took));
        }
        // No time has passed, so there is no rate.
        let during = (now - sent.answered_at).max(Duration::from_micros(1));
        let rate = (self.answered - sent.answered) as f64 / during.as_secs_f64();
        while self.rates.back().is_some_and(|(_, lesser)| *lesser <= rate) {
            self.rates.pop_back();
        }
        self.rates.push_back((self.round, rate));
        while self
            .rates
            .front()
            .is_some_and(|(round, _)| round + ROUNDS_KEPT < self.round)
        {
            self.rates.pop_front();
        }
    }

    fn end_round(&mut self) {
        self.round += 1;
        self.round_ends = self.answered;
        let rate = self.rates.front().map_or(0.0, |(_, rate)| *rate);
        if rate >= self.found * GROWTH {
            self.found = rate;
            self.rounds_without_growth = 0;
        } else {
            self.rounds_without_growth = self.rounds_without_growth.saturating_add(1);
        }
    }
}

/// A window shared by tasks.
#[derive(Debug)]
pub(crate) struct Window {
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug)]
struct State {
    law: Law,
    /// Bytes that were answered but not consumed.
    held: usize,
}

impl Window {
    /// A window for requests that send something.
    pub(crate) fn for_writing(limit: WindowLimit) -> Arc<Self> {
        Self::new(limit, false)
    }

    /// A window for requests that read something ahead of who consumes it.
    pub(crate) fn for_reading(limit: WindowLimit) -> Arc<Self> {
        Self::new(limit, true)
    }

    fn new(limit: WindowLimit, is_for_reading: bool) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                law: Law::new(limit, is_for_reading),
                held: 0,
            }),
            freed: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a request of `bytes` may be sent. Requests are admitted in the order of their calls.
    pub(crate) async fn enter(self: Arc<Self>, bytes: usize) -> Passage {
        loop {
            if let Some(passage) = self.try_enter(bytes) {
                // The next request in the queue may be admitted as well.
                self.freed.notify_one();
                return passage;
            }
            self.freed.notified().await;
        }
    }

    /// The same without waiting.
    pub(crate) fn try_enter(self: &Arc<Self>, bytes: usize) -> Option<Passage> {
        let mut state = self.state();
        if !state.law.has_room(bytes, state.held) {
            return None;
        }
        state.law.enter(bytes);
        drop(state);
        Some(self.passage(bytes))
    }

    /// Admits a request unconditionally: one that requests in flight are waiting for.
    pub(crate) fn enter_anyway(self: &Arc<Self>, bytes: usize) -> Passage {
        self.state().law.enter(bytes);
        self.passage(bytes)
    }

    fn passage(self: &Arc<Self>, bytes: usize) -> Passage {
        Passage {
            window: Arc::clone(self),
            bytes,
            sent: None,
            is_in_flight: true,
        }
    }
}

/// An admitted request. Dropping it frees its share of the window.
#[derive(Debug)]
pub(crate) struct Passage {
    window: Arc<Window>,
    bytes: usize,
    sent: Option<Sent>,
    is_in_flight: bool,
}

impl Passage {
    /// Marks the request as sent.
    pub(crate) fn send(&mut self) {
        let sent = self.window.state().law.send(Instant::now());
        self.sent = Some(sent);
    }

    /// Marks the request as answered. Its bytes stay in the window until this is dropped.
    pub(crate) fn answer(&mut self) {
        if !std::mem::take(&mut self.is_in_flight) {
            return;
        }
        let mut state = self.window.state();
        if let Some(sent) = self.sent {
            state.law.answer(Instant::now(), sent, self.bytes);
        }
        state.law.leave(self.bytes);
        state.held += self.bytes;
        drop(state);
        self.window.freed.notify_one();
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let mut state = self.window.state();
        if self.is_in_flight {
            state.law.leave(self.bytes);
        } else {
            state.held -= self.bytes;
        }
        drop(state);
        self.window.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures::{StreamExt, stream};

    use super::*;

    const REQUEST: usize = 100_000;

    /// A distant server that processes a number of requests at a time.
    #[derive(Clone, Copy)]
    struct Server {
        round_trip: Duration,
        work: Duration,
        workers: usize,
    }

    /// Sends requests through a window. Returns the most requests in flight, in total and in the second half, and the
    /// total time.
    async fn run(server: Server, limit: WindowLimit, requests: usize) -> ([usize; 2], Duration) {
        let window = Window::for_writing(limit);
        let workers = tokio::sync::Semaphore::new(server.workers);
        let (now, most) = (Cell::new(0), [Cell::new(0), Cell::new(0)]);
        let started = Instant::now();
        let answers = stream::iter(0..requests)
            .then(|at| {
                let entering = Arc::clone(&window).enter(REQUEST);
                async move { (at, entering.await) }
            })
            .map(|(at, mut passage)| {
                let (now, most, workers) = (&now, &most[usize::from(at > requests / 2)], &workers);
                async move {
                    passage.send();
                    now.set(now.get() + 1);
                    most.set(most.get().max(now.get()));
                    tokio::time::sleep(server.round_trip / 2).await;
                    let worker = workers.acquire().await.unwrap();
                    tokio::time::sleep(server.work).await;
                    drop(worker);
                    tokio::time::sleep(server.round_trip / 2).await;
                    passage.answer();
                    now.set(now.get() - 1);
                }
            })
            .buffered(requests);
        assert_eq!(answers.count().await, requests);
        let [first, second] = most.map(|most| most.get());
        ([first.max(second), second], started.elapsed())
    }

    const AMPLE: WindowLimit = WindowLimit {
        requests: 1000,
        bytes: 1 << 30,
    };

    fn milliseconds(round_trip: u64, work: u64, workers: usize) -> Server {
        Server {
            round_trip: Duration::from_millis(round_trip),
            work: Duration::from_millis(work),
            workers,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn beside_a_server_one_request_is_under_way_and_the_next_waits() {
        let ([_, in_flight], took) = run(milliseconds(0, 10, 1), AMPLE, 400).await;
        assert_eq!(in_flight, 2);
        assert!(took <= Duration::from_millis(4_100), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_works_on_several_requests_at_once_gets_them() {
        let ([_, in_flight], took) = run(milliseconds(0, 10, 4), AMPLE, 400).await;
        assert!((4..=6).contains(&in_flight), "{in_flight}");
        assert!(took <= Duration::from_millis(1_200), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_distance_is_filled_with_bandwidth_times_round_trip() {
        // The server answers one request a millisecond, and each takes 51: 51 of them keep it busy.
        let ([_, in_flight], took) = run(milliseconds(50, 1, 1), AMPLE, 3000).await;
        assert!((51..=70).contains(&in_flight), "{in_flight}");
        // As fast as the server, except for the search at the start.
        assert!(took <= Duration::from_millis(3_500), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_bytes_in_flight_never_exceed_the_limit() {
        let limit = WindowLimit {
            requests: 1000,
            bytes: 10 * REQUEST,
        };
        let ([most, in_flight], _) = run(milliseconds(50, 1, 1), limit, 500).await;
        assert_eq!((most * REQUEST, in_flight), (limit.bytes, 10));
    }

    #[tokio::test(start_paused = true)]
    async fn the_requests_in_flight_never_exceed_the_limit() {
        let limit = WindowLimit {
            requests: 3,
            bytes: 1 << 30,
        };
        let ([most, _], _) = run(milliseconds(50, 1, 1), limit, 100).await;
        assert_eq!(most, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_nobody_has_taken_count_as_bytes_and_not_as_requests() {
        let limit = WindowLimit {
            requests: 1,
            bytes: 2 * REQUEST,
        };
        let window = Window::for_writing(limit);
        let mut first = window.try_enter(REQUEST).unwrap();
        assert!(window.try_enter(REQUEST).is_none());
        first.send();
        first.answer();
        let mut second = window.try_enter(REQUEST).unwrap();
        second.send();
        second.answer();
        assert!(window.try_enter(REQUEST).is_none());
        drop(first);
        assert!(window.try_enter(REQUEST).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_to_be_consumed_ends_reading_ahead_and_not_writing() {
        for (window, expected) in [(Window::for_reading(AMPLE), 4), (Window::for_writing(AMPLE), 10)] {
            let mut answered = Vec::new();
            while answered.len() < 10
                && let Some(mut passage) = window.try_enter(REQUEST)
            {
                passage.send();
                tokio::time::sleep(Duration::from_millis(1)).await;
                passage.answer();
                answered.push(passage);
            }
            assert_eq!(answered.len(), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_larger_than_the_limit_goes_alone() {
        let limit = WindowLimit {
            requests: 10,
            bytes: REQUEST / 2,
        };
        let window = Window::for_writing(limit);
        let first = window.try_enter(REQUEST).unwrap();
        assert!(window.try_enter(1).is_none());
        // A cancelled request takes no space.
        drop(first);
        assert!(window.try_enter(1).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_let_in_when_another_leaves() {
        let limit = WindowLimit {
            requests: 1,
            bytes: REQUEST,
        };
        let window = Window::for_writing(limit);
        let first = window.try_enter(REQUEST).unwrap();
        let waiting = tokio::spawn(Arc::clone(&window).enter(REQUEST));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        drop(waiting.await.unwrap());
    }
}

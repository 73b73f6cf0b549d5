//! Reading one item ahead.

use async_trait::async_trait;
use futures::{StreamExt, stream, stream::BoxStream};
use tokio::task::JoinHandle;

use crate::model::{Error, ErrorKind, Result};

/// What gives items one after another.
#[async_trait]
pub(super) trait Step: Send + 'static {
    /// What it gives.
    type Item: Send + 'static;

    /// What it is doing, for the report of a panic: `reading a collection`.
    const ACTION: &'static str;

    /// The next item; `None` at the end. After an error it may be asked again, and goes on where it failed.
    async fn next(&mut self) -> Result<Option<Self::Item>>;
}

/// A step that ended, and what it gave.
type Ended<S> = (S, Result<Option<<S as Step>::Item>>);

/// The items of a [`Step`], of which the one behind the last given is already under way in a task of its own.
///
/// One item is under way or waits, and no more. Behind an error nothing is begun until somebody asks: when to try again
/// is for them to say.
pub(super) struct Prefetch<S: Step> {
    idle: Option<S>,
    under_way: Option<JoinHandle<Ended<S>>>,
}

impl<S: Step> Prefetch<S> {
    /// Begins when it is first asked.
    pub(super) fn new(step: S) -> Self {
        Self {
            idle: Some(step),
            under_way: None,
        }
    }

    /// The next item; `None` at the end. Loses nothing where it is not waited for until it answers.
    ///
    /// # Errors
    /// That of the step. [`ErrorKind::Internal`] where it panicked, which ends the items.
    pub(super) async fn next(&mut self) -> Result<Option<S::Item>> {
        if let Some(step) = self.idle.take() {
            self.begin(step);
        }
        let Some(task) = &mut self.under_way else {
            return Ok(None);
        };
        let ended = task.await;
        self.under_way = None;
        let (step, item) = ended.map_err(|error| {
            Error::new(ErrorKind::Internal, format!("{} panicked", S::ACTION)).caused_by(error)
        })?;
        match item {
            Ok(Some(_)) => self.begin(step),
            Ok(None) => {}
            Err(_) => self.idle = Some(step),
        }
        item
    }

    fn begin(&mut self, mut step: S) {
        self.under_way = Some(tokio::spawn(async move {
            let item = step.next().await;
            (step, item)
        }));
    }

    /// The items as a stream, which may be asked again after an error.
    pub(super) fn into_stream(self) -> BoxStream<'static, Result<S::Item>> {
        stream::unfold(self, |mut ahead| async {
            ahead.next().await.transpose().map(|item| (item, ahead))
        })
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    /// Counts, and tells what it begins.
    struct Numbers {
        next: u32,
        begun: mpsc::UnboundedSender<u32>,
    }

    #[async_trait]
    impl Step for Numbers {
        type Item = u32;
        const ACTION: &'static str = "counting";

        async fn next(&mut self) -> Result<Option<u32>> {
            let number = self.next;
            self.next += 1;
            self.begun.send(number).unwrap();
            match number {
                2 => Err(Error::new(ErrorKind::Busy, "two")),
                5 => panic!("five"),
                6.. => Ok(None),
                number => Ok(Some(number)),
            }
        }
    }

    fn from(next: u32) -> (Prefetch<Numbers>, mpsc::UnboundedReceiver<u32>) {
        let (begun, told) = mpsc::unbounded_channel();
        (Prefetch::new(Numbers { next, begun }), told)
    }

    #[tokio::test]
    async fn the_next_item_is_under_way_before_it_is_asked_for() {
        let (mut numbers, mut begun) = from(0);
        assert_eq!(numbers.next().await.unwrap(), Some(0));
        assert_eq!(begun.recv().await, Some(0));
        assert_eq!(begun.recv().await, Some(1));
        // And no more than the next.
        tokio::task::yield_now().await;
        assert!(begun.try_recv().is_err());
    }

    #[tokio::test]
    async fn an_error_is_not_repeated_until_somebody_asks() {
        let (mut numbers, mut begun) = from(1);
        assert_eq!(numbers.next().await.unwrap(), Some(1));
        assert_eq!(numbers.next().await.unwrap_err().kind(), ErrorKind::Busy);
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!((begun.try_recv(), begun.try_recv()), (Ok(1), Ok(2)));
        assert!(begun.try_recv().is_err());
        assert_eq!(numbers.next().await.unwrap(), Some(3));
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_no_end() {
        let (mut numbers, _begun) = from(4);
        assert_eq!(numbers.next().await.unwrap(), Some(4));
        let error = numbers.next().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert_eq!(error.to_string(), "counting panicked");
        assert_eq!(numbers.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn who_stops_waiting_loses_nothing() {
        let (mut numbers, _begun) = from(0);
        // Not even begun, and never waited for to its end.
        assert!(futures::FutureExt::now_or_never(numbers.next()).is_none());
        assert_eq!(numbers.next().await.unwrap(), Some(0));
        assert_eq!(numbers.next().await.unwrap(), Some(1));
    }

    #[tokio::test]
    async fn a_stream_ends_behind_the_last_item() {
        let (numbers, _begun) = from(6);
        assert_eq!(numbers.into_stream().count().await, 0);
    }
}

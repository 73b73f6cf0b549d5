//! Prefetching the next page.

use async_trait::async_trait;
use tokio::task::JoinHandle;

use super::{Page, PageReader};
use crate::model::{Error, Result};

/// A reader whose call has ended, and the result.
type Ended<P> = (Box<dyn PageReader<P>>, Result<Option<P>>);

/// The pages of a reader. A separate task reads the next page while the last one is being processed.
///
/// At most one page is being read or waiting. After an error nothing is read until the next call, since the caller decides
/// when to retry.
pub(super) struct Prefetch<P: Send + 'static = Page> {
    /// What the reader does, for the error after a panic: `reading a collection`.
    action: &'static str,
    idle: Option<Box<dyn PageReader<P>>>,
    under_way: Option<JoinHandle<Ended<P>>>,
}

impl<P: Send + 'static> Prefetch<P> {
    /// Starts reading at the first call.
    pub(super) fn new(action: &'static str, reader: impl PageReader<P>) -> Self {
        Self {
            action,
            idle: Some(Box::new(reader)),
            under_way: None,
        }
    }

    fn begin(&mut self, mut reader: Box<dyn PageReader<P>>) {
        self.under_way = Some(tokio::spawn(async move {
            let page = reader.next_page().await;
            (reader, page)
        }));
    }
}

#[async_trait]
impl<P: Send + 'static> PageReader<P> for Prefetch<P> {
    /// [`Internal`](crate::model::ErrorKind::Internal) if the reader panicked, which ends the pages.
    async fn next_page(&mut self) -> Result<Option<P>> {
        if let Some(reader) = self.idle.take() {
            self.begin(reader);
        }
        let Some(task) = &mut self.under_way else {
            return Ok(None);
        };
        let ended = task.await;
        self.under_way = None;
        let (reader, page) = ended.map_err(|error| Error::panicked(self.action).caused_by(error))?;
        match page {
            Ok(Some(_)) => self.begin(reader),
            Ok(None) => {}
            Err(_) => self.idle = Some(reader),
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::model::ErrorKind;

    /// Counts upwards, and reports every read that starts.
    struct Numbers {
        next: u32,
        begun: mpsc::UnboundedSender<u32>,
    }

    #[async_trait]
    impl PageReader<u32> for Numbers {
        async fn next_page(&mut self) -> Result<Option<u32>> {
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

    fn from(next: u32) -> (Prefetch<u32>, mpsc::UnboundedReceiver<u32>) {
        let (begun, started) = mpsc::unbounded_channel();
        (Prefetch::new("counting", Numbers { next, begun }), started)
    }

    #[tokio::test]
    async fn the_next_page_is_under_way_before_it_is_asked_for() {
        let (mut numbers, mut begun) = from(0);
        assert_eq!(numbers.next_page().await.unwrap(), Some(0));
        assert_eq!(begun.recv().await, Some(0));
        assert_eq!(begun.recv().await, Some(1));
        // Only the next page is prefetched.
        tokio::task::yield_now().await;
        assert!(begun.try_recv().is_err());
    }

    #[tokio::test]
    async fn an_error_is_not_repeated_until_somebody_asks() {
        let (mut numbers, mut begun) = from(1);
        assert_eq!(numbers.next_page().await.unwrap(), Some(1));
        assert_eq!(numbers.next_page().await.unwrap_err().kind(), ErrorKind::Busy);
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!((begun.try_recv(), begun.try_recv()), (Ok(1), Ok(2)));
        assert!(begun.try_recv().is_err());
        assert_eq!(numbers.next_page().await.unwrap(), Some(3));
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_no_end() {
        let (mut numbers, _begun) = from(4);
        assert_eq!(numbers.next_page().await.unwrap(), Some(4));
        let error = numbers.next_page().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert_eq!(error.to_string(), "counting panicked");
        assert_eq!(numbers.next_page().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_cancelled_call_loses_no_page() {
        let (mut numbers, _begun) = from(0);
        // Cancelled before it starts, and while it is in progress.
        assert!(futures::FutureExt::now_or_never(numbers.next_page()).is_none());
        assert_eq!(numbers.next_page().await.unwrap(), Some(0));
        assert_eq!(numbers.next_page().await.unwrap(), Some(1));
    }

    #[tokio::test]
    async fn after_the_last_page_every_call_returns_none() {
        let (mut numbers, mut begun) = from(6);
        assert_eq!(numbers.next_page().await.unwrap(), None);
        assert_eq!(numbers.next_page().await.unwrap(), None);
        assert_eq!((begun.try_recv(), begun.try_recv().is_err()), (Ok(6), true));
    }
}

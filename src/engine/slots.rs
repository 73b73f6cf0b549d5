//! How many workspaces are worked on at the same time.

use std::future::ready;

use futures::{Stream, StreamExt};
use tokio::sync::Semaphore;

use super::plan::AT_ONCE;
use crate::{model::Result, storage::Count};

/// Up to so many workspaces are worked on one after the other, so that their events stay in order.
const FEW_WORKSPACES: usize = 8;

/// A workspace of so many records takes up one slot.
const RECORDS_OF_SLOT: u64 = 64;

const ALL: u32 = AT_ONCE as u32;

/// The slots that the workspaces of a run share: small ones are worked on several at a time, a large one alone, since it
/// fills memory and servers by itself. After a failure no further one is begun.
pub(super) struct Slots {
    semaphore: Semaphore,
    is_shared: bool,
}

impl Slots {
    /// The slots of a run with so many workspaces.
    pub(super) fn of(workspaces: usize) -> Self {
        Self {
            semaphore: Semaphore::new(AT_ONCE),
            is_shared: workspaces > FEW_WORKSPACES,
        }
    }

    /// Slots that every workspace takes all of.
    pub(super) fn one_at_a_time() -> Self {
        Self::of(1)
    }

    /// Works on a workspace of these counts, on either side or both, as soon as there are slots for it. If another one has
    /// failed by then, it is left out.
    ///
    /// # Errors
    /// That of the work, which keeps further workspaces from beginning.
    pub(super) async fn work(&self, counts: &[&Count], work: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
        let Ok(_slots) = self.semaphore.acquire_many(self.needed(counts)).await else {
            return Ok(());
        };
        let done = work().await;
        if done.is_err() {
            self.semaphore.close();
        }
        done
    }

    fn needed(&self, counts: &[&Count]) -> u32 {
        if !self.is_shared || counts.iter().any(|count| !count.exact) {
            return ALL;
        }
        let most = counts.iter().map(|count| count.total()).max().unwrap_or_default();
        u32::try_from(most.div_ceil(RECORDS_OF_SLOT)).map_or(ALL, |slots| slots.clamp(1, ALL))
    }
}

/// Waits until the work on all workspaces has ended.
///
/// # Errors
/// All of their errors in one.
pub(super) async fn all_ended(results: impl Stream<Item = Result<()>>) -> Result<()> {
    let failure = results.fold(None, |failure, result| {
        ready(match result {
            Ok(()) => failure,
            Err(error) => Some(error.after(failure)),
        })
    });
    failure.await.map_or(Ok(()), Err)
}

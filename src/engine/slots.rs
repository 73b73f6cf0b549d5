//! How many workspaces are worked on at the same time.

use tokio::sync::{Semaphore, SemaphorePermit};

use super::plan::AT_ONCE;
use crate::storage::Count;

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

    /// Waits until a workspace of these counts may be worked on, on either side or both: for as long as the permit is kept.
    /// `None` after [`Self::close`].
    pub(super) async fn acquire(&self, counts: &[&Count]) -> Option<SemaphorePermit<'_>> {
        self.semaphore.acquire_many(self.needed(counts)).await.ok()
    }

    /// Keeps further workspaces from beginning.
    pub(super) fn close(&self) {
        self.semaphore.close();
    }

    fn needed(&self, counts: &[&Count]) -> u32 {
        if !self.is_shared || counts.iter().any(|count| !count.exact) {
            return ALL;
        }
        let most = counts.iter().map(|count| count.total()).max().unwrap_or_default();
        u32::try_from(most.div_ceil(RECORDS_OF_SLOT)).map_or(ALL, |slots| slots.clamp(1, ALL))
    }
}

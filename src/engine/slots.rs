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
/// fills memory and servers by itself.
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

    /// Waits until a workspace may be worked on: for as long as the permit is kept.
    pub(super) async fn acquire(&self, count: &Count) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.semaphore.acquire_many(self.needed(count)).await.ok()
    }

    fn needed(&self, count: &Count) -> u32 {
        if !self.is_shared || !count.exact {
            return ALL;
        }
        let slots = count.total().div_ceil(RECORDS_OF_SLOT);
        u32::try_from(slots).map_or(ALL, |slots| slots.clamp(1, ALL))
    }
}

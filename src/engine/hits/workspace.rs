//! Counts the hits of a workspace while it is moved.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::JoinHandle;

use super::{Examined, Examiner};
use crate::{
    model::{
        Hits, Rekey,
        record::{CacheKey, KeyDigest, KeySet, Record},
    },
    storage::Source,
};

/// The hits of one workspace, and the copies that are added to it.
pub struct WorkspaceHits {
    examiner: Arc<Examiner>,
    source: Arc<dyn Source>,
    is_in_place: bool,
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    hits: Hits,
    /// The keys of all copies, so that none is added twice.
    claimed: KeySet,
    /// The copies that were added in place: a later page of the source may contain them, but they are not its records.
    added: KeySet,
}

impl WorkspaceHits {
    /// Counts the hits of a workspace of this source; `is_in_place` if it is the target too.
    pub fn new(examiner: Arc<Examiner>, source: Arc<dyn Source>, is_in_place: bool) -> Arc<Self> {
        Arc::new(Self {
            examiner,
            source,
            is_in_place,
            found: Mutex::default(),
        })
    }

    /// Whether source and target are the same place, so that only copies are written.
    pub(crate) fn is_in_place(&self) -> bool {
        self.is_in_place
    }

    /// The source of the records.
    pub(crate) fn source(&self) -> &Arc<dyn Source> {
        &self.source
    }

    /// Examines records on a separate thread while they are written.
    pub(crate) fn examine(self: &Arc<Self>, records: &[Record]) -> JoinHandle<Examined> {
        let records = records.to_vec();
        let all = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let may_be_copies = all.is_in_place && all.examiner.rekey() != Rekey::Off;
            all.examiner
                .examine(&records, |record| !(may_be_copies && all.is_copy(record.key())))
        })
    }

    fn is_copy(&self, key: &CacheKey) -> bool {
        self.found().added.contains(KeyDigest::of(key.as_str()))
    }

    /// Registers copies that are about to be added.
    pub(crate) fn announce(&self, copies: &[Record]) {
        if self.is_in_place {
            let mut found = self.found();
            for copy in copies {
                found.added.insert(KeyDigest::of(copy.key().as_str()));
            }
        }
    }

    /// Claims a key for a copy; `false` if another copy has it.
    pub(crate) fn claim(&self, key: &CacheKey) -> bool {
        self.found().claimed.insert(KeyDigest::of(key.as_str()))
    }

    /// Adds the hits of a batch.
    pub(crate) fn add(&self, hits: &Hits) {
        self.found().hits.add(hits);
    }

    /// The hits so far.
    pub(crate) fn hits(&self) -> Hits {
        self.found().hits.clone()
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

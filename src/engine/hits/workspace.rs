//! What a run finds out about the keys of a workspace while it moves it.

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
    /// The keys of copies, each of which is made once.
    claimed: KeySet,
    /// Those that were added where source and target are the same place: there they are no records of the source.
    added: KeySet,
}

impl WorkspaceHits {
    /// Those of a workspace that is read from here; `is_in_place` where it is the target too.
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

    /// Where the records come from.
    pub(crate) fn source(&self) -> &Arc<dyn Source> {
        &self.source
    }

    /// Examines records on a thread of its own, while they are written.
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

    /// Takes note of copies that are about to be added.
    pub(crate) fn announce(&self, copies: &[Record]) {
        if self.is_in_place {
            let mut found = self.found();
            for copy in copies {
                found.added.insert(KeyDigest::of(copy.key().as_str()));
            }
        }
    }

    /// Takes a key for a copy; `false` where one was made under it already.
    pub(crate) fn claim(&self, key: &CacheKey) -> bool {
        self.found().claimed.insert(KeyDigest::of(key.as_str()))
    }

    /// Adds what was found out about a batch.
    pub(crate) fn add(&self, hits: &Hits) {
        self.found().hits.add(hits);
    }

    /// What was found out so far.
    pub(crate) fn hits(&self) -> Hits {
        self.found().hits.clone()
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! The settings of a run.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use super::{
    BatchLimit, LightRag, MaxErrors, Mode, OnConflict, RateLimit, Rekey, Selection, VerifyLevel,
    record::OnInvalid,
};

/// The settings of a run, except source, target and workspaces.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Migrate, dry run or verification.
    pub mode: Mode,
    /// The records to move.
    pub selection: Selection,
    /// What to do with keys that already exist on the target.
    pub on_conflict: OnConflict,
    /// What to do with records that the target could store if invalid characters were removed.
    pub on_invalid: OnInvalid,
    /// Records per batch.
    pub batch_records: NonZeroUsize,
    /// Bytes per batch; `None` for what the target writes fastest.
    pub batch_bytes: Option<NonZeroUsize>,
    /// Most batches written at the same time.
    pub concurrency: NonZeroUsize,
    /// How much is moved a second, at most.
    pub rate_limit: Option<RateLimit>,
    /// Limit for each request.
    pub timeout: Duration,
    /// How often to retry a request.
    pub retries: usize,
    /// Limit for the whole run.
    pub max_duration: Option<Duration>,
    /// Rejected records at which the run stops.
    pub max_errors: Option<MaxErrors>,
    /// How thoroughly to compare the target with the source.
    pub verify: VerifyLevel,
    /// File that records progress.
    pub checkpoint: Option<PathBuf>,
    /// Whether to resume from the checkpoint.
    pub resume: bool,
    /// File for rejected records.
    pub rejects: Option<PathBuf>,
    /// File for the differences between source and target.
    pub differences: Option<PathBuf>,
    /// The LightRAG whose hits to count; `None` if hits are not counted.
    pub lightrag: Option<LightRag>,
    /// Which records to copy to the key that LightRAG will look up.
    pub rekey: Rekey,
    /// Whether to read the records before the damage in a damaged file.
    pub salvage: bool,
    /// Whether to write without a confirmation.
    pub yes: bool,
    /// Whether it is an error if there is nothing to migrate.
    pub fail_on_empty: bool,
    /// Whether to accept a workspace that does not exist in the source.
    pub allow_missing: bool,
}

impl Settings {
    /// The size of a batch for a target that writes fastest in batches of `preferred` bytes.
    pub fn batch_for(&self, preferred: NonZeroUsize) -> BatchLimit {
        let batch = BatchLimit {
            records: self.batch_records,
            bytes: self.batch_bytes.unwrap_or(preferred),
        };
        self.rate_limit.map_or(batch, |rate| rate.limited(batch))
    }
}

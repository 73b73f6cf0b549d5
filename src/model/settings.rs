//! The settings of a run, whatever named them.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use super::{
    BatchLimit, LightRag, MaxErrors, Mode, OnConflict, Rekey, Selection, VerifyLevel, record::OnInvalid,
};

/// What a run does on its way, whichever it is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What it does.
    pub mode: Mode,
    /// Which cache types.
    pub selection: Selection,
    /// What to do with keys that are there.
    pub on_conflict: OnConflict,
    /// What to do with records that the target could hold if a character went.
    pub on_invalid: OnInvalid,
    /// Records in a batch.
    pub batch_records: NonZeroUsize,
    /// Bytes in a batch; `None` for what the target takes fastest.
    pub batch_bytes: Option<NonZeroUsize>,
    /// How many batches are written at the same time, at most.
    pub concurrency: NonZeroUsize,
    /// How long each request may take.
    pub timeout: Duration,
    /// How often a request is tried again.
    pub retries: usize,
    /// How long the whole run may take.
    pub max_duration: Option<Duration>,
    /// How many rejected records end it.
    pub max_errors: Option<MaxErrors>,
    /// How thoroughly the target is compared with the source.
    pub verify: VerifyLevel,
    /// Where to keep how far it came.
    pub checkpoint: Option<PathBuf>,
    /// Whether to go on where an earlier run stopped.
    pub resume: bool,
    /// Where to keep rejected records.
    pub rejects: Option<PathBuf>,
    /// Where to list what differs between source and target.
    pub differences: Option<PathBuf>,
    /// The LightRAG whose hits to foretell; `None` for a run that does not look at them.
    pub lightrag: Option<LightRag>,
    /// Which records get a copy under the key that LightRAG asks for.
    pub rekey: Rekey,
    /// Whether to take what stands before the damage of a damaged file.
    pub salvage: bool,
    /// Whether it may write without being asked.
    pub yes: bool,
    /// Whether nothing to migrate is an error.
    pub fail_on_empty: bool,
    /// Whether a workspace that the source does not have is accepted.
    pub allow_missing: bool,
}

impl Settings {
    /// The size of a batch for a target that writes fastest in batches of `preferred` bytes.
    pub fn batch_for(&self, preferred: NonZeroUsize) -> BatchLimit {
        BatchLimit {
            records: self.batch_records,
            bytes: self.batch_bytes.unwrap_or(preferred),
        }
    }
}

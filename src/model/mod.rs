//! Types without I/O: records, workspaces, policies, errors. They import nothing else from this crate.

mod error;
mod exit_code;
mod hits;
mod lightrag;
mod location;
mod plural;
mod policy;
mod push;
mod rate;
pub mod record;
mod secret;
mod selection;
mod setting;
mod settings;
mod shard;
mod sorted_map;
mod suggest;
mod workspace;

pub use error::{Error, ErrorKind, OnSide, Result, Retry, Side};
pub use exit_code::ExitCode;
pub use hits::{AskingLightRag, ForetoldHits, HitCounts, Hits, KeyOrigin};
pub(crate) use lightrag::{DEFAULT_MODEL, LIBRARY_MODEL, default_host};
pub use lightrag::{Identity, LightRag, Named, Rekey};
pub use location::{Location, PhysicalLocation};
pub(crate) use plural::{number_of, plural};
pub use policy::{BatchLimit, MaxErrors, Mode, OnConflict, VerifyLevel};
pub use push::PushUrl;
pub use rate::RateLimit;
pub use secret::{Redactor, Secret, redact_url, replace_secrets};
pub(crate) use selection::KeyRule;
pub use selection::{CacheType, Counts, FILE_MODE, LeftOut, LeftOutKind, LeftOutRecords, Selection};
pub use setting::{Field, Origin, Value, Values};
pub use settings::Settings;
pub use shard::Shard;
pub(crate) use shard::split_hash;
pub(crate) use sorted_map::SortedMap;
pub(crate) use suggest::nearest;
pub use workspace::{
    NAMESPACE, NamedPair, NamedWorkspace, WORKSPACE_VARIABLE, Workspace, WorkspaceChoice, WorkspacePair,
};

//! From flags, job file and environment to settings.
//!
//! `cli` and `job` only read what the user wrote, `env` only what LightRAG's configuration says; `settings` alone
//! decides which of them counts. Storages name their settings in tables of [`Field`]s and receive [`Values`], each
//! of which knows where it came from, so that every complaint can say so.

mod cli;
pub mod configparser;
pub mod dotenv;
mod env;
mod generate;
mod job;
mod secret;
mod settings;
mod values;

pub use cli::{Args, Color, OutputFormat, Parsed, parse_args};
pub use env::Environment;
pub use job::JobFile;
pub use secret::{Secret, redact_url};
pub use settings::{
    BatchLimit, Endpoint, MaxErrors, Mode, OnConflict, OutputSettings, Route, Settings, VerifyLevel,
    WorkspaceChoice, WorkspacePair, configured_workspace,
};
pub use values::{Field, Origin, Value, Values};

/// The known name that is nearest to an unknown one, for "did you mean"; `None` where nothing is near.
pub(crate) fn nearest<'a>(unknown: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(unknown, name), name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

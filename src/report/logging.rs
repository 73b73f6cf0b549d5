//! Logs, for whoever looks for the cause of a thing: on standard error, filtered in `RUST_LOG`'s words.

use clap::ValueEnum;
use serde::Deserialize;
use tracing_subscriber::{EnvFilter, fmt};

use crate::{
    model::{Error, Result, nearest},
    report::Stderr,
};

/// The variable that filters logs where `--log-level` does not.
pub const RUST_LOG: &str = "RUST_LOG";

/// What a filter of one word can be.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// How logs are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Time, level and words.
    #[default]
    Text,
    /// One JSON object per line, including errors.
    Json,
}

/// Sets logs up, once a process. They share `stderr` with what else is said there. Where the filter cannot be read,
/// there is a default one, so that the error about it can be logged.
///
/// # Errors
/// A filter that cannot be read.
pub fn init(format: LogFormat, level: Option<&str>, quiet: bool, stderr: Stderr) -> Result<()> {
    let default = if quiet { "error" } else { "warn" };
    let from_environment = std::env::var(RUST_LOG)
        .ok()
        .filter(|filter| !filter.trim().is_empty());
    let read = match (level, &from_environment) {
        (Some(level), _) => read_level(level),
        (None, Some(filter)) => EnvFilter::try_new(filter).map_err(|_| unreadable(RUST_LOG, filter, None)),
        // What this library finds wrong with a certificate is told as the error that it brings.
        (None, None) => Ok(EnvFilter::new(format!("{default},rustls_platform_verifier=off"))),
    };
    let (filter, outcome) = match read {
        Ok(filter) => (filter, Ok(())),
        Err(error) => (EnvFilter::new(default), Err(error)),
    };
    let logs = fmt().with_env_filter(filter).with_writer(stderr).with_ansi(false);
    // A process that logs already (a test) keeps its way of logging.
    let _ = match format {
        LogFormat::Text => logs.try_init(),
        LogFormat::Json => logs
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .try_init(),
    };
    outcome
}

/// Reads what `--log-level` says. A single word that is no level would be taken for the name of a module, and
/// silence everything else.
fn read_level(text: &str) -> Result<EnvFilter> {
    let word = text.trim().to_ascii_lowercase();
    let is_word = word.chars().all(char::is_alphanumeric);
    if is_word && !LEVELS.contains(&word.as_str()) {
        return Err(unreadable("--log-level", text, nearest(&word, LEVELS)));
    }
    EnvFilter::try_new(text).map_err(|_| unreadable("--log-level", text, None))
}

fn unreadable(name: &str, filter: &str, near: Option<&str>) -> Error {
    let hint = near
        .map(|near| format!("; did you mean {near}?"))
        .unwrap_or_default();
    Error::config(format!("{name}: `{filter}` is no log filter{hint}")).with_remedy(format!(
        "expected {}, or a filter such as migrate_llm_cache=debug",
        LEVELS.join(", ")
    ))
}

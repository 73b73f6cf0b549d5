//! Diagnostic logs on standard error, filtered by `--log-level` or `RUST_LOG`.

use clap::ValueEnum;
use serde::Deserialize;
use tracing_subscriber::{EnvFilter, fmt};

use crate::{
    model::{Error, Result, nearest},
    report::Stderr,
};

/// The variable that filters logs unless `--log-level` is given.
pub const RUST_LOG: &str = "RUST_LOG";

/// The filters that consist of one word.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// How a line of the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Time, level and message.
    #[default]
    Text,
    /// One JSON object per line, including errors.
    Json,
}

/// Sets up logging, once per process. Logs share `stderr` with other output. If the filter is invalid, a default filter is
/// used, so that the error can be logged.
///
/// # Errors
/// The filter is invalid.
pub fn init(format: LogFormat, level: Option<&str>, quiet: bool, stderr: Stderr) -> Result<()> {
    let default = if quiet { "error" } else { "warn" };
    let from_environment = std::env::var(RUST_LOG)
        .ok()
        .filter(|filter| !filter.trim().is_empty());
    let read = match (level, &from_environment) {
        (Some(level), _) => read_level(level),
        (None, Some(filter)) => EnvFilter::try_new(filter).map_err(|_| unreadable(RUST_LOG, filter, None)),
        // A certificate that this library rejects is reported as an error of the connection.
        (None, None) => Ok(EnvFilter::new(format!("{default},rustls_platform_verifier=off"))),
    };
    let (filter, outcome) = match read {
        Ok(filter) => (filter, Ok(())),
        Err(error) => (EnvFilter::new(default), Err(error)),
    };
    let logs = fmt().with_env_filter(filter).with_writer(stderr).with_ansi(false);
    // A test process may have set up logging already.
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

/// Parses `--log-level`. A single word that is not a level is refused: it would be taken as the name of a module and
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
    Error::config(format!("{name}: `{filter}` is not a log filter{hint}")).with_remedy(format!(
        "expected {}, or a filter such as migrate_llm_cache=debug",
        LEVELS.join(", ")
    ))
}

//! Logs, for whoever looks for the cause of a thing: on standard error, in `RUST_LOG`'s words.

use tracing_subscriber::{EnvFilter, fmt};

use crate::{
    error::{Error, Result},
    report::Stderr,
};

/// The variable that filters logs where `--log-level` does not.
pub const RUST_LOG: &str = "RUST_LOG";

/// Sets logs up, once a process. They share `stderr` with what else is said there.
///
/// # Errors
/// A filter that cannot be read.
pub fn init(level: Option<&str>, quiet: bool, stderr: Stderr) -> Result<()> {
    // What this library finds wrong with a certificate is told as the error that it brings.
    let default = if quiet {
        "error,rustls_platform_verifier=off"
    } else {
        "warn,rustls_platform_verifier=off"
    };
    let from_environment = std::env::var(RUST_LOG)
        .ok()
        .filter(|filter| !filter.trim().is_empty());
    let (name, filter) = match (level, from_environment) {
        (Some(level), _) => ("--log-level", level.to_owned()),
        (None, Some(filter)) => (RUST_LOG, filter),
        (None, None) => ("", default.to_owned()),
    };
    let filter = EnvFilter::try_new(&filter).map_err(|_| {
        Error::config(format!("{name}: `{filter}` is no log filter")).with_remedy(
            "expected off, error, warn, info, debug, trace, or a filter such as migrate_llm_cache=debug",
        )
    })?;
    // A process that logs already (a test) keeps its way of logging.
    let _ = fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(false)
        .try_init();
    Ok(())
}

//! Parses the command line.

use std::{ffi::OsString, path::PathBuf};

use anstream::{AutoStream, ColorChoice, stream::RawStream};
use clap::{
    Parser, ValueEnum,
    error::{ContextKind, ContextValue, ErrorKind as ClapErrorKind},
};
use serde::Deserialize;

use super::{generate, options::Options};
use crate::{
    model::{Error, ErrorKind, Result},
    report::logging::LogFormat,
};

pub(super) const EXAMPLES: &str = "  Try it first: connect, check and count both sides without writing
    migrate-llm-cache --source ./rag_storage --target redis://localhost:6379 \\
      --dry-run

  Move the cache of one workspace
    migrate-llm-cache --source ./rag_storage --target redis://localhost:6379 \\
      --workspace space1 --yes

  Move between the storages that LightRAG's environment, .env or config.ini name
    migrate-llm-cache --source json --target postgres --all-workspaces --yes

  Run a job file from cron or CI
    migrate-llm-cache --job nightly.yaml --yes --report run.json

  Guided mode: asks for source, target and confirmation
    migrate-llm-cache --interactive";

pub(super) const STORAGES: &str = "\
STORAGE is a kind or an address. Kinds: json, redis, postgres, mongo,
opensearch, or LightRAG's class name; the address is then read from LightRAG's
environment, .env or config.ini. Addresses: the path of a working directory or
a cache file, redis://, rediss://, postgres://, mongodb://, mongodb+srv://, and
http:// or https:// for OpenSearch.";

pub(super) const EXIT_CODES: &str = "    0  success, also if there was nothing to do
    1  internal error: a bug
    2  usage or configuration error, or --yes is missing
    3  finished, but some records were rejected
    4  the source failed
    5  the target failed
    6  verification found differences
    7  stopped at --max-errors
    8  stopped at --max-duration; can be resumed
    9  no such workspace in the source, or nothing to migrate (--fail-on-empty)
   10  refused by a check before the first write
   11  the checkpoint belongs to another job or is in use by another run
  130  interrupted (SIGINT)
  141  the reader of standard output closed it
  143  terminated (SIGTERM)";

/// When to use color.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Color {
    /// At a terminal, unless `NO_COLOR` is set; everywhere if `CLICOLOR_FORCE` is set.
    #[default]
    Auto,
    /// Everywhere.
    Always,
    /// Nowhere.
    Never,
}

impl Color {
    /// The choice for a stream: never [`ColorChoice::Auto`].
    pub fn choice(self, stream: &impl RawStream) -> ColorChoice {
        match self {
            Self::Auto => AutoStream::choice(stream),
            Self::Always => ColorChoice::AlwaysAnsi,
            Self::Never => ColorChoice::Never,
        }
    }
}

/// What to print, and where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputFormat {
    /// Human-readable at a terminal, JSON lines elsewhere.
    #[default]
    Auto,
    /// JSON lines on standard output: one object per line.
    Jsonl,
    /// Human-readable text on standard error.
    Human,
}

/// The result of parsing the command line.
#[derive(Debug)]
pub enum Parsed {
    /// The flags of a run.
    Flags(Box<Options>),
    /// Text to print instead of a run, with ANSI colors: help, version, completions, man page.
    Text(String),
}

/// Reads the command line.
///
/// # Errors
/// An unknown flag, an invalid value, or flags that exclude each other.
pub fn parse_args(arguments: impl IntoIterator<Item = OsString>) -> Result<Parsed> {
    match Options::try_parse_from(arguments) {
        Ok(Options {
            generate: Some(what), ..
        }) => Ok(Parsed::Text(generate::text(what))),
        Ok(options) => Ok(Parsed::Flags(Box::new(options.given_by_flags()))),
        Err(error)
            if matches!(
                error.kind(),
                ClapErrorKind::DisplayHelp | ClapErrorKind::DisplayVersion
            ) =>
        {
            Ok(Parsed::Text(error.render().ansi().to_string()))
        }
        Err(error) => {
            let text = error.render().to_string();
            // What follows is said better by the remedy of a usage error.
            let message = text.split("\n\nUsage:").next().unwrap_or_default();
            let message = message
                .split("\n\nFor more information")
                .next()
                .unwrap_or_default();
            let message = message.trim_start_matches("error: ").split_whitespace();
            let message = message.collect::<Vec<_>>().join(" ").replace(" tip: ", "; ");
            let unknown = match error.get(ContextKind::InvalidArg) {
                Some(ContextValue::String(argument)) if error.kind() == ClapErrorKind::UnknownArgument => {
                    argument
                }
                _ => return Err(Error::new(ErrorKind::Usage, message)),
            };
            Err(match meant(unknown) {
                // Better than what is spelt alike.
                Some(hint) => Error::new(ErrorKind::Usage, format!("unexpected argument '{unknown}' found"))
                    .with_remedy(hint),
                None => Error::new(ErrorKind::Usage, message),
            })
        }
    }
}

/// What to say of an argument that is none, but known from other programs.
fn meant(argument: &str) -> Option<&'static str> {
    Some(match argument {
        "--from" | "--src" | "--input" | "-s" => "the side that is read is --source",
        "--to" | "--dst" | "--dest" | "--destination" | "-t" => "the side that is written is --target",
        "--overwrite" | "--replace" | "--force" | "--skip" | "--skip-existing" | "-f" => {
            "what becomes of records that are there already says --on-conflict overwrite, skip, newer or fail"
        }
        "--config" | "-c" => "a file with settings is --job",
        "-y" => "to write without being asked, write --yes in full",
        "-n" | "--check" => "to look without writing, use --dry-run",
        "--verbose" | "-v" | "--debug" => "for more words, use --log-level info or debug",
        argument if !argument.starts_with('-') => {
            "name both sides with flags: --source ./rag_storage --target redis://localhost:6379; quote a value that \
             holds spaces"
        }
        _ => return None,
    })
}

impl Options {
    /// The flags that decide how errors of the others are told, read off a command line that is wrong somewhere.
    pub fn output_only(arguments: &[OsString]) -> Self {
        let mut flags = Self::default();
        let mut rest = arguments.iter().map(|argument| argument.to_string_lossy());
        while let Some(argument) = rest.next() {
            let (name, value) = match argument.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (argument.into_owned(), None),
            };
            let mut value = || value.clone().or_else(|| rest.next().map(Into::into));
            match name.as_str() {
                "--output" => {
                    flags.output = value().and_then(|value| OutputFormat::from_str(&value, true).ok());
                }
                "--report" => flags.report = value().map(PathBuf::from),
                "--metrics" => flags.metrics = value().map(PathBuf::from),
                "--log-format" => {
                    flags.log_format = value().and_then(|value| LogFormat::from_str(&value, true).ok());
                }
                "--color" => flags.color = value().and_then(|value| Color::from_str(&value, true).ok()),
                "--quiet" | "-q" => flags.quiet = true,
                "--dry-run" => flags.dry_run = true,
                "--verify-only" => flags.verify_only = true,
                _ => {}
            }
        }
        flags
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn arguments(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(Into::into).collect()
    }

    #[test]
    fn the_flags_are_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn the_output_of_a_wrong_line_is_known() {
        let flags = Options::output_only(&arguments("x --sorce y --output=jsonl --report r.json --quiet"));
        assert_eq!(flags.output, Some(OutputFormat::Jsonl));
        assert_eq!(flags.report.as_deref(), Some("r.json".as_ref()));
        assert!(flags.quiet);
    }

    #[test]
    fn a_wrong_flag_is_a_usage_error_of_one_line() {
        let error = parse_args(arguments("migrate-llm-cache --sorce x")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.message().contains("'--source'"), "{error}");
        assert!(!error.message().contains('\n'));
        let error = parse_args(arguments("migrate-llm-cache --source")).unwrap_err();
        assert!(error.message().ends_with("but none was supplied"), "{error}");
    }
}

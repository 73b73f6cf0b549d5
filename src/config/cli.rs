//! Parses the command line.

use std::{ffi::OsString, path::PathBuf};

use anstream::{AutoStream, ColorChoice, stream::RawStream};
use clap::{
    Parser, ValueEnum,
    error::{ContextKind, ContextValue, ErrorKind as ClapErrorKind},
};
use serde::Deserialize;

use super::{
    generate,
    options::{Options, flag_names, flag_of_field},
};
use crate::{
    model::{Error, ErrorKind, Result, nearest},
    report::{TOOL, logging::LogFormat},
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
environment, .env or config.ini. Addresses: the path of a working directory, of
a cache file (.json) or of an archive (.jsonl, .jsonl.zst); redis://, rediss://,
unix://, postgres://, postgresql://, mongodb://, mongodb+srv://; http:// or
https:// for OpenSearch; s3://, gs:// or az:// for an archive in a bucket.";

pub(super) const EXIT_CODES: &str = "    0  success, also if there was nothing to do
    1  internal error: a bug
    2  usage or configuration error, or --yes is missing
    3  finished, but some records were rejected or could not be read
    4  the source failed
    5  the target failed
    6  verification found differences
    7  stopped at --max-errors
    8  stopped at --max-duration; can be resumed
    9  no such workspace in the source, or nothing to migrate (--fail-on-empty)
   10  refused by a check before the first write
   11  the checkpoint cannot be used: of another job, in use, or not writable
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
    /// Text to print instead of a run, with ANSI colors: help, version, or what --generate prints.
    Text(String),
}

/// Reads the command line.
///
/// # Errors
/// An unknown flag, an invalid value, or flags that exclude each other.
pub fn parse_args(arguments: impl IntoIterator<Item = OsString>) -> Result<Parsed> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    match Options::try_parse_from(&arguments) {
        Ok(options) => {
            let flags = options.given_by_flags();
            match flags.generate {
                Some(what) => generate::text(what, &flags).map(Parsed::Text),
                None => Ok(Parsed::Flags(Box::new(flags))),
            }
        }
        Err(error)
            if matches!(
                error.kind(),
                ClapErrorKind::DisplayHelp | ClapErrorKind::DisplayVersion
            ) =>
        {
            Ok(Parsed::Text(error.render().ansi().to_string()))
        }
        Err(error) => Err(usage_error(&error, &arguments)),
    }
}

/// Clap's error on one line, with a hint where it is clear what was meant.
fn usage_error(error: &clap::Error, arguments: &[OsString]) -> Error {
    if error.kind() == ClapErrorKind::UnknownArgument
        && let Some(ContextValue::String(unknown)) = error.get(ContextKind::InvalidArg)
    {
        let what = if unknown.starts_with('-') {
            "unknown flag"
        } else {
            "unexpected argument"
        };
        let error = Error::new(ErrorKind::Usage, format!("{what} `{unknown}`"));
        return match suggest(unknown, arguments) {
            Some(hint) => error.with_remedy(hint),
            None => error,
        };
    }
    if let Some(error) = value_error(error) {
        return error;
    }
    let text = error.render().to_string();
    // The remedy of a usage error replaces what clap prints after its message.
    let message = text.split("\n\nUsage:").next().unwrap_or_default();
    let message = message
        .split("\n\nFor more information")
        .next()
        .unwrap_or_default();
    let message = message.trim_start_matches("error: ").split_whitespace();
    let message = message.collect::<Vec<_>>().join(" ").replace(" tip: ", "; ");
    Error::new(ErrorKind::Usage, message)
}

/// An error in the value of a flag, worded like those in values that are parsed later.
fn value_error(error: &clap::Error) -> Option<Error> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let argument = text(ContextKind::InvalidArg)?;
    let flag = argument.split_whitespace().next()?;
    let value = text(ContextKind::InvalidValue).unwrap_or_default();
    match (error.kind(), error.get(ContextKind::ValidValue)) {
        (ClapErrorKind::InvalidValue, Some(ContextValue::Strings(valid))) if !value.is_empty() => {
            let message = format!("{flag}: expected one of {}, found `{value}`", valid.join(", "));
            let near = nearest(value, valid.iter().map(String::as_str));
            let remedy = match near {
                Some(near) => format!("did you mean `{flag} {near}`?"),
                None => format!("see {flag} in `{TOOL} --help`"),
            };
            Some(Error::new(ErrorKind::Usage, message).with_remedy(remedy))
        }
        (ClapErrorKind::TooManyValues, _) => {
            let message = format!("{flag} takes no value, found `{value}`");
            let remedy = format!("write {flag} alone, or leave it out");
            Some(Error::new(ErrorKind::Usage, message).with_remedy(remedy))
        }
        (ClapErrorKind::ArgumentConflict, _) => {
            let other = text(ContextKind::PriorArg)?.split_whitespace().next()?;
            let (message, remedy) = match flag {
                "--workspace" if other == flag => (
                    "--workspace is given twice".to_owned(),
                    "for several workspaces, use --workspace-map A=A --workspace-map B=B, or --all-workspaces",
                ),
                _ if other == flag => (format!("{flag} is given twice"), "leave one of them out"),
                _ => (
                    format!("{flag} cannot be used with {other}"),
                    "leave one of them out",
                ),
            };
            Some(Error::new(ErrorKind::Usage, message).with_remedy(remedy))
        }
        _ => None,
    }
}

/// What to write instead of an unknown argument: known from other programs, a typing error, or a list without commas.
fn suggest(argument: &str, arguments: &[OsString]) -> Option<String> {
    let hint = match argument {
        "--from" | "--src" | "--input" | "-s" => "use --source for the storage to read",
        "--to" | "--dst" | "--dest" | "--destination" | "-t" => "use --target for the storage to write",
        "--overwrite" | "--replace" | "--force" | "--skip" | "--skip-existing" | "-f" => {
            "use --on-conflict overwrite, skip, newer or fail"
        }
        "--config" | "-c" => "use --job for a job file",
        "-y" => "write --yes in full",
        "-n" | "--check" => "use --dry-run to check without writing",
        "--verbose" | "-v" | "--debug" => "use --log-level info or --log-level debug",
        _ if argument.starts_with("--") => {
            let flag = flag_of_field(argument).or_else(|| nearest(argument, flag_names()));
            return flag.map(|flag| format!("did you mean `{flag}`?"));
        }
        _ if argument.starts_with('-') => return None,
        _ => {
            return types_with_commas(argument, arguments).or_else(|| {
                Some(
                    "name both sides with flags: --source ./rag_storage --target redis://localhost:6379; quote values \
                     that contain spaces"
                        .to_owned(),
                )
            });
        }
    };
    Some(hint.to_owned())
}

/// `--types extract summary`, as it should have been written.
fn types_with_commas(unknown: &str, arguments: &[OsString]) -> Option<String> {
    let flag = arguments.iter().rposition(|argument| argument == "--types")?;
    let names: Vec<_> = arguments[flag + 1..]
        .iter()
        .map(|argument| argument.to_string_lossy())
        .take_while(|argument| !argument.starts_with('-'))
        .collect();
    let is_listed = names.iter().skip(1).any(|name| name == unknown);
    is_listed.then(|| format!("separate cache types by commas: --types {}", names.join(",")))
}

impl Options {
    /// The flags that decide how errors are reported, from a command line that cannot be parsed.
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
                "--metrics-push" => flags.metrics_push = value().map(Into::into),
                "--log-format" => {
                    flags.log_format = value().and_then(|value| LogFormat::from_str(&value, true).ok());
                }
                "--color" => flags.color = value().and_then(|value| Color::from_str(&value, true).ok()),
                "--quiet" | "-q" => flags.quiet = true,
                "--shard" => flags.shard = value().map(Into::into),
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
    fn the_output_flags_of_an_invalid_command_line_are_read() {
        let flags = Options::output_only(&arguments(
            "x --sorce y --output=jsonl --report r.json --shard 1/4 --quiet",
        ));
        assert_eq!(flags.output, Some(OutputFormat::Jsonl));
        assert_eq!(flags.report.as_deref(), Some("r.json".as_ref()));
        assert_eq!(flags.shard.unwrap().text, "1/4");
        assert!(flags.quiet);
    }

    #[test]
    fn an_unknown_flag_is_a_usage_error_on_one_line() {
        let error = parse_args(arguments("migrate-llm-cache --sorce x")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert_eq!(error.message(), "unknown flag `--sorce`");
        assert_eq!(error.remedy(), Some("did you mean `--source`?"));
        let error = parse_args(arguments("migrate-llm-cache --source")).unwrap_err();
        assert!(error.message().ends_with("but none was supplied"), "{error}");
    }
}

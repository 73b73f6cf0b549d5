//! The command line, as it was written.

use std::{ffi::OsString, path::PathBuf};

use anstream::{AutoStream, ColorChoice, stream::RawStream};
use clap::{
    Parser, ValueEnum, ValueHint,
    error::{ContextKind, ContextValue, ErrorKind as ClapErrorKind},
};
use serde::Deserialize;

use super::generate::{self, Generate};
use crate::{
    model::{Error, ErrorKind, OnConflict, Rekey, Result, VerifyLevel, record::OnInvalid},
    report::logging::LogFormat,
};

pub(super) const EXAMPLES: &str = "  Look first: connect, check and count both sides, write nothing
    migrate-llm-cache --source ./rag_storage --target redis://localhost:6379 \\
      --dry-run

  Move the cache of one workspace
    migrate-llm-cache --source ./rag_storage --target redis://localhost:6379 \\
      --workspace space1 --yes

  Move between the storages of LightRAG's own environment, .env or config.ini
    migrate-llm-cache --source json --target postgres --all-workspaces --yes

  The same from a job file, for cron and CI
    migrate-llm-cache --job nightly.yaml --yes --report run.json

  Be asked for source, target and a yes
    migrate-llm-cache --interactive";

pub(super) const STORAGES: &str = "\
STORAGE is a kind or a place. Kinds: json, redis, postgres, mongo, opensearch,
or LightRAG's class name; LightRAG's environment then says where it is. Places:
a working directory or a cache file, redis://, rediss://, postgres://,
mongodb://, mongodb+srv://, and http:// or https:// for OpenSearch.";

pub(super) const EXIT_CODES: &str = "    0  done, or nothing to do
    1  internal error: a bug
    2  usage or configuration, a missing --yes too
    3  done, but some records were rejected
    4  the source failed
    5  the target failed
    6  verification found differences
    7  stopped at --max-errors
    8  stopped at --max-duration; --resume goes on
    9  no such workspace in the source, or with --fail-on-empty nothing to migrate
   10  refused by a check before the first write
   11  the checkpoint is another job's, or another run holds it
  130  interrupted (SIGINT)
  141  the reader of standard output went away
  143  terminated (SIGTERM)";

/// The flags. What is not given is `None`: defaults are the business of the settings.
#[derive(Clone, Debug, Default, Parser)]
#[command(
    name = "migrate-llm-cache",
    version,
    about = "Moves LightRAG's LLM response cache between JSON, Redis, PostgreSQL, MongoDB and OpenSearch",
    long_about = "Moves LightRAG's LLM response cache between any two of JSON, Redis, PostgreSQL, MongoDB and \
                  OpenSearch. Never changes the source, asks nothing without --interactive, and writes to the target \
                  only with --yes.",
    after_help = "Add --help for examples and exit codes.",
    after_long_help = format!("Examples:\n{EXAMPLES}\n\n{STORAGES}\n\nExit codes:\n{EXIT_CODES}"),
    max_term_width = 110
)]
pub struct Args {
    /// Job file (YAML) with any of these settings; flags win over it
    #[arg(long, value_name = "FILE", help_heading = "What", value_hint = ValueHint::FilePath)]
    pub job: Option<PathBuf>,

    /// Where to read: a kind of storage or a place
    #[arg(long, value_name = "STORAGE", help_heading = "What", value_hint = ValueHint::AnyPath)]
    pub source: Option<String>,

    /// Where to write: a kind of storage or a place
    #[arg(long, value_name = "STORAGE", help_heading = "What", value_hint = ValueHint::AnyPath)]
    pub target: Option<String>,

    /// Workspace on both sides
    #[arg(long, value_name = "NAME", help_heading = "What", conflicts_with_all = ["workspace_map", "all_workspaces"])]
    pub workspace: Option<String>,

    /// Workspace to read; wins over --workspace
    #[arg(long, value_name = "NAME", help_heading = "What", conflicts_with_all = ["workspace_map", "all_workspaces"])]
    pub source_workspace: Option<String>,

    /// Workspace to write; wins over --workspace
    #[arg(long, value_name = "NAME", help_heading = "What", conflicts_with_all = ["workspace_map", "all_workspaces"])]
    pub target_workspace: Option<String>,

    /// Workspace to read and workspace to write; may be repeated
    #[arg(
        long,
        value_name = "FROM=TO",
        help_heading = "What",
        conflicts_with = "all_workspaces"
    )]
    pub workspace_map: Vec<String>,

    /// Every workspace that the source has, under the same name
    #[arg(long, help_heading = "What")]
    pub all_workspaces: bool,

    /// Cache types to move: `default` is everything made from files; any type by name, such as extract, summary, query;
    /// `all` is every entry [default: default]
    #[arg(long, value_name = "LIST", help_heading = "What")]
    pub types: Option<String>,

    /// Report which records LightRAG will find under their keys, and for which models the others were made
    #[arg(long, help_heading = "Hits")]
    pub hits: bool,

    /// Add copies of records under the keys that LightRAG asks for: of those made at another host or by an older
    /// LightRAG, or for another model too [default: off]
    #[arg(long, value_name = "WHAT", help_heading = "Hits")]
    pub rekey: Option<Rekey>,

    /// Binding that LightRAG extracts with: such as openai or ollama; `library` for a program that uses LightRAG without its
    /// server [default: LightRAG's own configuration]
    #[arg(long, value_name = "NAME", help_heading = "Hits")]
    pub llm_binding: Option<String>,

    /// Model that LightRAG extracts with [default: LightRAG's own configuration]
    #[arg(long, value_name = "NAME", help_heading = "Hits")]
    pub llm_model: Option<String>,

    /// Address of that model, as LightRAG is given it [default: LightRAG's own configuration]
    #[arg(long, value_name = "URL", help_heading = "Hits")]
    pub llm_host: Option<String>,

    /// LightRAG release that will read the cache [default: the newest known]
    #[arg(long, value_name = "RELEASE", help_heading = "Hits")]
    pub lightrag_version: Option<String>,

    /// Connect, check and count both sides, and write nothing anywhere
    #[arg(long, help_heading = "How")]
    pub dry_run: bool,

    /// Write to the target without being asked
    #[arg(long, help_heading = "How")]
    pub yes: bool,

    /// Ask at the terminal for source, target and a yes, where flags and job file leave them open
    #[arg(long, help_heading = "How")]
    pub interactive: bool,

    /// What to do where the target has a record of the same key [default: overwrite]
    #[arg(long, value_name = "POLICY", help_heading = "How")]
    pub on_conflict: Option<OnConflict>,

    /// What to do with a record that the target could hold if a character went [default: reject]
    #[arg(long, value_name = "POLICY", help_heading = "How")]
    pub on_invalid: Option<OnInvalid>,

    /// Records in a batch [default: 1000]
    #[arg(long, value_name = "N", help_heading = "How")]
    pub batch_size: Option<String>,

    /// Bytes in a batch [default: what the target takes fastest, 384KiB to 2MiB]
    #[arg(long, value_name = "SIZE", help_heading = "How")]
    pub batch_bytes: Option<String>,

    /// Batches written at the same time, at most: how many depends on bandwidth and distance [default: 16]
    #[arg(long, value_name = "N", help_heading = "How")]
    pub concurrency: Option<String>,

    /// How long connecting, and each request, may take [default: 60s]
    #[arg(long, value_name = "DUR", help_heading = "How")]
    pub timeout: Option<String>,

    /// How often a request that failed for a passing reason is tried again [default: 5]
    #[arg(long, value_name = "N", help_heading = "How")]
    pub retries: Option<String>,

    /// End the run after this time with 8; it can be resumed
    #[arg(long, value_name = "DUR", help_heading = "How")]
    pub max_duration: Option<String>,

    /// End the run with 7 when more records, or more percent of them, are rejected
    #[arg(long, value_name = "N|N%", help_heading = "How")]
    pub max_errors: Option<String>,

    /// Compare the target with the source afterwards, field by field [default: off]
    #[arg(long, value_name = "LEVEL", help_heading = "How")]
    pub verify: Option<VerifyLevel>,

    /// Compare the target with the source and write nothing
    #[arg(long, help_heading = "How", conflicts_with = "dry_run")]
    pub verify_only: bool,

    /// File that keeps how far the run came
    #[arg(long, value_name = "FILE", help_heading = "How", value_hint = ValueHint::FilePath)]
    pub checkpoint: Option<PathBuf>,

    /// Go on where the run that wrote the checkpoint stopped
    #[arg(long, help_heading = "How")]
    pub resume: bool,

    /// File for rejected records (JSON lines), which a later run can take as its --source
    #[arg(long, value_name = "FILE", help_heading = "How", value_hint = ValueHint::FilePath)]
    pub rejects: Option<PathBuf>,

    /// Move the intact records of a damaged JSON file
    #[arg(long, help_heading = "How")]
    pub salvage: bool,

    /// End with 9 where there is nothing to migrate
    #[arg(long, help_heading = "How")]
    pub fail_on_empty: bool,

    /// Accept a workspace that the source does not have, instead of exit code 9
    #[arg(long, help_heading = "How")]
    pub allow_missing: bool,

    /// What to print on standard output; auto is human at a terminal, else jsonl
    #[arg(long, value_name = "FORMAT", help_heading = "What comes out")]
    pub output: Option<OutputFormat>,

    /// File for the final report (JSON), replaced atomically
    #[arg(long, value_name = "FILE", help_heading = "What comes out", value_hint = ValueHint::FilePath)]
    pub report: Option<PathBuf>,

    /// File for metrics of the run (Prometheus's text format), replaced atomically
    #[arg(long, value_name = "FILE", help_heading = "What comes out", value_hint = ValueHint::FilePath)]
    pub metrics: Option<PathBuf>,

    /// Log to standard error: off, error, warn, info, debug, trace, or a filter as in RUST_LOG [default: warn]
    #[arg(long, value_name = "LEVEL", help_heading = "What comes out")]
    pub log_level: Option<String>,

    /// How to write the log; json puts errors into it too [default: text]
    #[arg(long, value_name = "FORMAT", help_heading = "What comes out")]
    pub log_format: Option<LogFormat>,

    /// Print nothing on standard error but errors
    #[arg(long, short, help_heading = "What comes out")]
    pub quiet: bool,

    /// When to use colours [default: auto]
    #[arg(long, value_name = "WHEN", help_heading = "What comes out")]
    pub color: Option<Color>,

    /// Print completions for a shell, or the man page, and do nothing else
    #[arg(long, value_name = "WHAT", help_heading = "What comes out", exclusive = true)]
    pub generate: Option<Generate>,
}

/// When colours are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Color {
    /// At a terminal, unless `NO_COLOR` is set; anywhere with `CLICOLOR_FORCE`.
    #[default]
    Auto,
    /// Anywhere.
    Always,
    /// Nowhere.
    Never,
}

impl Color {
    /// What is put out to a stream: never [`ColorChoice::Auto`].
    pub fn choice(self, stream: &impl RawStream) -> ColorChoice {
        match self {
            Self::Auto => AutoStream::choice(stream),
            Self::Always => ColorChoice::AlwaysAnsi,
            Self::Never => ColorChoice::Never,
        }
    }
}

/// What stands on standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputFormat {
    /// For people at a terminal, JSON lines elsewhere.
    #[default]
    Auto,
    /// One JSON object a line.
    Jsonl,
    /// Words, on standard error.
    Human,
}

/// What came of the command line.
#[derive(Debug)]
pub enum Parsed {
    /// Flags to act on.
    Args(Box<Args>),
    /// Text that was asked for, with its colours: help, version, completions, the man page.
    Text(String),
}

/// Reads the command line.
///
/// # Errors
/// An unknown flag, a wrong value, flags that exclude each other.
pub fn parse_args(arguments: impl IntoIterator<Item = OsString>) -> Result<Parsed> {
    match Args::try_parse_from(arguments) {
        Ok(Args {
            generate: Some(what), ..
        }) => Ok(Parsed::Text(generate::text(what))),
        Ok(args) => Ok(Parsed::Args(Box::new(args))),
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

impl Args {
    /// The flags that decide how errors of the others are told, read off a command line that is wrong somewhere.
    pub fn output_only(arguments: &[OsString]) -> Self {
        let mut args = Self::default();
        let mut rest = arguments.iter().map(|argument| argument.to_string_lossy());
        while let Some(argument) = rest.next() {
            let (name, value) = match argument.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (argument.into_owned(), None),
            };
            let mut value = || value.clone().or_else(|| rest.next().map(Into::into));
            match name.as_str() {
                "--output" => {
                    args.output = value().and_then(|value| OutputFormat::from_str(&value, true).ok());
                }
                "--report" => args.report = value().map(PathBuf::from),
                "--metrics" => args.metrics = value().map(PathBuf::from),
                "--log-format" => {
                    args.log_format = value().and_then(|value| LogFormat::from_str(&value, true).ok());
                }
                "--color" => args.color = value().and_then(|value| Color::from_str(&value, true).ok()),
                "--quiet" | "-q" => args.quiet = true,
                "--dry-run" => args.dry_run = true,
                "--verify-only" => args.verify_only = true,
                _ => {}
            }
        }
        args
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
        Args::command().debug_assert();
    }

    #[test]
    fn the_output_of_a_wrong_line_is_known() {
        let args = Args::output_only(&arguments("x --sorce y --output=jsonl --report r.json --quiet"));
        assert_eq!(args.output, Some(OutputFormat::Jsonl));
        assert_eq!(args.report.as_deref(), Some("r.json".as_ref()));
        assert!(args.quiet);
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

//! Resolves the settings of a run: flag > job file > process environment > `.env` > `config.ini` > default.

use std::path::PathBuf;

use super::{
    Color, Environment, JobFile, OutputFormat, lightrag,
    options::Options,
    shard,
    value::{BatchBytes, Setting, Text, parsed},
};
use crate::{
    model::{
        Error, ErrorKind, Mode, PushUrl, Result, Selection, Settings, Shard, Side, VerifyLevel,
        WorkspaceChoice,
    },
    report::{logging::LogFormat, word},
    storage::{Endpoint, Route},
    system::atomic_file,
};

/// How a run reports what it does.
#[derive(Clone, Debug, Default)]
pub struct OutputSettings {
    /// What to print, and where.
    pub format: OutputFormat,
    /// File for the final report.
    pub report: Option<PathBuf>,
    /// File for the metrics.
    pub metrics: Option<PathBuf>,
    /// Pushgateway to send the metrics to, once [`OutputSettings::check`] has read it.
    pub metrics_push: Option<PushUrl>,
    /// How often to retry that.
    pub push_retries: usize,
    push_text: Option<Text<PushUrl>>,
    /// Log filter, in the syntax of `RUST_LOG`.
    pub log_level: Option<String>,
    /// How lines of the log are written: as text or as JSON.
    pub log_format: LogFormat,
    /// Whether to print only errors to standard error.
    pub quiet: bool,
    /// When to use color.
    pub color: Color,
    /// Whether to ask for settings that flags and job file leave open.
    pub interactive: bool,
}

impl OutputSettings {
    /// Checks that report and metrics can be written, and reads the address of the Pushgateway. What is wrong is dropped, so
    /// that it is reported only once.
    ///
    /// # Errors
    /// A file cannot be written, the address is not valid, or this build cannot push.
    pub fn check(&mut self) -> Result<()> {
        let files = self.check_files();
        let push = parsed(self.push_text.take()).and_then(|url| match url {
            Some(_) if !cfg!(feature = "push") => Err(Error::config(
                "this build of migrate-llm-cache does not include --metrics-push",
            )
            .with_remedy(
                "install a released package, which includes it, or build with `cargo build --features push`",
            )),
            url => Ok(url),
        });
        files.and(push.map(|url| self.metrics_push = url))
    }

    fn check_files(&mut self) -> Result<()> {
        let checked =
            [("--report", &mut self.report), ("--metrics", &mut self.metrics)].map(|(flag, file)| {
                let checked = file.as_deref().map_or(Ok(()), atomic_file::check);
                checked.map_err(|error| {
                    let path = file.take().unwrap_or_default();
                    Error::config(format!("{flag}: cannot write {}: {error}", path.display()))
                        .with_remedy("choose a file in an existing, writable folder")
                })
            });
        checked.into_iter().collect()
    }

    /// Resolves them from flags and job file.
    pub fn resolve(flags: &Options, job: &JobFile) -> Self {
        let options = given(flags, job);
        let retries = options.retries.or_else(|| Options::defaults().ok()?.retries);
        Self {
            format: options.output.unwrap_or_default(),
            report: options.report,
            metrics: options.metrics,
            metrics_push: None,
            // A number that is not valid ends the run before.
            push_retries: parsed(retries).ok().flatten().unwrap_or_default(),
            push_text: options.metrics_push,
            log_level: options.log_level,
            log_format: options.log_format.unwrap_or_default(),
            quiet: options.quiet,
            color: options.color.unwrap_or_default(),
            interactive: options.interactive,
        }
    }
}

impl Shard {
    /// Resolves the shard alone, for the report of a run whose other settings are wrong; `None` without a valid one.
    pub fn resolve(flags: &Options, job: &JobFile, environment: &Environment) -> Option<Self> {
        shard::resolve(given(flags, job).shard, environment)
            .ok()
            .flatten()
    }
}

/// The options given by flags, or else by the job file.
pub(super) fn given(flags: &Options, job: &JobFile) -> Options {
    flags.clone().over(job.options.clone())
}

impl Mode {
    /// Resolves the mode from flags and job file.
    pub fn resolve(flags: &Options, job: &JobFile) -> Self {
        let options = given(flags, job);
        if options.dry_run {
            Self::DryRun
        } else if options.verify_only {
            Self::Verify
        } else {
            Self::Migrate
        }
    }
}

impl Settings {
    /// Resolves all settings.
    ///
    /// # Errors
    /// A setting is missing or invalid. The message names it, its origin and what was expected.
    pub fn resolve(flags: &Options, job: &JobFile, environment: &Environment) -> Result<Self> {
        let mode = Mode::resolve(flags, job);
        let given = given(flags, job);
        let verify = verify_level(given.verify, mode)?;
        let options = given.over(Options::defaults()?);
        if options.resume && options.checkpoint.is_none() {
            return Err(Error::config(
                "--resume needs --checkpoint FILE, the file to resume from",
            ));
        }
        Ok(Self {
            mode,
            selection: selection(&options)?.of_shard(shard::resolve(options.shard, environment)?),
            on_conflict: required(options.on_conflict)?,
            on_invalid: required(options.on_invalid)?,
            batch_records: required(parsed(options.batch.records)?)?,
            batch_bytes: parsed(options.batch.bytes)?.map(|BatchBytes(bytes)| bytes),
            concurrency: required(parsed(options.concurrency)?)?,
            rate_limit: parsed(options.rate_limit)?,
            timeout: required(parsed(options.timeout)?)?,
            retries: required(parsed(options.retries)?)?,
            max_duration: parsed(options.max_duration)?,
            max_errors: parsed(options.max_errors)?,
            verify,
            checkpoint: options.checkpoint,
            resume: options.resume,
            rejects: options.rejects,
            differences: options.differences,
            lightrag: lightrag::resolve(flags, job, environment)?,
            rekey: required(options.rekey)?,
            salvage: options.salvage,
            yes: options.yes,
            fail_on_empty: options.fail_on_empty,
            allow_missing: options.allow_missing,
        })
    }
}

/// The value of an option with a default in the table.
fn required<T>(value: Option<T>) -> Result<T> {
    value.ok_or_else(|| Error::new(ErrorKind::Internal, "an option has no default in the table"))
}

fn selection(options: &Options) -> Result<Selection> {
    let Some(types) = &options.types else {
        return Ok(Selection::default());
    };
    Selection::parse(types.words.iter().map(String::as_str)).map_err(|what| types.origin.error(&what))
}

/// `--verify-only` compares everything by default.
fn verify_level(given: Option<VerifyLevel>, mode: Mode) -> Result<VerifyLevel> {
    match (given, mode) {
        (None, Mode::Verify) => Ok(VerifyLevel::Full),
        (Some(level @ (VerifyLevel::Off | VerifyLevel::ReadBack)), Mode::Verify) => {
            let level = word(&level);
            Err(Error::config(format!(
                "--verify-only cannot be used with --verify {level}"
            )))
        }
        (level, _) => Ok(level.unwrap_or(VerifyLevel::ReadBack)),
    }
}

impl Route {
    /// Resolves source, target and workspaces.
    ///
    /// # Errors
    /// A side or a setting is missing or invalid. The message names it, its origin and what was expected.
    pub fn resolve(flags: &Options, job: &JobFile, environment: &Environment) -> Result<Self> {
        let source = Endpoint::resolve(Side::Source, flags, job, environment)?;
        let target = Endpoint::resolve(Side::Target, flags, job, environment)?;
        let workspaces =
            WorkspaceChoice::resolve(flags, job, environment, source.connector, target.connector)?;
        Ok(Self {
            source,
            target,
            workspaces,
        })
    }
}

//! The program around a run: every path out of it ends here, with one report and an exit code.

use std::{
    ffi::OsString,
    io::{IsTerminal, Write},
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::Arc,
};

use anstream::{AutoStream, ColorChoice};
use futures::FutureExt;

use crate::{
    config::{
        CONFIG_INI, Color, DOT_ENV, Environment, JobFile, Options, OutputFormat, OutputSettings, OwnFiles,
        Parsed, parse_args,
    },
    engine::{
        self, checkpoint::Checkpoint, differences::DifferencesFile, hits::Examiner, rejects::RejectsFile,
        run::Run, stats::RunStats,
    },
    interactive,
    model::{Error, ErrorKind, ExitCode, Mode, Redactor, Result, Settings, Shard},
    report::{
        self, Event, Output, Palette, Report, Reporter, RunOutcome, RunStarted, TOOL, VERSION, Verbosity,
        WarningEvent, WarningKind, logging, merge, metrics,
    },
    storage::Route,
    system::{limits, os, shutdown::Shutdown},
};

/// Runs the program.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    match parse_args(arguments.clone()) {
        Ok(Parsed::Text(text)) => {
            let color = Options::output_only(&arguments).color;
            print(&text, color.unwrap_or_default())
        }
        Ok(Parsed::Flags(flags)) => carry_out(&arguments, &flags, Ok(())),
        Err(error) => carry_out(&arguments, &Options::output_only(&arguments), Err(error)),
    }
}

/// Carries out a run with these flags, which may not be `understood`.
fn carry_out(arguments: &[OsString], flags: &Options, understood: Result<()>) -> ExitCode {
    let environment = Environment::read(Path::new("."));
    let (job, unreadable) = match understood.and_then(|()| read_job(flags, &environment)) {
        Ok(job) => (job, None),
        Err(error) => (JobFile::default(), Some(error)),
    };
    let own_files = match &unreadable {
        None => OwnFiles::of(flags, &job, &environment),
        Some(_) => OwnFiles::of_misunderstood(flags, arguments),
    };
    let merged = (!flags.merge_reports.is_empty()).then(|| merged_report(&flags.merge_reports));
    let mode = match &merged {
        Some(Ok((report, _))) => report.mode,
        _ => Mode::resolve(flags, &job),
    };
    let mut output = OutputSettings::resolve(flags, &job);
    let files = output.check();
    let shutdown = Shutdown::default();
    let stats = stats_of_run(mode, flags, &job, &environment);
    let redactor = Redactor::new(settings_in_reach(arguments, flags));
    let reporter = Arc::new(Reporter::new(output_config(&output, redactor), shutdown.clone()));
    let distinct = own_files.check(&reporter);
    reporter.emit(Event::RunStarted(RunStarted {
        tool: TOOL.to_owned(),
        version: VERSION.to_owned(),
        pid: std::process::id(),
        mode,
    }));
    let level = output.log_level.as_deref();
    let logging = logging::init(output.log_format, level, output.quiet, reporter.stderr());
    tracing::info!(run_id = %reporter.run_id(), version = VERSION, mode = report::word(&mode), "run started");
    for warning in environment.warnings() {
        let warning = WarningEvent::new(WarningKind::Configuration, warning.as_str());
        engine::warn(&stats, &reporter, warning);
    }
    if let Some(merged) = merged {
        let merged = distinct.and(files).and(merged);
        return conclude_merged(&output, &stats, &reporter, &shutdown, merged);
    }
    let guided = output.interactive.then_some(&own_files);
    let task = distinct
        .and(logging)
        .and_then(|()| unreadable.map_or(Ok(()), Err))
        .and_then(|()| Task::resolve(flags, &job, &environment, guided))
        .and_then(|task| files.and_then(|()| check_files(&task.0)).map(|()| task));
    let ending = match task {
        Err(error) => failed(&stats, &reporter, &error),
        Ok((settings, task)) => {
            let run = Run {
                settings: &settings,
                reporter: &reporter,
                stats: &stats,
                shutdown: &shutdown,
            };
            execute(&run, task)
        }
    };
    conclude(&output, &stats, &reporter, &shutdown, ending)
}

/// Prints help, version or generated text.
fn print(text: &str, color: Color) -> ExitCode {
    let stdout = std::io::stdout();
    let choice = color.choice(&stdout);
    // A closed standard output is not an error here.
    let _ = write!(AutoStream::new(stdout, choice), "{text}");
    ExitCode::Done
}

/// Writes and pushes the metrics of a report.
fn publish(
    output: &OutputSettings,
    report: &Report,
    reporter: &Reporter,
    shutdown: &Shutdown,
) -> (Result<()>, Result<()>) {
    let path = output.metrics.as_deref().filter(|path| !reporter.withholds(path));
    let written = path.map(|path| metrics::write(path, report));
    let (text, written) = match written.transpose() {
        Ok(text) => (text, Ok(())),
        Err(error) => (None, Err(error)),
    };
    #[cfg(feature = "push")]
    let pushed = output.metrics_push.as_ref().map_or(Ok(()), |to| {
        engine::push::push(to, report, text, output.push_retries, shutdown)
    });
    #[cfg(not(feature = "push"))]
    let (pushed, _) = (Ok(()), (text, shutdown));
    (written, pushed)
}

/// Reports that the metrics were not pushed. That is no failure of the run: its exit code stays.
fn warn_of_push(stats: &RunStats, reporter: &Reporter, error: &Error) -> String {
    let remedy = error.remedy().map(|remedy| format!("; {remedy}"));
    let message = format!("--metrics-push: {error}{}", remedy.unwrap_or_default());
    engine::warn(
        stats,
        reporter,
        WarningEvent::new(WarningKind::MetricsPush, message.as_str()),
    );
    reporter.log_warning(&message);
    message
}

/// Writes the metrics and the report, and returns the exit code.
fn conclude(
    output: &OutputSettings,
    stats: &RunStats,
    reporter: &Reporter,
    shutdown: &Shutdown,
    mut ending: RunOutcome,
) -> ExitCode {
    // A report has an entry for each workspace, of which there may be thousands: none is made that nothing needs.
    if output.metrics.is_some() || output.metrics_push.is_some() {
        let (written, pushed) = publish(output, &stats.report(&ending), reporter, shutdown);
        if let Err(error) = pushed {
            warn_of_push(stats, reporter, &error);
        }
        if let Err(error) = written {
            let failed = failed(stats, reporter, &error);
            if matches!(ending, RunOutcome::Done) {
                ending = failed;
            }
        }
    }
    let report = stats.report(&ending);
    let number = report.exit_code;
    finish(reporter, report, code_of(&ending, number))
}

/// Reads the reports of several shards and adds them up; and says what is wrong with the set of them.
fn merged_report(files: &[PathBuf]) -> Result<(Report, Result<()>)> {
    let reports: Result<Vec<_>> = files
        .iter()
        .map(|file| Ok((file.clone(), merge::read(file)?)))
        .collect();
    let merged = merge::merge(reports?)?;
    merged.ok_or_else(|| Error::new(ErrorKind::Internal, "no reports to merge"))
}

/// Writes the metrics and the report of several shards, and returns the exit code.
fn conclude_merged(
    output: &OutputSettings,
    stats: &RunStats,
    reporter: &Reporter,
    shutdown: &Shutdown,
    merged: Result<(Report, Result<()>)>,
) -> ExitCode {
    let (mut report, complete) = match merged {
        Ok(merged) => merged,
        Err(error) => {
            let ending = failed(stats, reporter, &error);
            return conclude(output, stats, reporter, shutdown, ending);
        }
    };
    if let Err(error) = complete {
        reporter.say_error(&error);
    }
    let mut exit_code = merge::code_of(&report);
    let (written, pushed) = publish(output, &report, reporter, shutdown);
    if let Err(error) = pushed {
        report.warnings.push(warn_of_push(stats, reporter, &error));
    }
    if let Err(error) = written {
        reporter.say_error(&error);
        if exit_code == ExitCode::Done {
            exit_code = error.exit_code();
        }
    }
    finish(reporter, report, exit_code)
}

/// Reports the end, and returns the exit code.
fn finish(reporter: &Reporter, report: Report, exit_code: ExitCode) -> ExitCode {
    let totals = &report.totals;
    tracing::info!(
        run_id = %reporter.run_id(),
        status = report::word(&report.status),
        exit_code = report.exit_code,
        duration_ms = report.duration_ms,
        written = totals.written,
        skipped = totals.skipped,
        rejected = totals.rejected,
        not_attempted = totals.not_attempted,
        "run ended"
    );
    match reporter.finish(Box::new(report)) {
        Ok(()) => exit_code,
        Err(error) => {
            // The run is done and the report is on standard output; only the file is missing.
            reporter.say_error(&error);
            match exit_code {
                ExitCode::Done => error.exit_code(),
                other => other,
            }
        }
    }
}

fn read_job(flags: &Options, environment: &Environment) -> Result<JobFile> {
    let file = flags.job.as_deref();
    file.map_or_else(|| Ok(JobFile::default()), |file| JobFile::read(file, environment))
}

/// The numbers of a run that has not started, with its shard: the report of a run with another wrong setting counts for it.
fn stats_of_run(mode: Mode, flags: &Options, job: &JobFile, environment: &Environment) -> RunStats {
    let stats = RunStats::new(mode);
    if flags.merge_reports.is_empty() {
        let shard = Shard::resolve(flags, job, environment);
        stats.run(|run| run.shard = shard.map(|shard| shard.to_string()));
    }
    stats
}

/// All text that settings may come from: arguments, variables, lines of the job file and of LightRAG's files. Any of it may
/// contain an address with a password.
fn settings_in_reach(arguments: &[OsString], flags: &Options) -> Vec<String> {
    let text = |text: &OsString| text.to_string_lossy().into_owned();
    let mut settings: Vec<String> = arguments.iter().map(text).collect();
    settings.extend(std::env::vars_os().map(|(_, value)| text(&value)));
    let files = [
        Some(Path::new(DOT_ENV)),
        Some(Path::new(CONFIG_INI)),
        flags.job.as_deref(),
    ];
    for file in files.into_iter().flatten().filter(|file| file.is_file()) {
        let content = std::fs::read(file).unwrap_or_default();
        let content = String::from_utf8_lossy(&content);
        settings.extend(content.lines().map(str::to_owned));
        if let Ok(job) = serde_yaml::from_str(&content) {
            collect_texts(&job, &mut settings);
        }
    }
    settings
}

/// Collects every text in a job file, including names of fields.
fn collect_texts(value: &serde_yaml::Value, texts: &mut Vec<String>) {
    use serde_yaml::Value;
    match value {
        Value::String(text) => texts.push(text.clone()),
        Value::Sequence(items) => items.iter().for_each(|item| collect_texts(item, texts)),
        Value::Mapping(fields) => fields.iter().for_each(|(name, value)| {
            collect_texts(name, texts);
            collect_texts(value, texts);
        }),
        _ => {}
    }
}

/// Reports before the first request what would fail at the end: a file that cannot be written, an unknown LightRAG release.
fn check_files(settings: &Settings) -> Result<()> {
    Examiner::of(settings)?;
    settings.rejects.as_deref().map_or(Ok(()), RejectsFile::check)?;
    settings
        .differences
        .as_deref()
        .map_or(Ok(()), DifferencesFile::check)?;
    settings.checkpoint.as_deref().map_or(Ok(()), Checkpoint::check)
}

/// How source and target of a run are determined.
enum Task<'a> {
    /// From flags, job file and environment.
    Given(Route),
    /// By asking for what flags and job file leave open, which must not be a file that the run writes itself.
    Guided(&'a Options, &'a JobFile, &'a OwnFiles),
}

impl<'a> Task<'a> {
    fn resolve(
        flags: &'a Options,
        job: &'a JobFile,
        environment: &Environment,
        guided: Option<&'a OwnFiles>,
    ) -> Result<(Settings, Self)> {
        let task = match guided {
            Some(own_files) => {
                interactive::require_terminal()?;
                Self::Guided(flags, job, own_files)
            }
            None => Self::Given(Route::resolve(flags, job, environment)?),
        };
        Ok((Settings::resolve(flags, job, environment)?, task))
    }
}

/// What to print on which stream. Guided mode prints human-readable text whatever the output format.
fn output_config(output: &OutputSettings, redactor: Redactor) -> Output {
    let human = match output.format {
        OutputFormat::Human => true,
        OutputFormat::Jsonl => false,
        OutputFormat::Auto => std::io::stdout().is_terminal(),
    };
    let stderr = std::io::stderr();
    Output {
        lines: !human,
        verbosity: match output {
            OutputSettings { quiet: true, .. } => Verbosity::Quiet,
            OutputSettings {
                interactive: guided, ..
            } if human || *guided => {
                if stderr.is_terminal() {
                    Verbosity::Bars { guided: *guided }
                } else {
                    Verbosity::Lines
                }
            }
            _ => Verbosity::Brief,
        },
        palette: Palette::new(output.color.choice(&stderr) != ColorChoice::Never),
        log: output.log_format,
        report: output.report.clone(),
        redactor: Arc::new(redactor),
    }
}

/// The exit code with the number in the report.
fn code_of(ending: &RunOutcome, number: u8) -> ExitCode {
    match ending {
        RunOutcome::Done if number == ExitCode::Rejected.code() => ExitCode::Rejected,
        RunOutcome::Done => ExitCode::Done,
        RunOutcome::Left => ExitCode::Done,
        RunOutcome::Stopped(reason) => reason.exit_code(),
        RunOutcome::Failed { exit_code, .. } => *exit_code,
    }
}

/// Records and reports the error that ends the run.
fn failed(stats: &RunStats, reporter: &Reporter, error: &Error) -> RunOutcome {
    record_failure(stats, reporter, error);
    RunOutcome::of(error)
}

/// Records and reports an error. Nothing else does.
fn record_failure(stats: &RunStats, reporter: &Reporter, error: &Error) {
    stats.record_failure(error);
    reporter.say_error(error);
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        tracing::debug!(cause = %next, "because");
        cause = next.source();
    }
}

/// Runs a task and turns a panic into an error.
fn execute(run: &Run<'_>, task: Task<'_>) -> RunOutcome {
    let (reporter, stats, shutdown) = (run.reporter, run.stats, run.shutdown);
    let panic_reporter = Arc::clone(reporter);
    std::panic::set_hook(Box::new(move |panic| {
        // The payload may contain data; the location is enough to find the bug.
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        panic_reporter.say_panic(&place);
    }));
    #[cfg(feature = "tls")]
    // One cryptography provider for all storages. A second installation fails without effect.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    os::bound_allocator();
    os::survive_large_files();
    os::raise_open_files();
    let runtime = limits::check_threads().and_then(|()| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        runtime.map_err(limits::runtime_failed)
    });
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return failed(stats, reporter, &error),
    };
    let outcome = runtime.block_on(async {
        shutdown.listen();
        if let Some(limit) = run.settings.max_duration {
            shutdown.stop_after(limit);
        }
        let executed = async {
            match task {
                Task::Given(route) => run.execute(&route).await,
                Task::Guided(flags, job, own_files) => interactive::guide(run, flags, job, own_files).await,
            }
        };
        AssertUnwindSafe(executed).catch_unwind().await
    });
    let ending = match outcome {
        Ok(Ok(ending)) => ending,
        Ok(Err(error)) => {
            record_failure(stats, reporter, &error);
            RunOutcome::of_run(&error, shutdown.reason())
        }
        Err(_) => failed(stats, reporter, &Error::panicked("the run")),
    };
    if let RunOutcome::Stopped(reason) = ending {
        reporter.say_stopped(reason);
    }
    // Abandoned requests must not delay the exit.
    runtime.shutdown_background();
    ending
}

//! The program around a run: every path out of it ends here, with one report and an exit code.

use std::{
    ffi::OsString,
    io::{IsTerminal, Write},
    panic::AssertUnwindSafe,
    path::Path,
    sync::Arc,
};

use anstream::{AutoStream, ColorChoice};
use futures::FutureExt;

use crate::{
    config::{
        CONFIG_INI, Color, DOT_ENV, Environment, JobFile, Options, OutputFormat, OutputSettings, Parsed,
        parse_args,
    },
    engine::{
        self, checkpoint::Checkpoint, differences::DifferencesFile, hits::Examiner, rejects::RejectsFile,
        run::Run, stats::RunStats,
    },
    interactive,
    model::{Error, ErrorKind, ExitCode, Mode, Redactor, Result, Settings},
    report::{
        self, Event, Output, Palette, Reporter, RunOutcome, RunStarted, TOOL, VERSION, Verbosity,
        WarningEvent, WarningKind, logging, metrics,
    },
    storage::Route,
    system::{limits, os, shutdown::Shutdown},
};

/// Runs the program.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let (flags, read) = match parse_args(arguments.clone()) {
        Ok(Parsed::Text(text)) => {
            let color = Options::output_only(&arguments).color;
            return print(&text, color.unwrap_or_default());
        }
        Ok(Parsed::Flags(flags)) => {
            let read = read_configuration(&flags);
            (*flags, read)
        }
        Err(error) => (Options::output_only(&arguments), Err(error)),
    };
    let (environment, job, unreadable) = match read {
        Ok((environment, job)) => (environment, job, None),
        Err(error) => (Environment::default(), JobFile::default(), Some(error)),
    };
    let mode = Mode::resolve(&flags, &job);
    let mut output = OutputSettings::resolve(&flags, &job);
    let files = output.check_files();
    let shutdown = Shutdown::default();
    let stats = RunStats::new(mode);
    let redactor = Redactor::new(settings_in_reach(&arguments, &flags));
    let reporter = Arc::new(Reporter::new(output_config(&output, redactor), shutdown.clone()));
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
    let task = logging
        .and_then(|()| unreadable.map_or(Ok(()), Err))
        .and_then(|()| Task::resolve(&flags, &job, &environment, output.interactive))
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
    conclude(&output, &stats, &reporter, ending)
}

/// Prints what was asked for instead of a run.
fn print(text: &str, color: Color) -> ExitCode {
    let stdout = std::io::stdout();
    let choice = color.choice(&stdout);
    // Who asked for help and went away does not need it any more.
    let _ = write!(AutoStream::new(stdout, choice), "{text}");
    ExitCode::Done
}

/// Writes metrics and the report of a run that ended so, and gives its exit code.
fn conclude(
    output: &OutputSettings,
    stats: &RunStats,
    reporter: &Reporter,
    mut ending: RunOutcome,
) -> ExitCode {
    if let Some(path) = &output.metrics
        && let Err(error) = metrics::write(path, &stats.report(&ending))
    {
        let failed = failed(stats, reporter, &error);
        if matches!(ending, RunOutcome::Done) {
            ending = failed;
        }
    }
    let report = stats.report(&ending);
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
    let exit_code = report.exit_code;
    match reporter.finish(Box::new(report)) {
        Ok(()) => code_of(&ending, exit_code),
        Err(error) => {
            // The work is done and its report is on standard output; only the file is missing.
            reporter.say_error(&error);
            match code_of(&ending, exit_code) {
                ExitCode::Done => error.exit_code(),
                other => other,
            }
        }
    }
}

fn read_configuration(flags: &Options) -> Result<(Environment, JobFile)> {
    let environment = Environment::read(Path::new("."));
    let job = match &flags.job {
        Some(file) => JobFile::read(file, &environment)?,
        None => JobFile::default(),
    };
    Ok((environment, job))
}

/// Every text that a setting may come from, as it was written: arguments, variables, the lines of the job file and of
/// LightRAG's files. An address with a password may be mistyped into any of them.
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

/// Every text in a job file, names of fields too.
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

/// What can be known to fail is reported before the first request, not after the last one: what a run keeps for later ones
/// cannot be written, a release of LightRAG is not known.
fn check_files(settings: &Settings) -> Result<()> {
    Examiner::of(settings)?;
    settings.rejects.as_deref().map_or(Ok(()), RejectsFile::check)?;
    settings
        .differences
        .as_deref()
        .map_or(Ok(()), DifferencesFile::check)?;
    settings.checkpoint.as_deref().map_or(Ok(()), Checkpoint::check)
}

/// How a run learns from where to where it goes.
enum Task<'a> {
    /// Flags, job file and environment say it.
    Told(Route),
    /// A person is asked for what they leave open.
    Guided(&'a Options, &'a JobFile),
}

impl<'a> Task<'a> {
    fn resolve(
        flags: &'a Options,
        job: &'a JobFile,
        environment: &Environment,
        interactive: bool,
    ) -> Result<(Settings, Self)> {
        let task = if interactive {
            interactive::require_terminal()?;
            Self::Guided(flags, job)
        } else {
            Self::Told(Route::resolve(flags, job, environment)?)
        };
        Ok((Settings::resolve(flags, job, environment)?, task))
    }
}

/// What is told where. A person who is asked is also told, whatever stands on standard output.
fn output_config(output: &OutputSettings, redactor: Redactor) -> Output {
    let human = match output.format {
        OutputFormat::Human => true,
        OutputFormat::Jsonl => false,
        OutputFormat::Auto => std::io::stdout().is_terminal(),
    };
    let stderr = std::io::stderr();
    Output {
        lines: !human,
        voice: match output {
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

/// The report has decided already; this is its number as a code.
fn code_of(ending: &RunOutcome, number: u8) -> ExitCode {
    match ending {
        RunOutcome::Done if number == ExitCode::Rejected.code() => ExitCode::Rejected,
        RunOutcome::Done => ExitCode::Done,
        RunOutcome::Left => ExitCode::Done,
        RunOutcome::Stopped(reason) => reason.exit_code(),
        RunOutcome::Failed { exit_code, .. } => *exit_code,
    }
}

/// What ends the run is recorded and reported.
fn failed(stats: &RunStats, reporter: &Reporter, error: &Error) -> RunOutcome {
    record_failure(stats, reporter, error);
    RunOutcome::of(error)
}

/// The one place where an error is recorded and reported.
fn record_failure(stats: &RunStats, reporter: &Reporter, error: &Error) {
    stats.record_failure(error);
    reporter.say_error(error);
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        tracing::debug!(cause = %next, "because");
        cause = next.source();
    }
}

/// Has glibc keep a little more of what is freed.
///
/// It gives memory back to the system as soon as twice the largest block that was ever freed lies together at the end. With
/// batches of some hundred kilobytes that happens all the time, and the system then clears the same pages again for the
/// next batch. A larger block, freed once and never touched, is what it learns from (`mallopt(3)`, `M_MMAP_THRESHOLD`).
/// Other allocators take no notice.
fn keep_freed_memory() {
    const LARGER_BLOCK: usize = 1 << 20;
    drop(std::hint::black_box(Vec::<u8>::with_capacity(LARGER_BLOCK)));
}

/// Runs a task, and turns a panic into an ending.
fn execute(run: &Run<'_>, task: Task<'_>) -> RunOutcome {
    let (reporter, stats, shutdown) = (run.reporter, run.stats, run.shutdown);
    let teller = Arc::clone(reporter);
    std::panic::set_hook(Box::new(move |panic| {
        // The payload may repeat data; the place is enough to find it.
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        teller.say_panic(&place);
    }));
    #[cfg(feature = "tls")]
    // One implementation of cryptography for all storages. A second installation is refused, and changes nothing.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    keep_freed_memory();
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
                Task::Told(route) => run.execute(&route).await,
                Task::Guided(flags, job) => interactive::guide(run, flags, job).await,
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
        Err(_) => failed(
            stats,
            reporter,
            &Error::new(ErrorKind::Internal, "the run panicked"),
        ),
    };
    if let RunOutcome::Stopped(reason) = ending {
        reporter.say_stopped(reason);
    }
    // Requests that nobody waits for any more must not hold the process back.
    runtime.shutdown_background();
    ending
}

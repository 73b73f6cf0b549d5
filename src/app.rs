//! The program around a run: every path out of it ends here, with one report and an exit code.

use std::{
    ffi::OsString,
    io::{IsTerminal, Write},
    panic::AssertUnwindSafe,
    path::Path,
    sync::Arc,
};

use futures::FutureExt;

use crate::{
    checkpoint::Checkpoint,
    config::{Args, Environment, JobFile, Mode, OutputFormat, OutputSettings, Parsed, Settings, parse_args},
    error::{Error, ErrorKind, Result},
    exit::ExitCode,
    logging::{self, LogFormat},
    rejects::RejectsFile,
    report::{self, Ending, Event, Format, Ledger, Reporter, RunStarted, TOOL, VERSION, metrics},
    run::Run,
    shutdown::{Shutdown, StopReason},
};

/// Runs the program.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let (args, read) = match parse_args(arguments.clone()) {
        Ok(Parsed::Text(text)) => {
            // Who asked for help and went away does not need it any more.
            let _ = write!(std::io::stdout(), "{text}");
            return ExitCode::Done;
        }
        Ok(Parsed::Args(args)) => {
            let read = read_configuration(&args);
            (*args, read)
        }
        Err(error) => (Args::output_only(&arguments), Err(error)),
    };
    let no_job = JobFile::default();
    let job = read.as_ref().map_or(&no_job, |(_, job)| job);
    let mode = Mode::resolve(&args, job);
    let mut output = OutputSettings::resolve(&args, job);
    let files = output.check_files();
    let shutdown = Shutdown::default();
    let ledger = Ledger::new(mode);
    let reporter = Arc::new(Reporter::new(
        format(&output),
        output.quiet,
        output.log_format,
        output.report.clone(),
        shutdown.clone(),
    ));
    reporter.emit(Event::RunStarted(RunStarted {
        tool: TOOL.to_owned(),
        version: VERSION.to_owned(),
        pid: std::process::id(),
        mode,
    }));
    let logging = logging::init(output.log_format, output.log_level.as_deref(), output.quiet);
    tracing::info!(run_id = %reporter.run_id(), version = VERSION, mode = report::word(&mode), "run started");
    let settings = logging
        .and(read)
        .and_then(|(environment, job)| Settings::resolve(&args, &job, &environment))
        .and_then(|settings| files.and_then(|()| check_files(&settings)).map(|()| settings));
    let mut ending = match settings {
        Err(error) => {
            ledger.entries().errors.fatal(None, &error, 0);
            tell(&reporter, &error);
            Ending::of(&error)
        }
        Ok(settings) => execute(&settings, output.log_format, &reporter, &ledger, &shutdown),
    };
    if let Some(path) = &output.metrics
        && let Err(error) = metrics::write(path, &ledger.report(&ending))
    {
        ledger.entries().errors.fatal(None, &error, 0);
        tell(&reporter, &error);
        if matches!(ending, Ending::Done) {
            ending = Ending::of(&error);
        }
    }
    let report = ledger.report(&ending);
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

fn read_configuration(args: &Args) -> Result<(Environment, JobFile)> {
    let environment = Environment::read(Path::new("."))?;
    let job = match &args.job {
        Some(file) => JobFile::read(file, &environment)?,
        None => JobFile::default(),
    };
    Ok((environment, job))
}

/// What a run keeps for later ones can be written: told before the first request, not after the last one.
fn check_files(settings: &Settings) -> Result<()> {
    settings.rejects.as_deref().map_or(Ok(()), RejectsFile::check)?;
    settings.checkpoint.as_deref().map_or(Ok(()), Checkpoint::check)
}

fn format(output: &OutputSettings) -> Format {
    let human = match output.format {
        OutputFormat::Human => true,
        OutputFormat::Jsonl => false,
        OutputFormat::Auto => std::io::stdout().is_terminal(),
    };
    if human {
        Format::Human { quiet: output.quiet }
    } else {
        Format::Jsonl
    }
}

/// The report has decided already; this is its number as a code.
fn code_of(ending: &Ending, number: u8) -> ExitCode {
    match ending {
        Ending::Done if number == ExitCode::Rejected.code() => ExitCode::Rejected,
        Ending::Done => ExitCode::Done,
        Ending::Stopped(reason) => reason.exit_code(),
        Ending::Failed { exit_code, .. } => *exit_code,
    }
}

fn tell(reporter: &Reporter, error: &Error) {
    reporter.say_error(error);
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        tracing::debug!(cause = %next, "because");
        cause = next.source();
    }
}

/// Runs what the settings say, and turns a panic into an ending.
fn execute(
    settings: &Settings,
    log_format: LogFormat,
    reporter: &Arc<Reporter>,
    ledger: &Ledger,
    shutdown: &Shutdown,
) -> Ending {
    std::panic::set_hook(Box::new(move |panic| {
        // The payload may repeat data; the place is enough to find it.
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        match log_format {
            LogFormat::Text => drop(writeln!(std::io::stderr(), "error: internal error at {place}")),
            LogFormat::Json => tracing::error!(place, "internal error"),
        }
    }));
    // One implementation of cryptography for all five storages. A second installation is refused, and changes nothing.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let error = Error::new(ErrorKind::Internal, format!("cannot start threads: {error}"));
            ledger.entries().errors.fatal(None, &error, 0);
            tell(reporter, &error);
            return Ending::of(&error);
        }
    };
    let run = Run {
        settings,
        reporter,
        ledger,
        shutdown,
    };
    let outcome = runtime.block_on(async {
        shutdown.listen();
        if let Some(limit) = settings.max_duration {
            shutdown.stop_after(limit);
        }
        AssertUnwindSafe(run.execute()).catch_unwind().await
    });
    let ending = match outcome {
        Ok(Ok(None)) => Ending::Done,
        Ok(Ok(Some(reason))) => {
            if reason != StopReason::OutputClosed {
                reporter.say(&format!("stopped: {}", reason.as_str()));
            }
            Ending::Stopped(reason)
        }
        Ok(Err(error)) => {
            tell(reporter, &error);
            Ending::of(&error)
        }
        Err(_) => {
            let error = Error::new(ErrorKind::Internal, "the run panicked");
            ledger.entries().errors.fatal(None, &error, 0);
            tell(reporter, &error);
            Ending::of(&error)
        }
    };
    // Requests that nobody waits for any more must not hold the process back.
    runtime.shutdown_background();
    ending
}

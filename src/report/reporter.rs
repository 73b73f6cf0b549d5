//! Emits events: as JSON lines on standard output, as text on standard error, and the report to its file.

use std::{
    borrow::Cow,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use uuid::Uuid;

use super::{
    Envelope, Event, SCHEMA_VERSION,
    human::{Human, Stderr, Verbosity, message_of},
    style::{Palette, terminal_width, wrap},
};
use crate::{
    model::{Error, ErrorKind, Redactor, Result, Side, Workspace},
    report::logging::LogFormat,
    system::{
        atomic_file,
        shutdown::{Shutdown, StopReason},
    },
};

/// Numbers and emits the events of one run. Tasks can share it: lines are never interleaved.
pub struct Reporter {
    run_id: Uuid,
    output: Output,
    stderr: Stderr,
    shutdown: Shutdown,
    state: Mutex<State>,
    #[cfg(test)]
    observer: Option<Observer>,
}

#[cfg(test)]
pub(crate) type Observer = Box<dyn Fn(&Event) + Send + Sync>;

/// What is printed where.
#[derive(Clone, Debug)]
pub struct Output {
    /// Whether events are printed on standard output, as JSON lines.
    pub lines: bool,
    /// How much is printed on standard error.
    pub verbosity: Verbosity,
    /// The colours of text on standard error.
    pub palette: Palette,
    /// The format of logs on standard error. If it is JSON, errors are logged as well instead of being printed as text.
    pub log: LogFormat,
    /// The file for the report.
    pub report: Option<PathBuf>,
    /// Removes secrets from all output.
    pub redactor: Arc<Redactor>,
}

struct State {
    next_seq: u64,
    output_open: bool,
    reported: bool,
    /// Files that are not written at the end.
    withheld: Vec<PathBuf>,
    human: Human,
}

impl Reporter {
    /// Starts a run. If the reader of standard output closes it, `shutdown` stops the run.
    pub fn new(output: Output, shutdown: Shutdown) -> Self {
        let (human, stderr) = Human::new(output.verbosity, output.palette, Arc::clone(&output.redactor));
        Self {
            run_id: Uuid::now_v7(),
            output,
            stderr,
            shutdown,
            state: Mutex::new(State {
                next_seq: 0,
                output_open: true,
                reported: false,
                withheld: Vec::new(),
                human,
            }),
            #[cfg(test)]
            observer: None,
        }
    }

    /// A reporter that prints nothing and passes its events to an observer.
    #[cfg(test)]
    pub(crate) fn observed(shutdown: Shutdown, observer: Observer) -> Self {
        let output = Output {
            lines: false,
            verbosity: Verbosity::Quiet,
            palette: Palette::new(false),
            log: LogFormat::Text,
            report: None,
            redactor: Arc::default(),
        };
        Self {
            observer: Some(observer),
            ..Self::new(output, shutdown)
        }
    }

    /// Writes it to the outputs that the user chose, with the next sequence number.
    pub fn emit(&self, event: Event) {
        self.emit_numbered(&event);
        #[cfg(test)]
        if let Some(observer) = &self.observer {
            observer(&event);
        }
    }

    /// Emits the report. A second report is dropped, so that no way to exit prints two.
    ///
    /// # Errors
    /// The report file could not be written.
    pub fn finish(&self, report: Box<super::Report>) -> Result<()> {
        if std::mem::replace(&mut self.state().reported, true) {
            return Ok(());
        }
        if matches!(self.output.verbosity, Verbosity::Quiet | Verbosity::Brief)
            && let Some((what, remedy)) = report.shortfall()
        {
            // With errors only, explain why the exit code is not 0.
            self.print_failure(&what, Some(remedy));
        }
        let event = Event::Report(report);
        let line = self.emit_numbered(&event);
        match &self.output.report {
            Some(path) if !self.withholds(path) => atomic_file::replace(path, &line).map_err(|error| {
                let message = format!("--report: cannot write {}: {error}", path.display());
                Error::new(ErrorKind::Config, message)
            }),
            _ => Ok(()),
        }
    }

    /// Keeps a file from being written at the end, since it would replace another file that the run uses.
    pub fn withhold(&self, file: &Path) {
        self.state().withheld.push(file.to_owned());
    }

    /// Whether a file must not be written at the end.
    pub fn withholds(&self, file: &Path) -> bool {
        self.state().withheld.iter().any(|withheld| withheld == file)
    }

    /// The ID of the run: a UUID, version 7.
    pub fn run_id(&self) -> Uuid {
        self.run_id
    }

    /// Shows the progress of a count on a terminal. This is not an event and can be called often.
    pub fn counting(&self, side: Side, workspace: &Workspace, scanned: u64) {
        self.state().human.counting(side, workspace, scanned);
    }

    /// The colours of text on standard error.
    pub fn palette(&self) -> Palette {
        self.output.palette
    }

    /// Standard error, for other code that writes to it.
    pub fn stderr(&self) -> Stderr {
        self.stderr.clone()
    }

    /// Prints why a run stopped, unless the report as text does.
    pub fn say_stopped(&self, reason: StopReason) {
        if self.output.verbosity != Verbosity::Brief || reason == StopReason::OutputClosed {
            return;
        }
        if self.output.log == LogFormat::Json {
            tracing::warn!("stopped: {}", reason.as_str());
        } else {
            self.stderr.line(&format!("stopped: {}", reason.as_str()));
        }
    }

    /// Logs a warning that ends up after the run, where it is not printed as text anyway.
    pub fn log_warning(&self, text: &str) {
        if self.output.verbosity == Verbosity::Brief || self.output.log == LogFormat::Json {
            tracing::warn!("{text}");
        }
    }

    /// Prints a sentence, unless only errors are wanted.
    pub fn say(&self, text: &str) {
        if self.output.verbosity != Verbosity::Quiet {
            self.stderr.line(text);
        }
    }

    /// Prints an error and its remedy.
    pub fn say_error(&self, error: &Error) {
        if self.output.log == LogFormat::Json {
            tracing::error!(
                kind = error.kind().as_str(),
                exit_code = error.exit_code().code(),
                remedy = error.remedy(),
                "{error}"
            );
        } else {
            self.print_failure(&error.to_string(), error.remedy());
        }
    }

    /// Prints where the program panicked.
    pub fn say_panic(&self, place: &str) {
        if self.output.log == LogFormat::Json {
            tracing::error!(place, "internal error");
        } else {
            self.stderr.line(&format!("error: internal error at {place}"));
        }
    }

    fn print_failure(&self, what: &str, remedy: Option<&str>) {
        if self.output.log == LogFormat::Json {
            tracing::error!(remedy, "{what}");
            return;
        }
        self.state().human.clear();
        let error = self.output.palette.bad("error:");
        self.stderr.line(
            &self
                .fitted(&format!("error: {what}"), "")
                .replacen("error:", &error, 1),
        );
        if let Some(remedy) = remedy {
            let remedy = self.fitted(&format!("what to do: {remedy}"), "  ");
            self.stderr.line(&format!("  {remedy}"));
        }
    }

    /// Wraps text to the width of a terminal; elsewhere lines are not wrapped.
    fn fitted(&self, text: &str, indent: &str) -> String {
        match self.output.verbosity {
            // A secret must be redacted before a line break can split it.
            Verbosity::Bars { .. } => wrap(&self.output.redactor.redact(text), terminal_width(), indent),
            _ => text.to_owned(),
        }
    }

    fn emit_numbered(&self, event: &Event) -> Vec<u8> {
        let mut state = self.state();
        let envelope = Envelope {
            schema_version: SCHEMA_VERSION,
            seq: state.next_seq,
            ts: timestamp(Timestamp::now()),
            run_id: self.run_id.to_string(),
            message: message_of(event),
            event,
        };
        state.next_seq += 1;
        let mut line = self.redacted(&envelope);
        line.push(b'\n');
        if self.output.lines {
            self.write_stdout(&mut state, &line);
        }
        state.human.print(event);
        line
    }

    /// An event as a line of JSON.
    fn redacted(&self, envelope: &Envelope<'_>) -> Vec<u8> {
        // Events consist of strings and numbers, which can always be serialized.
        let line = serde_json::to_string(envelope).unwrap_or_default();
        match self.output.redactor.redact_json(&line) {
            Cow::Borrowed(_) => line.into_bytes(),
            Cow::Owned(redacted) => redacted.into_bytes(),
        }
    }

    fn write_stdout(&self, state: &mut State, line: &[u8]) {
        if !state.output_open {
            return;
        }
        let mut stdout = io::stdout().lock();
        if let Err(error) = stdout.write_all(line).and_then(|()| stdout.flush()) {
            state.output_open = false;
            self.shutdown.stop(StopReason::OutputClosed);
            tracing::debug!(%error, "standard output is closed");
        }
    }

    /// A panic while the lock is held leaves the state valid.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A time in the format of events: RFC 3339, UTC, milliseconds.
pub(crate) fn timestamp(moment: Timestamp) -> String {
    format!("{moment:.3}")
}

//! Where events go: standard output as JSON lines, or standard error in words, and the report to its file.

use std::{
    io::{self, Write},
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use uuid::Uuid;

use super::{Envelope, Event, SCHEMA_VERSION, human};
use crate::{
    atomic_file,
    error::{Error, ErrorKind, Result},
    logging::LogFormat,
    shutdown::{Shutdown, StopReason},
};

/// How events are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON lines on standard output.
    Jsonl,
    /// Words on standard error.
    Human {
        /// Errors alone.
        quiet: bool,
    },
}

/// Numbers the events of one run and tells them. Safe to share between tasks; lines never mix.
pub struct Reporter {
    run_id: Uuid,
    format: Format,
    quiet: bool,
    log_format: LogFormat,
    report_file: Option<PathBuf>,
    shutdown: Shutdown,
    state: Mutex<State>,
}

struct State {
    next_seq: u64,
    output_open: bool,
    reported: bool,
}

impl Reporter {
    /// Begins a run. When standard output is closed by its reader, `shutdown` is asked to stop the run.
    pub fn new(
        format: Format,
        quiet: bool,
        log_format: LogFormat,
        report_file: Option<PathBuf>,
        shutdown: Shutdown,
    ) -> Self {
        Self {
            run_id: Uuid::now_v7(),
            format,
            quiet,
            log_format,
            report_file,
            shutdown,
            state: Mutex::new(State {
                next_seq: 0,
                output_open: true,
                reported: false,
            }),
        }
    }

    /// Tells an event.
    pub fn emit(&self, event: Event) {
        self.emit_numbered(&event);
    }

    /// Tells the report, once: a second one is dropped, so that no path out can print two.
    ///
    /// # Errors
    /// The report's file could not be written.
    pub fn finish(&self, report: Box<super::Report>) -> Result<()> {
        if std::mem::replace(&mut self.state().reported, true) {
            return Ok(());
        }
        let event = Event::Report(report);
        let line = self.emit_numbered(&event);
        match &self.report_file {
            Some(path) => atomic_file::replace(path, &line).map_err(|error| {
                let message = format!("--report: cannot write {}: {error}", path.display());
                Error::new(ErrorKind::Config, message)
            }),
            None => Ok(()),
        }
    }

    /// Whether the report was told.
    pub fn is_finished(&self) -> bool {
        self.state().reported
    }

    /// The run: a UUID, version 7.
    pub fn run_id(&self) -> Uuid {
        self.run_id
    }

    /// Says a sentence to a person, unless only errors are wanted. Logs in JSON leave no room for words beside them.
    pub fn say(&self, text: &str) {
        if self.log_format == LogFormat::Json {
            tracing::warn!("{text}");
        } else if !self.quiet {
            write_stderr(text);
        }
    }

    /// Tells a person of an error and what to do about it.
    pub fn say_error(&self, error: &Error) {
        if self.log_format == LogFormat::Json {
            tracing::error!(
                kind = error.kind().as_str(),
                exit_code = error.exit_code().code(),
                remedy = error.remedy(),
                "{error}"
            );
            return;
        }
        write_stderr(&format!("error: {error}"));
        if let Some(remedy) = error.remedy() {
            write_stderr(&format!("  what to do: {remedy}"));
        }
    }

    fn emit_numbered(&self, event: &Event) -> Vec<u8> {
        let mut state = self.state();
        let envelope = Envelope {
            schema_version: SCHEMA_VERSION,
            seq: state.next_seq,
            ts: timestamp(Timestamp::now()),
            run_id: self.run_id.to_string(),
            event,
        };
        state.next_seq += 1;
        // Every event is made of texts and numbers, which always have a JSON form.
        let mut line = serde_json::to_vec(&envelope).unwrap_or_default();
        line.push(b'\n');
        match self.format {
            Format::Jsonl => self.write_stdout(&mut state, &line),
            Format::Human { quiet } => {
                if let Some(text) = human::text(event, quiet) {
                    write_stderr(&text);
                }
            }
        }
        line
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

    /// A panic while the lock was held leaves numbers that are still right.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A moment as events carry it: RFC 3339, UTC, milliseconds.
pub(crate) fn timestamp(moment: Timestamp) -> String {
    format!("{moment:.3}")
}

/// A closed standard error is nothing to stop for: there is nobody left to tell.
fn write_stderr(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = writeln!(stderr, "{text}");
}

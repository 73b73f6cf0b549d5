//! Where events go: standard output as JSON lines, or standard error in words, and the report to its file.

use std::{
    io::{self, Write},
    path::PathBuf,
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

/// Numbers the events of one run and tells them. Safe to share between tasks; lines never mix.
pub struct Reporter {
    run_id: Uuid,
    output: Output,
    stderr: Stderr,
    shutdown: Shutdown,
    state: Mutex<State>,
    /// Sees every event, in tests.
    #[cfg(test)]
    observer: Option<Observer>,
}

/// What sees every event.
#[cfg(test)]
pub(crate) type Observer = Box<dyn Fn(&Event) + Send + Sync>;

/// What is told where.
#[derive(Clone, Debug)]
pub struct Output {
    /// Whether events stand on standard output, as JSON lines.
    pub lines: bool,
    /// What is said on standard error.
    pub voice: Verbosity,
    /// The colours of that.
    pub palette: Palette,
    /// How logs are written there. Logs in JSON leave no room for words beside them.
    pub log: LogFormat,
    /// The file for the report.
    pub report: Option<PathBuf>,
    /// Keeps secrets out of all of it.
    pub redactor: Arc<Redactor>,
}

struct State {
    next_seq: u64,
    output_open: bool,
    reported: bool,
    human: Human,
}

impl Reporter {
    /// Begins a run. When standard output is closed by its reader, `shutdown` is asked to stop the run.
    pub fn new(output: Output, shutdown: Shutdown) -> Self {
        let (human, stderr) = Human::new(output.voice, output.palette, Arc::clone(&output.redactor));
        Self {
            run_id: Uuid::now_v7(),
            output,
            stderr,
            shutdown,
            state: Mutex::new(State {
                next_seq: 0,
                output_open: true,
                reported: false,
                human,
            }),
            #[cfg(test)]
            observer: None,
        }
    }

    /// A reporter that prints nothing, and shows its events to an observer.
    #[cfg(test)]
    pub(crate) fn observed(shutdown: Shutdown, observer: Observer) -> Self {
        let output = Output {
            lines: false,
            voice: Verbosity::Quiet,
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

    /// Tells an event.
    pub fn emit(&self, event: Event) {
        self.emit_numbered(&event);
        #[cfg(test)]
        if let Some(observer) = &self.observer {
            observer(&event);
        }
    }

    /// Tells the report, once: a second one is dropped, so that no path out can print two.
    ///
    /// # Errors
    /// The report's file could not be written.
    pub fn finish(&self, report: Box<super::Report>) -> Result<()> {
        if std::mem::replace(&mut self.state().reported, true) {
            return Ok(());
        }
        if matches!(self.output.voice, Verbosity::Quiet | Verbosity::Brief)
            && let Some((what, remedy)) = report.dropped_fields()
        {
            // Whoever hears of errors alone must hear why the exit code is not 0.
            self.say_bad(&what, Some(remedy));
        }
        let event = Event::Report(report);
        let line = self.emit_numbered(&event);
        match &self.output.report {
            Some(path) => atomic_file::replace(path, &line).map_err(|error| {
                let message = format!("--report: cannot write {}: {error}", path.display());
                Error::new(ErrorKind::Config, message)
            }),
            None => Ok(()),
        }
    }

    /// The run: a UUID, version 7.
    pub fn run_id(&self) -> Uuid {
        self.run_id
    }

    /// Shows a person how far a count is. It is no event, and may be called as often as there is something new.
    pub fn counting(&self, side: Side, workspace: &Workspace, scanned: u64) {
        self.state().human.counting(side, workspace, scanned);
    }

    /// The colours of what is said to a person.
    pub fn palette(&self) -> Palette {
        self.output.palette
    }

    /// Standard error, for whoever else writes to it.
    pub fn stderr(&self) -> Stderr {
        self.stderr.clone()
    }

    /// Says why a run stopped, where no report in words does.
    pub fn say_stopped(&self, reason: StopReason) {
        if self.output.voice != Verbosity::Brief || reason == StopReason::OutputClosed {
            return;
        }
        if self.output.log == LogFormat::Json {
            tracing::warn!("stopped: {}", reason.as_str());
        } else {
            self.stderr.line(&format!("stopped: {}", reason.as_str()));
        }
    }

    /// Says a sentence to a person, unless only errors are wanted.
    pub fn say(&self, text: &str) {
        if self.output.voice != Verbosity::Quiet {
            self.stderr.line(text);
        }
    }

    /// Tells a person of an error and what to do about it.
    pub fn say_error(&self, error: &Error) {
        if self.output.log == LogFormat::Json {
            tracing::error!(
                kind = error.kind().as_str(),
                exit_code = error.exit_code().code(),
                remedy = error.remedy(),
                "{error}"
            );
        } else {
            self.say_bad(&error.to_string(), error.remedy());
        }
    }

    /// Tells a person of a panic, of which no more is known than the place.
    pub fn say_panic(&self, place: &str) {
        if self.output.log == LogFormat::Json {
            tracing::error!(place, "internal error");
        } else {
            self.stderr.line(&format!("error: internal error at {place}"));
        }
    }

    fn say_bad(&self, what: &str, remedy: Option<&str>) {
        if self.output.log == LogFormat::Json {
            tracing::error!(remedy, "{what}");
            return;
        }
        self.state().human.pause();
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

    /// At a terminal, lines that fit into it; elsewhere whoever reads decides on breaks.
    fn fitted(&self, text: &str, indent: &str) -> String {
        match self.output.voice {
            // A word that holds a secret must not be broken before it is recognized.
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
        state.human.tell(event);
        line
    }

    /// An event as a line of JSON. Only the few that might hold a secret are taken apart once more.
    fn redacted(&self, envelope: &Envelope<'_>) -> Vec<u8> {
        // Every event is made of texts and numbers, which always have a JSON form.
        let line = serde_json::to_string(envelope).unwrap_or_default();
        if !self.output.redactor.may_redact(&line) {
            return line.into_bytes();
        }
        let Ok(mut value) = serde_json::from_str(&line) else {
            return line.into_bytes();
        };
        self.output.redactor.redact_json(&mut value);
        value.to_string().into_bytes()
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

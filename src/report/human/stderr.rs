//! Standard error, shared by progress bars, messages and logs.

use std::{
    borrow::Cow,
    io::{self, Write},
    sync::Arc,
};

use indicatif::{MultiProgress, ProgressDrawTarget};
use tracing_subscriber::fmt::MakeWriter;

use crate::model::Redactor;

/// Standard error with secrets redacted. Other output is written above the progress bars.
#[derive(Clone)]
pub struct Stderr {
    bars: Option<MultiProgress>,
    redactor: Arc<Redactor>,
}

/// How often bars are drawn, in hertz.
const DRAWS: u8 = 10;

impl Stderr {
    /// Without bars.
    pub fn plain(redactor: Arc<Redactor>) -> Self {
        Self { bars: None, redactor }
    }

    pub(super) fn with_bars(redactor: Arc<Redactor>) -> Self {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(DRAWS));
        Self {
            bars: Some(bars),
            redactor,
        }
    }

    pub(super) fn bars(&self) -> Option<&MultiProgress> {
        self.bars.as_ref()
    }

    /// Writes a line. Errors are ignored: if standard error is closed, they cannot be reported either.
    pub fn line(&self, text: &str) {
        self.write_all_of(format!("{text}\n").as_bytes());
    }

    /// Redacts secrets.
    pub(super) fn redacted<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.redactor.redact(text)
    }

    fn write_all_of(&self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        let redacted = self.redactor.redact(&text);
        let bytes = match &redacted {
            Cow::Borrowed(_) => bytes,
            Cow::Owned(text) => text.as_bytes(),
        };
        let write = || {
            let _ = io::stderr().lock().write_all(bytes);
        };
        match &self.bars {
            Some(bars) => bars.suspend(write),
            None => write(),
        }
    }
}

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all_of(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

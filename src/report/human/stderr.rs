//! Standard error, which bars, sentences and logs share.

use std::io::{self, Write};

use indicatif::{MultiProgress, ProgressDrawTarget};
use tracing_subscriber::fmt::MakeWriter;

/// Standard error. Where bars are drawn, whatever else is written takes their place and they move down.
#[derive(Clone)]
pub struct Stderr {
    bars: Option<MultiProgress>,
}

/// How often bars are drawn, in Hertz.
const DRAWS: u8 = 10;

impl Stderr {
    /// Without bars.
    pub fn plain() -> Self {
        Self { bars: None }
    }

    pub(super) fn with_bars() -> Self {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(DRAWS));
        Self { bars: Some(bars) }
    }

    pub(super) fn bars(&self) -> Option<&MultiProgress> {
        self.bars.as_ref()
    }

    /// Writes a text and a line's end. A closed standard error is nothing to stop for: there is nobody left to tell.
    pub fn line(&self, text: &str) {
        self.write_all_of(format!("{text}\n").as_bytes());
    }

    fn write_all_of(&self, bytes: &[u8]) {
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

//! Events in words, on standard error.
//!
//! * `lines`: one line after the other, for logs and mails.
//! * `bars`: at a terminal: what goes on stands in a place of its own, what happened above it.
//! * `hits`: what LightRAG will find, for `summary`.
//! * `phrases`: an event in a line, for both.
//! * `summary`: the report, for both.
//! * `stderr`: standard error itself, shared with the logs.

mod bars;
mod hits;
mod lines;
mod phrases;
mod stderr;
mod summary;

pub(crate) use hits::sentence as hits_sentence;
pub(super) use phrases::message as message_of;
pub use stderr::Stderr;

use self::{bars::Bars, lines::Lines};
use std::sync::Arc;

use super::{Event, Palette, style::terminal_width};
use crate::model::{Redactor, Side, Workspace};

/// How much is said on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Errors.
    Quiet,
    /// Errors, and why a run stopped.
    Brief,
    /// What happens, line by line.
    Lines,
    /// What happens, at a terminal.
    Bars {
        /// Whether a person was asked, who has seen plan and counts then.
        guided: bool,
    },
}

/// Tells events in words.
pub(super) enum Human {
    Silent,
    Lines(Lines),
    Bars(Box<Bars>),
}

impl Human {
    /// Tells in this voice.
    pub(super) fn new(voice: Verbosity, palette: Palette, redactor: Arc<Redactor>) -> (Self, Stderr) {
        match voice {
            Verbosity::Quiet | Verbosity::Brief => (Self::Silent, Stderr::plain(redactor)),
            Verbosity::Lines => {
                let stderr = Stderr::plain(redactor);
                (Self::Lines(Lines::new(stderr.clone(), palette)), stderr)
            }
            Verbosity::Bars { guided } => {
                let stderr = Stderr::with_bars(redactor);
                let bars = Bars::new(stderr.clone(), palette, terminal_width(), guided);
                (Self::Bars(Box::new(bars)), stderr)
            }
        }
    }

    /// Tells an event.
    pub(super) fn tell(&mut self, event: &Event) {
        match self {
            Self::Silent => {}
            Self::Lines(lines) => lines.tell(event),
            Self::Bars(bars) => bars.tell(event),
        }
    }

    /// Shows how far a count is, more often than an event tells it.
    pub(super) fn counting(&mut self, side: Side, workspace: &Workspace, scanned: u64) {
        if let Self::Bars(bars) = self {
            bars.counting(side, workspace, scanned);
        }
    }

    /// Takes away what shows that something goes on.
    pub(super) fn pause(&mut self) {
        if let Self::Bars(bars) = self {
            bars.clear();
        }
    }
}

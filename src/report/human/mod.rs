//! Human-readable output on standard error.
//!
//! * `lines`: one line per event, for logs and mails.
//! * `bars`: progress bars on a terminal, with results above them.
//! * `phrases`: each event as one sentence, for both.
//! * `summary`: the report, for both.
//! * `hits`: which records LightRAG will find, for `summary`.
//! * `workspaces`: a line for each workspace, or sums of many.
//! * `table`: the workspaces of a run, for `summary` and guided mode.
//! * `stderr`: standard error itself, shared with the logs.

mod bars;
mod hits;
mod lines;
mod phrases;
mod stderr;
mod summary;
mod table;
mod workspaces;

pub(crate) use hits::sentence as hits_sentence;
pub(super) use phrases::message as message_of;
pub use stderr::Stderr;
pub(crate) use table::{Row, pair_name, table};

use self::{bars::Bars, lines::Lines};
use std::sync::Arc;

use super::{Event, Palette, style::terminal_width};
use crate::model::{Redactor, Side, Workspace};

/// How much is printed on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Errors only.
    Quiet,
    /// Errors, and the reason why a run stopped.
    Brief,
    /// One line per event.
    Lines,
    /// Progress bars, for a terminal.
    Bars {
        /// Whether the run is interactive: the user has seen plan and counts already.
        guided: bool,
    },
}

/// Prints events as text.
pub(super) enum Human {
    Silent,
    Lines(Lines),
    Bars(Box<Bars>),
}

impl Human {
    pub(super) fn new(verbosity: Verbosity, palette: Palette, redactor: Arc<Redactor>) -> (Self, Stderr) {
        match verbosity {
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

    pub(super) fn print(&mut self, event: &Event) {
        match self {
            Self::Silent => {}
            Self::Lines(lines) => lines.print(event),
            Self::Bars(bars) => bars.print(event),
        }
    }

    /// Shows the progress of a count. Called more often than events are emitted.
    pub(super) fn counting(&mut self, side: Side, workspace: &Workspace, scanned: u64) {
        if let Self::Bars(bars) = self {
            bars.counting(side, workspace, scanned);
        }
    }

    /// Removes the progress bar.
    pub(super) fn clear(&mut self) {
        if let Self::Bars(bars) = self {
            bars.clear();
        }
    }
}

//! Faults, and when they happen.

use std::time::Duration;

use crate::model::ErrorKind;

/// What can be asked of a storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Call {
    Connect,
    Workspaces,
    Count,
    Page,
    Get,
    Prepare,
    Size,
    Write,
    Flush,
    Finish,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It fails, and nothing was done.
    Before(ErrorKind),
    /// It is done, and fails: the answer is lost.
    After(ErrorKind),
    /// The connection is cut half way: half of the records are written, and it fails.
    Half(ErrorKind),
    /// It never answers, and nothing was done.
    Hold,
    /// It is done, and never answers.
    HoldAfter,
    /// It takes so much longer.
    Slow(Duration),
    /// A bug in the storage.
    Panic,
}

/// A fault, at some of the calls of one kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Script {
    pub(crate) call: Call,
    /// The first call that has it, from 1.
    pub(crate) from: usize,
    /// How many in a row have it.
    pub(crate) times: usize,
    pub(crate) fault: Fault,
}

impl Script {
    pub(super) fn is_for(&self, call: Call, number: usize) -> bool {
        self.call == call && (self.from..self.from.saturating_add(self.times)).contains(&number)
    }
}

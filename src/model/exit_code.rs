//! Exit codes.

/// The exit code of a run. Codes are added, never changed: scripts rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Success, even if there was nothing to do.
    Done = 0,
    /// An internal error: a bug.
    Internal = 1,
    /// Usage or configuration error, or `--yes` is missing.
    Usage = 2,
    /// Finished, but some records were rejected or could not be read.
    Rejected = 3,
    /// The source failed: unreachable, refused the login, unreadable; or a report to merge is missing.
    Source = 4,
    /// The target failed: unreachable, refused the login or a write, or already has a record (`--on-conflict fail`).
    Target = 5,
    /// Verification found differences.
    Differences = 6,
    /// Stopped at `--max-errors`.
    MaxErrors = 7,
    /// Stopped at `--max-duration`; can be resumed.
    MaxDuration = 8,
    /// The workspace does not exist in the source, or there is nothing to migrate (`--fail-on-empty`).
    Empty = 9,
    /// Refused by a check before the first write.
    Refused = 10,
    /// The checkpoint cannot be used: it belongs to another job, is in use by another run, or cannot be read or written.
    Checkpoint = 11,
    /// Interrupted by SIGINT.
    Interrupted = 130,
    /// The reader of standard output closed it (SIGPIPE).
    OutputClosed = 141,
    /// Terminated by SIGTERM.
    Terminated = 143,
}

impl ExitCode {
    /// The number.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.code())
    }
}

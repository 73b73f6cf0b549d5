//! Errors: a kind, a message, the context, and a remedy.
//!
//! [`ErrorKind`] defines for each kind its name in reports, whether to retry, the exit code and the default remedy.

use std::{error::Error as StdError, fmt};

use serde::{Deserialize, Serialize};

use super::{ExitCode, Workspace};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// One of the two ends of a migration.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The storage that is read.
    Source,
    /// The storage that is written.
    Target,
}

impl Side {
    /// The flag that names the storage of this side.
    pub const fn flag(self) -> &'static str {
        match self {
            Self::Source => "--source",
            Self::Target => "--target",
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Target => "target",
        })
    }
}

/// Whether the same call may succeed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It fails again until something is changed.
    Permanent,
    /// It may succeed when retried.
    Temporary,
}

/// What went wrong, and with it whether a retry can help and which exit code it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorKind {
    /// The command line is invalid.
    Usage,
    /// A setting is invalid or missing.
    Config,
    /// The plan was not confirmed.
    NotConfirmed,
    /// No connection to the server.
    Unreachable,
    /// An established connection was lost.
    ConnectionLost,
    /// The TLS handshake failed, or the certificate is not trusted.
    Tls,
    /// The server refused user or password.
    Login,
    /// The login lacks a permission.
    Permission,
    /// A database, table, index or file does not exist.
    NotFound,
    /// No answer within the time limit.
    Timeout,
    /// The server asks to come back later: overloaded, starting, failing over.
    Busy,
    /// The content of the storage cannot be read as a cache.
    Damaged,
    /// The source returned fewer records than were counted.
    Incomplete,
    /// The target refused the content of a batch; splitting it isolates the offending records.
    BatchRefused,
    /// A request is larger than the server accepts; a smaller batch may pass.
    RequestTooLarge,
    /// The disk or the memory of the target is full, or it is read-only.
    Full,
    /// A file could not be read or written.
    Io,
    /// The server answered with an error of another kind.
    Server,
    /// A record already exists on the target, and the policy is `fail`.
    Conflict,
    /// A check before the first write failed.
    Refused,
    /// There is nothing to migrate, and `--fail-on-empty` makes that an error.
    Empty,
    /// More records were rejected than `--max-errors` allows.
    TooManyErrors,
    /// The checkpoint belongs to another job, cannot be read, or is locked by another run.
    Checkpoint,
    /// Reports to merge cannot be read, are of different jobs, or are not one of each shard.
    Reports,
    /// The rejects file cannot be written.
    Rejects,
    /// A verification found differences.
    Differences,
    /// A bug in this program.
    Internal,
}

impl ErrorKind {
    /// The name in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Config => "config",
            Self::NotConfirmed => "not_confirmed",
            Self::Unreachable => "unreachable",
            Self::ConnectionLost => "connection_lost",
            Self::Tls => "tls",
            Self::Login => "login",
            Self::Permission => "permission",
            Self::NotFound => "not_found",
            Self::Timeout => "timeout",
            Self::Busy => "busy",
            Self::Damaged => "damaged",
            Self::Incomplete => "incomplete",
            Self::BatchRefused => "batch_refused",
            Self::RequestTooLarge => "request_too_large",
            Self::Full => "full",
            Self::Io => "io",
            Self::Server => "server",
            Self::Conflict => "conflict",
            Self::Refused => "refused",
            Self::Empty => "empty",
            Self::TooManyErrors => "too_many_errors",
            Self::Checkpoint => "checkpoint",
            Self::Reports => "reports",
            Self::Rejects => "rejects",
            Self::Differences => "differences",
            Self::Internal => "internal",
        }
    }

    /// Whether the same call may succeed later.
    pub const fn retry(self) -> Retry {
        match self {
            Self::Unreachable | Self::ConnectionLost | Self::Timeout | Self::Busy => Retry::Temporary,
            _ => Retry::Permanent,
        }
    }

    /// Whether a smaller batch may succeed.
    pub const fn is_splittable(self) -> bool {
        matches!(self, Self::BatchRefused | Self::RequestTooLarge)
    }

    /// The default remedy.
    pub const fn remedy(self) -> Option<&'static str> {
        match self {
            Self::Usage => Some("see `migrate-llm-cache --help`"),
            Self::NotConfirmed => Some("add --yes to write, or --dry-run to count without writing"),
            Self::Unreachable => Some("check that the server is running, and check host and port"),
            Self::ConnectionLost => Some("check the server's log, then run the same command again"),
            Self::Tls => Some("check the scheme, the port and the certificate authority"),
            Self::Login => Some("check user and password"),
            Self::Permission => Some("grant the login the permission, or use another login"),
            Self::Timeout => Some("raise --timeout, or find out why the server is slow"),
            Self::Busy => Some("run the same command again when the server has recovered"),
            Self::Full => Some("free space or remove the read-only setting, then run the same command again"),
            Self::TooManyErrors => Some("check the rejected records, then fix them or raise --max-errors"),
            Self::Incomplete => {
                Some("make sure that nothing deletes records during the run, then run the same command again")
            }
            Self::Conflict => Some("choose --on-conflict overwrite, skip or newer"),
            Self::Internal => Some("this is a bug; please report it with the output of --log-level debug"),
            _ => None,
        }
    }

    /// The exit code. Errors of a storage have the code of its side.
    const fn exit_code(self, side: Option<Side>) -> ExitCode {
        match self {
            Self::Usage | Self::Config | Self::NotConfirmed | Self::Rejects => ExitCode::Usage,
            Self::Reports => ExitCode::Source,
            Self::Refused => ExitCode::Refused,
            Self::Empty => ExitCode::Empty,
            Self::TooManyErrors => ExitCode::MaxErrors,
            Self::Checkpoint => ExitCode::Checkpoint,
            Self::Differences => ExitCode::Differences,
            Self::Internal => ExitCode::Internal,
            _ => match side {
                Some(Side::Source) => ExitCode::Source,
                Some(Side::Target) => ExitCode::Target,
                None => ExitCode::Internal,
            },
        }
    }
}

/// Whether the process or the system has as many open files as it may: `ENFILE` and `EMFILE`, which have no
/// [`std::io::ErrorKind`]. The error of a temporary file keeps only the text of the system's.
fn is_out_of_files(error: &std::io::Error) -> bool {
    let text = error.to_string();
    cfg!(unix)
        && ["(os error 23)", "(os error 24)"]
            .iter()
            .any(|number| text.contains(number))
}

/// An error: its kind, a message that says what failed and where, and a remedy.
///
/// The message must not contain a secret: take locations only in redacted form.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    side: Option<Side>,
    message: String,
    remedy: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
    context: Option<Box<Context>>,
}

/// Where in a run an error happened.
#[derive(Debug, Default)]
struct Context {
    workspace: Option<Workspace>,
    batch: Option<u64>,
    records: u64,
    is_abandoned: bool,
    others: Vec<Error>,
}

impl Error {
    /// An error of this kind. The message is a clause without a full stop that says what failed and where.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            side: None,
            message: message.into(),
            remedy: None,
            source: None,
            context: None,
        }
    }

    /// A panic, which is a bug: `what` is a noun phrase for the work that was not finished.
    pub fn panicked(what: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Internal, format!("{what} panicked"))
    }

    /// An error in a setting.
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Config, message)
    }

    /// A checkpoint that this run cannot resume from.
    pub fn checkpoint(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Checkpoint, message)
            .with_remedy("leave out --resume to start from the beginning")
    }

    /// A failed file operation: `action` is an infinitive, as in "cannot read PATH".
    pub fn io(action: &str, path: &std::path::Path, error: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let (kind, remedy) = match error.kind() {
            Io::NotFound => (ErrorKind::NotFound, None),
            Io::PermissionDenied => {
                let remedy =
                    "run as a user with access to it, or change the permissions of the file and its folders";
                (ErrorKind::Permission, Some(remedy))
            }
            Io::StorageFull | Io::QuotaExceeded | Io::ReadOnlyFilesystem => (ErrorKind::Full, None),
            _ if is_out_of_files(&error) => {
                (ErrorKind::Io, Some("raise the limit on open files (ulimit -n)"))
            }
            Io::FileTooLarge => (ErrorKind::Full, Some("raise the limit on file size (ulimit -f)")),
            _ => (ErrorKind::Io, None),
        };
        // Of a temporary file the name means nothing to users.
        let why = error.to_string();
        let why = why.split(" at path ").next().unwrap_or(&why);
        let failed = Self::new(kind, format!("cannot {action} {}: {why}", path.display()));
        let failed = match remedy {
            Some(remedy) => failed.with_remedy(remedy),
            None => failed,
        };
        failed.caused_by(error)
    }

    /// Sets the remedy.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Appends the origins of the settings to the message.
    #[must_use]
    pub fn with_settings(mut self, origins: &str) -> Self {
        self.message = format!("{}; settings: {origins}", self.message);
        self
    }

    /// Sets the cause, which is logged at the debug level.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Appends the number of failed attempts to the message.
    #[must_use]
    pub fn after_tries(mut self, tries: usize) -> Self {
        self.message = format!("{} (tried {tries} times)", self.message);
        self
    }

    /// Sets the side, unless it is set.
    #[must_use]
    pub fn on(mut self, side: Side) -> Self {
        self.side.get_or_insert(side);
        self
    }

    /// Sets the workspace, unless it is set.
    #[must_use]
    pub fn in_workspace(mut self, workspace: &Workspace) -> Self {
        let context = self.context.get_or_insert_default();
        context.workspace.get_or_insert_with(|| workspace.clone());
        self
    }

    /// Sets the batch, unless it is set.
    #[must_use]
    pub fn in_batch(mut self, batch: u64) -> Self {
        self.context.get_or_insert_default().batch.get_or_insert(batch);
        self
    }

    /// Sets the number of affected records.
    #[must_use]
    pub fn of_records(mut self, records: u64) -> Self {
        self.context.get_or_insert_default().records = records;
        self
    }

    /// Marks an error that was not retried because the run is stopping.
    #[must_use]
    pub fn abandoned(mut self) -> Self {
        self.context.get_or_insert_default().is_abandoned = true;
        self
    }

    /// Adds another error that occurred while the run was ending because of this one.
    #[must_use]
    pub fn and(mut self, mut other: Self) -> Self {
        let others = other
            .context
            .as_mut()
            .map(|context| std::mem::take(&mut context.others));
        let context = self.context.get_or_insert_default();
        context.others.push(other);
        context.others.extend(others.unwrap_or_default());
        self
    }

    /// Adds this error to an earlier one, if there was one.
    #[must_use]
    pub fn after(self, earlier: Option<Self>) -> Self {
        match earlier {
            Some(first) => first.and(self),
            None => self,
        }
    }

    /// Decides whether a retry can help.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The side, if known.
    pub fn side(&self) -> Option<Side> {
        self.side
    }

    /// The workspace, if the error concerns one.
    pub fn workspace(&self) -> Option<&Workspace> {
        self.context.as_ref()?.workspace.as_ref()
    }

    /// The batch, from 1, if the error concerns one.
    pub fn batch(&self) -> Option<u64> {
        self.context.as_ref()?.batch
    }

    /// The number of affected records.
    pub fn records(&self) -> u64 {
        self.context.as_ref().map_or(0, |context| context.records)
    }

    /// This error, then those added by [`Error::and`].
    pub fn with_others(&self) -> impl Iterator<Item = &Self> {
        let others = self.context.iter().flat_map(|context| &context.others);
        std::iter::once(self).chain(others)
    }

    /// Whether this error and the added ones were only not retried because the run is stopping.
    pub fn is_abandoned(&self) -> bool {
        let is_abandoned = |error: &Self| error.context.as_ref().is_some_and(|context| context.is_abandoned);
        self.with_others().all(is_abandoned)
    }

    /// The message, without side and remedy.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do: the own remedy, or else that of the kind.
    pub fn remedy(&self) -> Option<&str> {
        self.remedy.as_deref().or(self.kind.remedy())
    }

    /// Whether the same command may succeed later.
    pub fn is_temporary(&self) -> bool {
        self.kind.retry() == Retry::Temporary
    }

    /// The exit code of a run that ends with this error.
    pub fn exit_code(&self) -> ExitCode {
        self.kind.exit_code(self.side)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(side) = self.side {
            write!(f, "{side}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source
            .as_ref()
            .map(|source| &**source as &(dyn StdError + 'static))
    }
}

/// Adds the side to the error of a result.
pub trait OnSide<T> {
    /// The same result, its error marked with the side unless it has one.
    fn on(self, side: Side) -> Result<T>;
}

impl<T> OnSide<T> for Result<T> {
    fn on(self, side: Side) -> Self {
        self.map_err(|error| error.on(side))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn too_many_open_files_have_a_remedy_even_if_only_the_text_is_left() {
        let path = std::path::Path::new("x");
        for error in [
            std::io::Error::from_raw_os_error(24),
            std::io::Error::other("Too many open files (os error 24) at path \"x\""),
        ] {
            let error = Error::io("write in", path, error);
            assert!(
                error.remedy().is_some_and(|remedy| remedy.contains("ulimit -n")),
                "{error}"
            );
        }
        let other = Error::io("write in", path, std::io::Error::from_raw_os_error(5));
        assert_eq!(other.remedy(), None);
    }

    #[test]
    fn the_side_decides_the_exit_code_of_what_a_storage_says() {
        let error = || Error::new(ErrorKind::Unreachable, "no answer");
        assert_eq!(error().on(Side::Source).exit_code(), ExitCode::Source);
        assert_eq!(error().on(Side::Target).exit_code(), ExitCode::Target);
        assert_eq!(Error::config("x").on(Side::Target).exit_code(), ExitCode::Usage);
    }

    #[test]
    fn an_error_keeps_the_place_that_was_named_first_and_every_other_error() {
        let error = |batch| Error::new(ErrorKind::Busy, format!("{batch}")).in_batch(batch);
        let all = error(1).in_batch(9).and(error(2).and(error(3)));
        let batches: Vec<_> = all.with_others().map(Error::batch).collect();
        assert_eq!(batches, [Some(1), Some(2), Some(3)]);
    }
}

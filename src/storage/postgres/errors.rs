//! What the errors of a server, and of the connection to it, mean.

use std::error::Error as StdError;

use tokio_postgres::error::{DbError, SqlState};

use super::{
    connection::{Phase, Server},
    schema::{TABLE, WRITTEN_COLUMNS},
};
use crate::{
    model::{Error, ErrorKind},
    storage::hosts,
};

impl Server {
    /// What an error of the driver means. The one place that decides.
    ///
    /// `doing` completes "cannot".
    pub(super) fn failed(&self, phase: Phase, doing: &str, error: tokio_postgres::Error) -> Error {
        let mapped = match error.as_db_error() {
            Some(answer) if phase == Phase::Connecting => self.refused(answer),
            Some(answer) => self.answered(phase, doing, answer),
            None if phase == Phase::Connecting => self.not_connected(&error),
            None => self.broken(doing, &error),
        };
        mapped.caused_by(error)
    }

    /// An error that the server, or a pooler before it, sent in place of a session.
    fn refused(&self, answer: &DbError) -> Error {
        let (kind, remedy) = meaning(Phase::Connecting, answer.code());
        let (address, user, database) = (&self.address, &self.user, &self.database);
        let (text, state) = (answer.message(), answer.code().code());
        let has_no_database = format!("PostgreSQL at {address} has no database {database}");
        if kind == ErrorKind::Login {
            let message = format!(
                "PostgreSQL at {address} refused the login of {user} to the database {database}: {text}"
            );
            let error = Error::new(kind, message);
            // It names the kind of connection that it has no rule for.
            return match text.contains("no encryption") {
                true => error
                    .with_remedy("set ssl_mode (POSTGRES_SSL_MODE) to require, or add a rule to pg_hba.conf"),
                false => error,
            };
        }
        if state == "08P01" {
            return self.refused_by_pooler(text, has_no_database);
        }
        let message = match kind {
            ErrorKind::NotFound => has_no_database,
            _ => format!("{}: cannot connect: {text} ({state})", self.name()),
        };
        let error = Error::new(kind, message);
        match remedy {
            Some(remedy) => error.with_remedy(remedy),
            None => error,
        }
    }

    /// PgBouncer has one code for all that it refuses.
    fn refused_by_pooler(&self, text: &str, has_no_database: String) -> Error {
        let message = format!("{}: the pooler refused the connection: {text}", self.name());
        if text.contains("startup parameter") {
            return Error::new(ErrorKind::Config, message).with_remedy(
                "leave out options and server_settings (POSTGRES_SERVER_SETTINGS), let the pooler pass the startup \
                 parameter `options` on, or connect to the server itself",
            );
        }
        if text.contains("no such database") {
            return Error::new(ErrorKind::NotFound, has_no_database).with_remedy(
                "add the database to the pooler's [databases], or use another (POSTGRES_DATABASE)",
            );
        }
        let kind = match text {
            text if text.contains("no more connections") => ErrorKind::Busy,
            text if text.contains("no such user") || text.contains("authentication") => ErrorKind::Login,
            _ => ErrorKind::Unreachable,
        };
        Error::new(kind, message)
    }

    /// An error that the server sent.
    fn answered(&self, phase: Phase, doing: &str, answer: &DbError) -> Error {
        let (kind, remedy) = meaning(phase, answer.code());
        let (name, text, state) = (self.name(), answer.message(), answer.code().code());
        if let ("23502", Some(column)) = (state, answer.column())
            && !WRITTEN_COLUMNS.contains(&column)
        {
            return self.unknown_column(column);
        }
        let error = match kind {
            // The content of the records is at fault, and the place is said elsewhere.
            ErrorKind::BatchRefused => Error::new(kind, format!("PostgreSQL refused it: {text} ({state})")),
            _ => Error::new(kind, format!("{name}: cannot {doing}: {text} ({state})")),
        };
        match remedy {
            Some(remedy) => error.with_remedy(remedy),
            None if kind == ErrorKind::Permission => error.with_remedy(self.grant(phase, text)),
            None => error,
        }
    }

    /// A column that must have a value, which LightRAG would not give it either.
    pub(super) fn unknown_column(&self, column: &str) -> Error {
        let message = format!(
            "{}: the table {TABLE} has a column {column} that must have a value, and that LightRAG does not know",
            self.name()
        );
        let remedy = format!("give it a default (ALTER TABLE {TABLE} ALTER COLUMN {column} SET DEFAULT ...)");
        Error::new(ErrorKind::Refused, message).with_remedy(remedy)
    }

    /// What lets the login do what it was refused.
    fn grant(&self, phase: Phase, text: &str) -> String {
        let user = &self.user;
        if text.contains("row-level security") {
            return format!(
                "the table's row-level security keeps {user} from this row: add a policy for it, or use the login that \
                 owns the table"
            );
        }
        if text.contains("for schema") {
            let privilege = if phase == Phase::Making { "CREATE" } else { "USAGE" };
            return format!("GRANT {privilege} ON SCHEMA ... TO {user}, or use another login");
        }
        match phase {
            Phase::Making => "use the login that owns the table, or start LightRAG once on it".to_owned(),
            Phase::Writing => {
                format!("GRANT SELECT, INSERT, UPDATE ON {TABLE} TO {user}, or use another login")
            }
            _ => format!("GRANT SELECT ON {TABLE} TO {user}, or use another login"),
        }
    }

    /// No session, and the server did not say why.
    fn not_connected(&self, error: &tokio_postgres::Error) -> Error {
        let (name, address) = (self.name(), &self.address);
        let cause = deepest(error);
        // The driver distinguishes these errors only by their text.
        let what = error.to_string();
        if what.contains("TLS handshake") {
            let error = Error::new(ErrorKind::Tls, format!("{name}: no TLS: {cause}"));
            return error.with_remedy(match cause.contains("does not support TLS") {
                true => "enable TLS on the server, or set ssl_mode (POSTGRES_SSL_MODE) to prefer",
                false => {
                    "name the authority's certificate in ssl_root_cert (POSTGRES_SSL_ROOT_CERT), and the server as its \
                     certificate does"
                }
            });
        }
        if cause.contains("password missing") {
            let message = format!(
                "{name} requires a password for {}, but none is configured",
                self.user
            );
            return Error::new(ErrorKind::Login, message).with_remedy(
                "set POSTGRES_PASSWORD, `password` in the job file, or [postgres] password in config.ini",
            );
        }
        if what.contains("authentication error") {
            let message = format!("{name}: the login of {} failed: {cause}", self.user);
            return Error::new(ErrorKind::Login, message);
        }
        if what.contains("invalid configuration") {
            return Error::config(format!("{name}: {cause}"));
        }
        let is_unknown = what.contains("parsing response") || what.contains("unexpected message");
        if is_unknown || cause.contains("bytes remaining on stream") {
            let message = format!("{address} answered, but not as PostgreSQL");
            return Error::new(ErrorKind::Server, message)
                .with_remedy("check host and port: another service listens there");
        }
        if is_unresolved(error) {
            let message = format!("the host name of PostgreSQL at {address} does not resolve: {cause}");
            return Error::new(ErrorKind::Unreachable, message).with_remedy(match address.contains('.') {
                true => "check the spelling of the host",
                false => {
                    "check the spelling of the host; a name from Docker Compose is known to its containers only: \
                     publish the port and use localhost"
                }
            });
        }
        Error::new(
            ErrorKind::Unreachable,
            format!("no connection to {name}: {cause}"),
        )
    }

    /// An error of a connection that was there, or of the driver.
    fn broken(&self, doing: &str, error: &tokio_postgres::Error) -> Error {
        let (name, cause, what) = (self.name(), deepest(error), error.to_string());
        if what.contains("error encoding") || what.contains("error serializing") {
            let message = format!("{name}: cannot {doing}: {cause}");
            return Error::new(ErrorKind::RequestTooLarge, message);
        }
        if what.contains("deserializing") {
            let message = format!("{name}: cannot {doing}: {what}: {cause}");
            return Error::new(ErrorKind::Damaged, message);
        }
        let message = format!("{name}: the connection was lost: {cause}");
        Error::new(ErrorKind::ConnectionLost, message)
    }
}

/// Whether the name of a host has no address. The system says so in words alone.
fn is_unresolved(error: &tokio_postgres::Error) -> bool {
    hosts::is_unresolved(&deepest(error))
}

/// The kind of an answer by its SQLSTATE (PostgreSQL's Appendix A), and what to do where that is not plain.
pub(super) fn meaning(phase: Phase, state: &SqlState) -> (ErrorKind, Option<&'static str>) {
    let code = state.code();
    match code {
        "3D000" => (
            ErrorKind::NotFound,
            Some("create the database, or use another (POSTGRES_DATABASE)"),
        ),
        "42501" => (ErrorKind::Permission, None),
        "42P01" | "3F000" => (
            ErrorKind::NotFound,
            Some("check database and search_path; LightRAG creates its tables when it starts"),
        ),
        "53100" => (ErrorKind::Full, None),
        "57014" => (ErrorKind::Timeout, None),
        // The server was writable when the run began: it is being replaced by another one.
        "25006" if phase == Phase::Writing => (ErrorKind::Busy, None),
        "25006" => (
            ErrorKind::Refused,
            Some("use the primary server, or unset default_transaction_read_only"),
        ),
        "57P01" | "57P02" | "57P05" => (ErrorKind::ConnectionLost, None),
        "57P04" => (ErrorKind::NotFound, None),
        "40001" | "40P01" | "55P03" | "57P03" | "25P03" | "53000" | "53200" | "53300" | "53400" => {
            (ErrorKind::Busy, None)
        }
        // What a pooler answers for itself, in words alone.
        "08P01" if phase == Phase::Connecting => (ErrorKind::Server, None),
        // A prepared statement that is another session's, or is gone: none is used here, so it was a pooler's doing.
        "26000" | "42P05" => (ErrorKind::Busy, None),
        "XX001" | "XX002" => (ErrorKind::Damaged, None),
        _ => match (code.get(..2).unwrap_or_default(), phase) {
            ("28", _) => (ErrorKind::Login, None),
            ("08", Phase::Connecting) => (ErrorKind::Unreachable, None),
            ("08", _) => (ErrorKind::ConnectionLost, None),
            ("42" | "22" | "55", Phase::Connecting) => (
                ErrorKind::Config,
                Some("check server_settings (POSTGRES_SERVER_SETTINGS) and options"),
            ),
            ("21" | "22" | "23" | "54", Phase::Writing) => (ErrorKind::BatchRefused, None),
            ("22", Phase::Reading) => (ErrorKind::Damaged, None),
            _ => (ErrorKind::Server, None),
        },
    }
}

/// Whether a pooler refused the login for what it does not pass on.
pub(super) fn is_startup_refused(error: &tokio_postgres::Error) -> bool {
    error
        .as_db_error()
        .is_some_and(|answer| answer.message().contains("startup parameter"))
}

/// Whether a pooler gives away the session after each statement, so that there are no transactions.
pub(super) fn is_statement_pooling(error: &tokio_postgres::Error) -> bool {
    error
        .as_db_error()
        .is_some_and(|answer| answer.message().contains("statement pooling"))
}

/// Whether the server does not support a request, or does not allow this login to make it.
pub(super) fn is_beyond(error: &tokio_postgres::Error) -> bool {
    let code = error.code().map(SqlState::code).unwrap_or_default();
    // Syntax and access rules; features that are not supported; internal errors of a server that only looks like one.
    matches!(code.get(..2), Some("42" | "0A" | "XX"))
}

/// The last cause of an error: the one that says something.
fn deepest(error: &tokio_postgres::Error) -> String {
    let mut cause: &(dyn StdError + 'static) = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_means_what_was_under_way_says() {
        let kind = |phase, code| meaning(phase, &SqlState::from_code(code)).0;
        assert_eq!(kind(Phase::Writing, "22021"), ErrorKind::BatchRefused);
        assert_eq!(kind(Phase::Writing, "54000"), ErrorKind::BatchRefused);
        assert_eq!(kind(Phase::Reading, "22021"), ErrorKind::Damaged);
        assert_eq!(kind(Phase::Preparing, "25006"), ErrorKind::Refused);
        assert_eq!(kind(Phase::Writing, "25006"), ErrorKind::Busy);
        assert_eq!(kind(Phase::Connecting, "28P01"), ErrorKind::Login);
        assert_eq!(kind(Phase::Connecting, "28000"), ErrorKind::Login);
        assert_eq!(kind(Phase::Connecting, "3D000"), ErrorKind::NotFound);
        assert_eq!(kind(Phase::Connecting, "42704"), ErrorKind::Config);
        assert_eq!(kind(Phase::Writing, "40P01"), ErrorKind::Busy);
        assert_eq!(kind(Phase::Writing, "08006"), ErrorKind::ConnectionLost);
        assert_eq!(kind(Phase::Writing, "57P01"), ErrorKind::ConnectionLost);
        assert_eq!(kind(Phase::Writing, "42501"), ErrorKind::Permission);
        assert_eq!(kind(Phase::Writing, "53100"), ErrorKind::Full);
        assert_eq!(kind(Phase::Writing, "42703"), ErrorKind::Server);
        assert_eq!(kind(Phase::Writing, "08P01"), ErrorKind::ConnectionLost);
        assert_eq!(kind(Phase::Reading, "26000"), ErrorKind::Busy);
    }
}

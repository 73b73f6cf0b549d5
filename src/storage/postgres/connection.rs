//! Connections to a server, and what its errors mean.

use std::{error::Error as StdError, pin::Pin, time::Duration};

use deadpool_postgres::{
    Client, ClientWrapper, Connect, Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError,
    RecyclingMethod, Runtime,
};
use tokio::task::JoinHandle;
use tokio_postgres::{
    NoTls,
    config::SslMode as DriverSslMode,
    error::{DbError, SqlState},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::config::{Config, SslMode};
use crate::{
    model::{Error, ErrorKind, Result, Side},
    storage::{ConnectOptions, tls},
};

/// How long a connection that lay idle may take to answer before another one is made.
const RECYCLE_TIMEOUT: Duration = Duration::from_secs(5);

/// One database of one server, and connections to it.
pub(super) struct Server {
    pool: Pool,
    /// Host and port, for people.
    address: String,
    user: String,
    database: String,
    location: String,
    /// How long a request may take, seen from here.
    patience: Duration,
}

/// What was under way when something failed: the same answer of a server means another thing in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Making a connection.
    Connecting,
    /// Reading records.
    Reading,
    /// Looking at tables, or making them.
    Preparing,
    /// Writing records.
    Writing,
}

impl Server {
    /// Connects, with one connection to begin with.
    ///
    /// # Errors
    /// An unreachable server, a refused login, a certificate that is not trusted.
    pub(super) async fn connect(config: &Config, options: &ConnectOptions) -> Result<Self> {
        let tls = config
            .tls()
            .map(|options| tls::client_config(&options))
            .transpose()?;
        let connector = Connector {
            mode: config.ssl_mode,
            tls: tls.map(MakeRustlsConnect::new),
            side: config.side,
        };
        let manager_config = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        let manager = Manager::from_connect(config.driver(options), connector, manager_config);
        let pool = Pool::builder(manager)
            .max_size(config.connections)
            .runtime(Runtime::Tokio1)
            .create_timeout(Some(config.login_timeout(options)))
            .pre_recycle(Hook::async_fn(|client, _| Box::pin(still_answers(client))))
            .build()
            .map_err(|error| Error::new(ErrorKind::Internal, "no pool of connections").caused_by(error))?;
        let server = Self {
            pool,
            address: config.address(),
            user: config.user().to_owned(),
            database: config.database().to_owned(),
            location: config.location(),
            patience: options.timeout * 19 / 20,
        };
        server.client().await.map(|_| server)
    }

    /// The place, its password replaced.
    pub(super) fn location(&self) -> &str {
        &self.location
    }

    /// The database.
    pub(super) fn database(&self) -> &str {
        &self.database
    }

    /// Host and port, for where a server does not say who it is.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// The place, in a message.
    pub(super) fn name(&self) -> String {
        format!("PostgreSQL at {}, database {}", self.address, self.database)
    }

    /// How long a request may take before it is given up, seen from here. The server is told to give up before.
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// A connection, from the pool or a new one.
    ///
    /// # Errors
    /// None can be made.
    pub(super) async fn client(&self) -> Result<Client> {
        self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => self.failed(Phase::Connecting, "connect", error),
            PoolError::Timeout(_) => {
                let message = format!("{} accepted a connection and did not answer", self.name());
                Error::new(ErrorKind::Timeout, message).with_remedy(
                    "check that a PostgreSQL server listens at this host and port, and how busy it is",
                )
            }
            other => Error::new(ErrorKind::Internal, "the pool of connections failed").caused_by(other),
        })
    }

    /// The error of a request on a connection, which is kept from further use where the error says that it, or the
    /// server behind it, is not the right one any more.
    pub(super) fn failed_on(
        &self,
        client: Client,
        phase: Phase,
        doing: &str,
        error: tokio_postgres::Error,
    ) -> Error {
        let error = self.failed(phase, doing, error);
        if error.is_temporary() {
            drop(Object::take(client));
        }
        error
    }

    /// The error of a request that was given up. Its connection still waits for the answer and is closed.
    pub(super) fn given_up(&self, client: Client, doing: &str) -> Error {
        drop(Object::take(client));
        let message = format!(
            "{}: cannot {doing}: no answer within {:?}",
            self.name(),
            self.patience
        );
        Error::new(ErrorKind::Timeout, message)
    }

    /// What an error of the driver means. The one place that decides.
    ///
    /// `doing` completes "cannot".
    pub(super) fn failed(&self, phase: Phase, doing: &str, error: tokio_postgres::Error) -> Error {
        let mapped = match error.as_db_error() {
            Some(answer) => self.answered(phase, doing, answer),
            None => self.broken(phase, doing, &error),
        };
        mapped.caused_by(error)
    }

    /// An error that the server sent.
    fn answered(&self, phase: Phase, doing: &str, answer: &DbError) -> Error {
        let (kind, remedy) = meaning(phase, answer.code());
        let (name, text, state) = (self.name(), answer.message(), answer.code().code());
        let new = |message| Error::new(kind, message);
        let error = match kind {
            ErrorKind::Login => {
                let (address, user, database) = (&self.address, &self.user, &self.database);
                let error = new(format!(
                    "PostgreSQL at {address} refused the login of {user} to the database {database}: {text}"
                ));
                // It names the kind of connection that it has no rule for.
                return if text.contains("no encryption") {
                    error.with_remedy(
                        "set ssl_mode (POSTGRES_SSL_MODE) to require, or add a rule to pg_hba.conf",
                    )
                } else {
                    error
                };
            }
            ErrorKind::NotFound if phase == Phase::Connecting => new(format!(
                "PostgreSQL at {} has no database {}",
                self.address, self.database
            )),
            // The content of the records is at fault, and the place is said elsewhere.
            ErrorKind::BatchRefused => new(format!("PostgreSQL refused it: {text} ({state})")),
            _ => new(format!("{name}: cannot {doing}: {text} ({state})")),
        };
        match remedy {
            Some(remedy) => error.with_remedy(remedy),
            None => error,
        }
    }

    /// An error of the connection, or of the driver.
    fn broken(&self, phase: Phase, doing: &str, error: &tokio_postgres::Error) -> Error {
        let name = self.name();
        let cause = deepest(error);
        // The driver tells its kinds apart in these words alone.
        let what = error.to_string();
        let new = |kind, message| Error::new(kind, message);
        if what.contains("TLS handshake") {
            let error = new(ErrorKind::Tls, format!("{name}: no TLS: {cause}"));
            return if cause.contains("does not support TLS") {
                error.with_remedy("turn TLS on at the server, or set ssl_mode (POSTGRES_SSL_MODE) to prefer")
            } else {
                error.with_remedy(
                    "name the authority's certificate in ssl_root_cert (POSTGRES_SSL_ROOT_CERT), and the server as its \
                     certificate does",
                )
            };
        }
        if cause.contains("password missing") {
            let message = format!("{name} asks {} for a password, and none is given", self.user);
            return new(ErrorKind::Login, message).with_remedy(
                "set POSTGRES_PASSWORD, `password` in the job file, or [postgres] password in config.ini",
            );
        }
        if what.contains("authentication error") {
            let message = format!("{name}: the login of {} failed: {cause}", self.user);
            return new(ErrorKind::Login, message);
        }
        if phase == Phase::Connecting {
            if what.contains("invalid configuration") {
                return Error::config(format!("{name}: {cause}"));
            }
            return new(
                ErrorKind::Unreachable,
                format!("no connection to {name}: {cause}"),
            );
        }
        if what.contains("error encoding") || what.contains("error serializing") {
            return new(
                ErrorKind::RequestTooLarge,
                format!("{name}: cannot {doing}: {cause}"),
            );
        }
        if what.contains("deserializing") {
            return new(
                ErrorKind::Damaged,
                format!("{name}: cannot {doing}: {what}: {cause}"),
            );
        }
        new(
            ErrorKind::ConnectionLost,
            format!("{name}: the connection broke: {cause}"),
        )
    }
}

/// The kind of an answer by its SQLSTATE (PostgreSQL's Appendix A), and what to do where that is not plain.
fn meaning(phase: Phase, state: &SqlState) -> (ErrorKind, Option<&'static str>) {
    let code = state.code();
    match code {
        "3D000" => (
            ErrorKind::NotFound,
            Some("create the database, or name another (POSTGRES_DATABASE)"),
        ),
        "42501" => (ErrorKind::Permission, None),
        "42P01" | "3F000" => (
            ErrorKind::NotFound,
            Some("check database and search_path; LightRAG makes its tables when it starts"),
        ),
        "53100" => (ErrorKind::Full, None),
        "57014" => (ErrorKind::Timeout, None),
        // The server was writable when the run began: it is being replaced by another one.
        "25006" if phase == Phase::Writing => (ErrorKind::Busy, None),
        "25006" => (
            ErrorKind::Refused,
            Some("name the primary server, or lift default_transaction_read_only"),
        ),
        "57P01" | "57P02" | "57P05" => (ErrorKind::ConnectionLost, None),
        "57P04" => (ErrorKind::NotFound, None),
        "40001" | "40P01" | "55P03" | "57P03" | "25P03" | "53000" | "53200" | "53300" | "53400" => {
            (ErrorKind::Busy, None)
        }
        // What a pooler answers to settings that it does not pass on.
        "08P01" if phase == Phase::Connecting => (
            ErrorKind::Server,
            Some(
                "connect to the server itself, not to a pooler, or let the pooler pass the startup parameter \
                 `options` on",
            ),
        ),
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

/// A request that was given up leaves its connection waiting for the server, and a server that went away leaves a dead
/// one: each must answer before it is used again. (The pool's own way of asking would warn of what is no trouble.)
async fn still_answers(client: &mut ClientWrapper) -> std::result::Result<(), HookError> {
    match tokio::time::timeout(RECYCLE_TIMEOUT, client.simple_query("")).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(HookError::Backend(error)),
        Err(_) => Err(HookError::message("no answer")),
    }
}

/// The last cause of an error: the one that says something.
fn deepest(error: &tokio_postgres::Error) -> String {
    let mut cause: &(dyn StdError + 'static) = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// Makes connections by libpq's rules for `sslmode`.
struct Connector {
    mode: SslMode,
    tls: Option<MakeRustlsConnect>,
    side: Side,
}

type Connected = (tokio_postgres::Client, JoinHandle<()>);
type DriverResult<T> = std::result::Result<T, tokio_postgres::Error>;

impl Connect for Connector {
    fn connect(
        &self,
        config: &tokio_postgres::Config,
    ) -> Pin<Box<dyn Future<Output = DriverResult<Connected>> + Send + '_>> {
        let config = config.clone();
        Box::pin(async move {
            let connected = self.by_mode(config).await?;
            if self.side == Side::Target {
                // A commit that is answered must be on the disk: what is reported as written has to stay.
                connected.0.batch_execute(DURABLE).await?;
            }
            Ok(connected)
        })
    }
}

const DURABLE: &str = "SELECT pg_catalog.set_config('synchronous_commit', 'on', false) \
                       WHERE pg_catalog.current_setting('synchronous_commit') = 'off'";

impl Connector {
    async fn by_mode(&self, config: tokio_postgres::Config) -> DriverResult<Connected> {
        let Some(tls) = &self.tls else {
            return plain(config).await;
        };
        match self.mode {
            SslMode::Disable => plain(config).await,
            SslMode::Allow => match plain(config.clone()).await {
                Err(error) if is_refused_rule(&error) => encrypted(config, tls, DriverSslMode::Require)
                    .await
                    .map_err(|second| if is_tls(&second) { error } else { second }),
                result => result,
            },
            SslMode::Prefer => match encrypted(config.clone(), tls, DriverSslMode::Prefer).await {
                Err(error) if is_tls(&error) || is_refused_rule(&error) => {
                    plain(config).await.map_err(|_| error)
                }
                result => result,
            },
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => {
                encrypted(config, tls, DriverSslMode::Require).await
            }
        }
    }
}

async fn plain(mut config: tokio_postgres::Config) -> DriverResult<Connected> {
    config.ssl_mode(DriverSslMode::Disable);
    let (client, connection) = config.connect(NoTls).await?;
    Ok((client, tokio::spawn(log_end(connection))))
}

async fn encrypted(
    mut config: tokio_postgres::Config,
    tls: &MakeRustlsConnect,
    mode: DriverSslMode,
) -> DriverResult<Connected> {
    config.ssl_mode(mode);
    let (client, connection) = config.connect(tls.clone()).await?;
    Ok((client, tokio::spawn(log_end(connection))))
}

/// Runs a connection to its end. Whoever uses it hears of an error too.
async fn log_end(connection: impl Future<Output = DriverResult<()>>) {
    if let Err(error) = connection.await {
        tracing::debug!("a connection to PostgreSQL ended: {error}");
    }
}

fn is_tls(error: &tokio_postgres::Error) -> bool {
    error.to_string().contains("TLS handshake")
}

/// Whether the server has no rule for this kind of connection.
fn is_refused_rule(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
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
    }
}

//! Connections to a server, and transactions on them.

use std::{
    pin::Pin,
    time::{Duration, Instant},
};

use deadpool_postgres::{
    Client, ClientWrapper, Connect, Hook, HookError, Manager, ManagerConfig, Metrics, Object, Pool,
    PoolError, RecyclingMethod, Runtime, Timeouts,
};
use tokio::task::JoinHandle;
use tokio_postgres::{
    NoTls, Row, SimpleQueryMessage,
    config::SslMode as DriverSslMode,
    error::SqlState,
    types::{ToSql, Type},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    config::{Config, SslMode, Startup},
    errors::{is_beyond, is_startup_refused, is_statement_pooling, meaning},
    session::{self, Limit, Session, Setting},
};
use crate::{
    model::{Error, ErrorKind, Result, Retry, Side},
    storage::{ConnectOptions, hosts::LONG_LOGIN, tls},
};

/// The parameters of a statement, with their types: so that the server need not be asked for them first, which would take
/// a prepared statement.
pub(super) type Parameters<'a> = &'a [(&'a (dyn ToSql + Sync), Type)];

pub(super) type Statement<'a> = (&'a str, Parameters<'a>);

/// A connection that was taken from the pool so long ago has lain idle.
const IDLE: Duration = Duration::from_secs(5);

/// How long a connection that lay idle may take to answer before another one is made.
const RECYCLE_TIMEOUT: Duration = Duration::from_secs(5);

/// One database of one server, and connections to it.
pub(super) struct Server {
    pool: Pool,
    /// Host and port, for people.
    pub(super) address: String,
    pub(super) user: String,
    pub(super) database: String,
    location: String,
    side: Side,
    session: Session,
    /// How long a request may take, seen from here.
    patience: Duration,
    /// How long it took to connect.
    login: Duration,
}

/// What a request is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Purpose {
    pub(super) phase: Phase,
    /// Completes "cannot".
    pub(super) doing: &'static str,
    pub(super) limit: Limit,
}

impl Purpose {
    pub(super) const fn new(phase: Phase, doing: &'static str) -> Self {
        Self {
            phase,
            doing,
            limit: Limit::Request,
        }
    }

    /// The same, for as long as it takes.
    pub(super) const fn without_limit(self) -> Self {
        Self {
            limit: Limit::None,
            ..self
        }
    }
}

/// What was under way when something failed: the same answer of a server means another thing in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Making a connection.
    Connecting,
    /// Reading records.
    Reading,
    /// Looking at tables.
    Preparing,
    /// Making tables.
    Making,
    /// Writing records.
    Writing,
}

impl Server {
    /// Connects, with one connection to begin with.
    ///
    /// # Errors
    /// An unreachable server, a refused login, a certificate that is not trusted.
    pub(super) async fn connect(config: &Config, options: &ConnectOptions) -> Result<Self> {
        let mut server = Self {
            pool: pool(config, options, Startup::WithOptions)?,
            address: config.address(),
            user: config.user().to_owned(),
            database: config.database().to_owned(),
            location: config.location(),
            side: config.side,
            session: config.session(options),
            patience: options.patience(),
            login: Duration::ZERO,
        };
        let began = Instant::now();
        let client = match server.pool.get().await {
            Err(PoolError::Backend(error)) if config.has_optional_options() && is_startup_refused(&error) => {
                server.pool = pool(config, options, Startup::WithoutOptions)?;
                server.client().await?
            }
            Ok(client) => client,
            Err(error) => return Err(server.no_client(error)),
        };
        server.login = began.elapsed();
        server.agree_on_settings(client).await?;
        Ok(server)
    }

    /// Finds out which settings the server knows. Those that it lacks are done without, unless the user asked for them.
    async fn agree_on_settings(&mut self, client: Client) -> Result<()> {
        let mut all = self.session.settings().to_vec();
        let (has_no_encoding, mut tried) =
            futures::join!(has_no_encoding(&client), try_settings(&client, &all));
        // With statement pooling no setting is made, and the pooler has closed the connection by now.
        if has_no_encoding && !tried.as_ref().is_err_and(is_statement_pooling) {
            self.session.take_bytes();
            all = self.session.settings().to_vec();
            tried = try_settings(&client, &all).await;
        }
        match tried {
            Ok(()) => return Ok(()),
            Err(error) if is_statement_pooling(&error) => {
                drop(Object::take(client));
                self.session.leave_out_transactions();
                return Ok(());
            }
            Err(error) if error.as_db_error().is_none() => {
                return Err(self.failed_on(client, Phase::Connecting, "begin a session", error));
            }
            Err(_) => {}
        }
        for setting in all {
            let Err(error) = try_settings(&client, std::slice::from_ref(&setting)).await else {
                continue;
            };
            // It can only be set at the login, which has done so.
            let is_set = error.code() == Some(&SqlState::CANT_CHANGE_RUNTIME_PARAM);
            if error.as_db_error().is_none() || (setting.is_users && !is_set) {
                return Err(self.failed_on(client, Phase::Connecting, "begin a session", error));
            }
            tracing::debug!(setting = setting.name, "continuing without a setting: {error}");
            self.session.leave_out(&setting.name);
        }
        Ok(())
    }

    /// The place, its password replaced.
    pub(super) fn location(&self) -> &str {
        &self.location
    }

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

    /// Whether the server is read or written.
    pub(super) fn side(&self) -> Side {
        self.side
    }

    /// Runs a statement in a transaction of its own, and gives its rows.
    ///
    /// # Errors
    /// No connection, no answer in time, or what the server said.
    pub(super) async fn ask(
        &self,
        purpose: Purpose,
        sql: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>> {
        self.ask_all(purpose, &[(sql, parameters)]).await
    }

    /// Runs statements in one transaction, and gives the rows of all. All of them take effect, or none.
    ///
    /// # Errors
    /// As [`Server::ask`].
    pub(super) async fn ask_all(&self, purpose: Purpose, statements: &[Statement<'_>]) -> Result<Vec<Row>> {
        match self.run(purpose, statements).await? {
            Ok(rows) => Ok(rows),
            Err(error) => Err(self.failed(purpose.phase, purpose.doing, error)),
        }
    }

    /// Asks what a server need not be able, or let everybody, answer: `None` where it does not.
    ///
    /// # Errors
    /// As [`Server::ask`], but for what says that the statement is too much for the server or the login.
    pub(super) async fn ask_if_able(
        &self,
        purpose: Purpose,
        sql: &str,
        parameters: Parameters<'_>,
    ) -> Result<Option<Vec<Row>>> {
        match self.run(purpose, &[(sql, parameters)]).await? {
            Ok(rows) => Ok(Some(rows)),
            Err(error) if is_beyond(&error) => {
                tracing::debug!("cannot {}, continuing without it: {error:?}", purpose.doing);
                Ok(None)
            }
            Err(error) => Err(self.failed(purpose.phase, purpose.doing, error)),
        }
    }

    /// Runs statements, and gives the answer as it is. The connection is closed where it is of no further use.
    pub(super) async fn run(
        &self,
        purpose: Purpose,
        statements: &[Statement<'_>],
    ) -> Result<Result<Vec<Row>, tokio_postgres::Error>> {
        let mut lease = Lease(Some(self.client().await?));
        let Some(client) = &mut lease.0 else {
            return Err(Error::new(ErrorKind::Internal, "a connection was lost track of"));
        };
        let running = self.transaction(client, purpose, statements);
        // Time out slightly before the caller does, so that the next attempt has another connection.
        let patience = match purpose.limit {
            Limit::Request => self.patience,
            Limit::None => Duration::MAX,
        };
        let Ok(answer) = tokio::time::timeout(patience, running).await else {
            let (name, doing) = (self.name(), purpose.doing);
            let message = format!("{name}: cannot {doing}: no answer within {patience:?}");
            return Err(Error::new(ErrorKind::Timeout, message));
        };
        let is_of_use = match &answer {
            Ok(_) => true,
            Err(error) => error.as_db_error().is_some_and(|answer| {
                let (kind, _) = meaning(purpose.phase, answer.code());
                kind.retry() == Retry::Permanent
            }),
        };
        if is_of_use {
            lease.give_back();
        }
        Ok(answer)
    }

    /// No named statements: through a pooler, the next transaction may run in another session.
    async fn transaction(
        &self,
        client: &mut Client,
        purpose: Purpose,
        statements: &[Statement<'_>],
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        let mut rows = Vec::new();
        if !self.session.has_transactions() {
            for (sql, parameters) in statements {
                rows.append(&mut client.query_typed(sql, parameters).await?);
            }
            return Ok(rows);
        }
        // Several statements that write may have megabytes each, so they are sent one after the other.
        if statements.len() == 1 || purpose.phase == Phase::Preparing {
            let begin = self.session.begin(purpose.phase, purpose.limit);
            // Sent in one go and in this order, so that there is one round trip to a distant server. After a failure, the end of
            // the transaction undoes it.
            let (begun, answer, ended) = futures::join!(
                client.batch_execute(&begin),
                send_all(client, statements),
                client.batch_execute("COMMIT"),
            );
            begun?;
            let rows = answer?;
            return ended.map(|()| rows);
        }
        // The driver's own transaction is rolled back if the call is cancelled.
        let transaction = client.transaction().await?;
        transaction
            .batch_execute(&self.session.settings_of(purpose.phase, purpose.limit))
            .await?;
        for (sql, parameters) in statements {
            rows.append(&mut transaction.query_typed(sql, parameters).await?);
        }
        transaction.commit().await?;
        Ok(rows)
    }

    /// A connection, from the pool or a new one.
    ///
    /// # Errors
    /// None can be made.
    async fn client(&self) -> Result<Client> {
        self.pool.get().await.map_err(|error| self.no_client(error))
    }

    /// Opens connections to a distant server before requests need them, as far as the pool takes more. Those that cannot be
    /// opened are done without: a request that needs one reports why.
    pub(super) fn open_ahead(&self, connections: usize) {
        if self.login < LONG_LOGIN {
            return;
        }
        let pool = self.pool.clone();
        let timeouts = Timeouts {
            wait: Some(Duration::ZERO),
            ..pool.timeouts()
        };
        tokio::spawn(async move {
            let logins = (0..connections).map(|_| pool.timeout_get(&timeouts));
            // Each is kept until all are there, so that none is given out twice.
            let opened = futures::future::join_all(logins).await;
            for error in opened.iter().filter_map(|client| client.as_ref().err()) {
                tracing::debug!("no further connection was opened: {error}");
            }
        });
    }

    fn no_client(&self, error: PoolError) -> Error {
        match error {
            PoolError::Backend(error) => self.failed(Phase::Connecting, "connect", error),
            PoolError::Timeout(_) => {
                let message = format!("{} accepted a connection but did not answer", self.name());
                Error::new(ErrorKind::Timeout, message).with_remedy(
                    "check that a PostgreSQL server listens at this host and port, and how busy it is",
                )
            }
            other => Error::new(ErrorKind::Internal, "the pool of connections failed").caused_by(other),
        }
    }

    /// The error of a request on a connection, which is kept from further use.
    fn failed_on(&self, client: Client, phase: Phase, doing: &str, error: tokio_postgres::Error) -> Error {
        drop(Object::take(client));
        self.failed(phase, doing, error)
    }

    /// Reads something out of rows.
    ///
    /// # Errors
    /// They hold something else.
    pub(super) fn read<T>(
        &self,
        purpose: Purpose,
        read: impl FnOnce() -> Result<T, tokio_postgres::Error>,
    ) -> Result<T> {
        read().map_err(|error| self.failed(purpose.phase, purpose.doing, error))
    }
}

/// A connection for one request. If it is dropped before it is returned, as when the call is cancelled, it is
/// closed.
struct Lease(Option<Client>);

impl Lease {
    fn give_back(mut self) {
        self.0 = None;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(client) = self.0.take() {
            drop(Object::take(client));
        }
    }
}

/// A server that went away may leave a dead connection: one that has lain idle must answer before it is used again, which
/// takes a round trip. (The pool's own way of asking would warn of what is no trouble.)
async fn still_answers(client: &mut ClientWrapper, metrics: &Metrics) -> std::result::Result<(), HookError> {
    if metrics.last_used() < IDLE {
        return Ok(());
    }
    match tokio::time::timeout(RECYCLE_TIMEOUT, client.simple_query("")).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(HookError::Backend(error)),
        Err(_) => Err(HookError::message("no answer")),
    }
}

/// Makes connections by libpq's rules for `sslmode`.
struct Connector {
    mode: SslMode,
    tls: Option<MakeRustlsConnect>,
}

/// Connections as these settings say. None is made yet.
fn pool(config: &Config, options: &ConnectOptions, startup: Startup) -> Result<Pool> {
    let tls = config
        .tls()
        .map(|options| tls::client_config(&options))
        .transpose()?;
    let connector = Connector {
        mode: config.ssl_mode,
        tls: tls.map(MakeRustlsConnect::new),
    };
    let manager_config = ManagerConfig {
        recycling_method: RecyclingMethod::Fast,
    };
    let manager = Manager::from_connect(config.driver(options, startup), connector, manager_config);
    Pool::builder(manager)
        .max_size(config.connections)
        .runtime(Runtime::Tokio1)
        .create_timeout(Some(config.login_timeout(options)))
        .pre_recycle(Hook::async_fn(|client, metrics| {
            Box::pin(still_answers(client, metrics))
        }))
        .build()
        .map_err(|error| Error::new(ErrorKind::Internal, "no pool of connections").caused_by(error))
}

/// Sends statements in this order, without waiting for answers in between. Returns the rows of all, or the first error: in a
/// transaction, the others follow from it.
async fn send_all(
    client: &tokio_postgres::Client,
    statements: &[Statement<'_>],
) -> Result<Vec<Row>, tokio_postgres::Error> {
    let sent = statements
        .iter()
        .map(|(sql, parameters)| client.query_typed(sql, parameters));
    let answers: Result<Vec<Vec<Row>>, _> = futures::future::join_all(sent).await.into_iter().collect();
    Ok(answers?.into_iter().flatten().collect())
}

/// Whether the database stores any bytes unchecked (`SQL_ASCII`). If the server does not say, it has an encoding.
async fn has_no_encoding(client: &Client) -> bool {
    let answer = client.simple_query("SHOW server_encoding").await;
    answer.is_ok_and(|messages| {
        messages.iter().any(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0) == Some("SQL_ASCII"),
            _ => false,
        })
    })
}

/// Tries settings in a transaction that changes nothing.
async fn try_settings(client: &Client, settings: &[Setting]) -> Result<(), tokio_postgres::Error> {
    let begin = format!("BEGIN READ ONLY;{}", session::set(settings));
    let (begun, ended) = futures::join!(client.batch_execute(&begin), client.batch_execute("ROLLBACK"));
    begun.and(ended)
}

type Connected = (tokio_postgres::Client, JoinHandle<()>);
type DriverResult<T> = std::result::Result<T, tokio_postgres::Error>;

impl Connect for Connector {
    fn connect(
        &self,
        config: &tokio_postgres::Config,
    ) -> Pin<Box<dyn Future<Output = DriverResult<Connected>> + Send + '_>> {
        let config = config.clone();
        Box::pin(async move { self.by_mode(config).await })
    }
}

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

/// Runs a connection until it ends. Its user gets the error too.
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
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::super::config::tests as config;
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[kind][..], &length.to_be_bytes(), body].concat()
    }

    /// The body of the next message of a client.
    async fn body(client: &mut TcpStream) -> std::io::Result<String> {
        let length = client.read_u32().await?;
        let mut body = vec![0; usize::try_from(length).unwrap() - 4];
        client.read_exact(&mut body).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Answers as PgBouncer with statement pooling does in front of a database with the encoding `SQL_ASCII`: the start of a
    /// transaction ends the connection.
    async fn pool_statements(client: &mut TcpStream) -> std::io::Result<()> {
        let ready = message(b'Z', b"I");
        body(client).await?;
        client
            .write_all(&[message(b'R', &[0; 4]), ready.clone()].concat())
            .await?;
        while client.read_u8().await? == b'Q' && body(client).await?.starts_with("SHOW") {
            // One column of type text.
            let column = [
                &b"\0\x01server_encoding\0"[..],
                &[0; 6],
                &[0, 0, 0, 25],
                &[0xff; 6],
                &[0; 2],
            ];
            let answer = [
                message(b'T', &column.concat()),
                message(b'D', b"\0\x01\0\0\0\x09SQL_ASCII"),
                message(b'C', b"SHOW\0"),
                ready.clone(),
            ];
            client.write_all(&answer.concat()).await?;
        }
        let refusal = b"SFATAL\0C08P01\0Mtransaction blocks not allowed in statement pooling mode\0\0";
        client.write_all(&message(b'E', refusal)).await?;
        client.shutdown().await?;
        // Closing it with unread requests could cost the client the answer.
        tokio::io::copy(client, &mut tokio::io::sink()).await.map(drop)
    }

    #[tokio::test]
    async fn statement_pooling_is_recognized_before_a_database_without_an_encoding() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                tokio::spawn(async move { pool_statements(&mut client).await });
            }
        });
        let settings = [
            ("host", "127.0.0.1"),
            ("port", port.as_str()),
            ("ssl_mode", "disable"),
        ];
        let options = config::options();
        let config = Config::new(&config::values(Side::Source, &settings), &options).unwrap();
        let server = Server::connect(&config, &options).await.unwrap();
        assert!(!server.session.has_transactions());
    }
}

//! The connection to a server: made when it is needed, given up when it fails, and what the server says in errors.

use std::{
    error::Error as StdError,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, Pipeline, RedisError, ServerError, Value, aio::MultiplexedConnection,
    cmd, pipe,
};

use super::{config::Config, gathered::Keys};
use crate::{
    model::{Error, ErrorKind, Result},
    storage::{
        gathered::Gathered,
        hosts::{another_service, is_unresolved, service_at, unresolved},
    },
};

/// A server, and one connection to it that all requests share.
///
/// A connection that failed, or on which a request was cancelled, is closed: the next request makes
/// another one. Its clones finish what they have under way.
pub(super) struct Server {
    config: Config,
    client: Client,
    link: AsyncConnectionConfig,
    current: Mutex<Option<Link>>,
    /// Held while connecting, so that only one does.
    connecting: tokio::sync::Mutex<History>,
    was_connected: AtomicBool,
    /// The keys of the workspaces that are about to be looked at, by prefix.
    pub(super) gathered: Gathered<Keys>,
    /// What the server said of itself when the first connection was made, if it did.
    greeting: OnceLock<Info>,
}

/// A connection.
#[derive(Clone)]
struct Link {
    /// Counts the connections.
    number: u64,
    life: ServerEpoch,
    connection: MultiplexedConnection,
}

/// One life of a server, from start to end: what it said of places among its keys means nothing in the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ServerEpoch(u64);

/// What is known of the connections so far.
#[derive(Default)]
struct History {
    connections: u64,
    lives: u64,
    /// The name that the server gave itself when it started.
    run_id: Option<String>,
}

/// A connection for one request. Dropped without [`Lease::finish`] it gives the connection up.
struct Lease<'a> {
    server: &'a Server,
    link: Link,
    finished: bool,
}

impl Lease<'_> {
    /// The connection has answered.
    fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let mut current = self.server.current();
        if current
            .as_ref()
            .is_some_and(|link| link.number == self.link.number)
        {
            *current = None;
        }
    }
}

impl Server {
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// A certificate that cannot be read.
    pub(super) fn new(config: Config) -> Result<Self> {
        let link = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(config.connect_timeout))
            // The default is 500 ms.
            .set_response_timeout(Some(config.response_timeout));
        Ok(Self {
            client: config.client()?,
            config,
            link,
            current: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            was_connected: AtomicBool::new(false),
            gathered: Gathered::default(),
            greeting: OnceLock::new(),
        })
    }

    /// The settings.
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Sends one command, and gives the server's error as an answer. `doing` says what for, for errors: "reading keys".
    ///
    /// # Errors
    /// The connection failed.
    pub(super) async fn try_one(&self, doing: &str, command: &Cmd) -> Result<Value> {
        let mut lease = self.lease().await?;
        let answer = lease.link.connection.send_packed_command(command).await;
        let answer = answer.map_err(|error| self.failed(doing, &error))?;
        lease.finish();
        Ok(answer)
    }

    /// Sends commands together: an answer for each, in order, which may be an error of the server's.
    ///
    /// # Errors
    /// The connection failed; any of the commands may have been run.
    pub(super) async fn many(&self, doing: &str, commands: &Pipeline) -> Result<Vec<Value>> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let (_, answers) = self.many_in_life(doing, commands).await?;
        Ok(answers)
    }

    /// The same, with the life of the server in which it answered. There must be a command.
    ///
    /// # Errors
    /// As [`Server::many`].
    pub(super) async fn many_in_life(
        &self,
        doing: &str,
        commands: &Pipeline,
    ) -> Result<(ServerEpoch, Vec<Value>)> {
        let mut lease = self.lease().await?;
        let answers = lease
            .link
            .connection
            .send_packed_commands(commands, 0, commands.len())
            .await;
        let answers = answers.map_err(|error| self.failed(doing, &error))?;
        if answers.len() != commands.len() {
            return Err(self.unexpected(doing));
        }
        let life = lease.link.life;
        // After a failover the name of the server may lead to another one.
        let demoted =
            |answer: &Value| matches!(answer, Value::ServerError(error) if error.code() == "READONLY");
        if !answers.iter().any(demoted) {
            lease.finish();
        }
        Ok((life, answers))
    }

    fn current(&self) -> MutexGuard<'_, Option<Link>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lease_current(&self) -> Option<Lease<'_>> {
        let link = self.current().clone()?;
        Some(Lease {
            server: self,
            link,
            finished: false,
        })
    }

    async fn lease(&self) -> Result<Lease<'_>> {
        if let Some(lease) = self.lease_current() {
            return Ok(lease);
        }
        let mut history = self.connecting.lock().await;
        // Somebody else may have connected meanwhile.
        if let Some(lease) = self.lease_current() {
            return Ok(lease);
        }
        let (connection, info) = self.connect().await?;
        let run_id = info.as_ref().and_then(Info::run_id);
        if let Some(info) = info {
            // Only what the first connection heard is kept.
            let _ = self.greeting.set(info);
        }
        // Who does not say its name may be another one each time.
        if run_id.is_none() || run_id != history.run_id {
            history.lives += 1;
        }
        history.run_id = run_id;
        history.connections += 1;
        self.was_connected.store(true, Ordering::Relaxed);
        let link = Link {
            number: history.connections,
            life: ServerEpoch(history.lives),
            connection,
        };
        *self.current() = Some(link.clone());
        Ok(Lease {
            server: self,
            link,
            finished: false,
        })
    }

    /// Connects, logs in, and chooses the database. Gives what the server says of itself too, if it does.
    async fn connect(&self) -> Result<(MultiplexedConnection, Option<Info>)> {
        let connecting = async {
            let made = self
                .client
                .get_multiplexed_async_connection_with_config(&self.link)
                .await;
            let mut connection = made.map_err(|error| self.not_connected(&error))?;
            let user = self.config.username.as_deref();
            let info = self.log_in(&mut connection, user).await?;
            Ok((connection, info))
        };
        let limit = self.config.connect_timeout;
        let connected = match tokio::time::timeout(limit, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(self.no_answer()),
        };
        match connected {
            Err(error) if self.may_be_another(&error) => match service_at(&self.config.host()).await {
                Some(found) if found != "Redis" => {
                    Err(another_service("Redis", &self.config.host(), found).caused_by(error))
                }
                _ => Err(error),
            },
            connected => connected,
        }
    }

    /// The first exchange. What the server says of itself is asked for in any case, which shows whether this is a Redis.
    async fn log_in(
        &self,
        connection: &mut MultiplexedConnection,
        user: Option<&str>,
    ) -> Result<Option<Info>> {
        let mut commands = pipe();
        let password = self.config.password.as_ref().map(|password| password.expose());
        let logs_in = user.is_some() || password.is_some();
        if logs_in {
            commands.cmd("AUTH");
            if let Some(user) = user {
                commands.arg(user);
            }
            commands.arg(password.unwrap_or_default());
        }
        let chooses = self.config.database != 0;
        if chooses {
            commands.cmd("SELECT").arg(self.config.database);
        }
        commands.cmd("INFO");
        let answers = connection
            .send_packed_commands(&commands, 0, commands.len())
            .await;
        let answers = answers.map_err(|error| self.not_greeted(&error))?;
        let mut answers = answers.into_iter();
        if logs_in && let Some(Value::ServerError(error)) = answers.next() {
            // A server before 6.0 knows no users.
            let too_old = error
                .details()
                .is_some_and(|text| text.contains("wrong number of arguments"));
            return match user {
                Some(_) if too_old => Box::pin(self.log_in(connection, None)).await,
                _ => Err(self.not_logged_in(&error)),
            };
        }
        if chooses && let Some(Value::ServerError(error)) = answers.next() {
            return Err(self.refused("connecting", &error));
        }
        match answers.next() {
            Some(Value::ServerError(error)) if keeps_out(&error) => Err(self.refused("connecting", &error)),
            // Who may not ask may still read and write.
            Some(Value::ServerError(_)) | None => Ok(None),
            Some(text) => Ok(Some(Info::read(text))),
        }
    }

    /// Whether a failed connection may have led to another service. Asked once: a Redis that was there before is one.
    fn may_be_another(&self, error: &Error) -> bool {
        matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Tls)
            && !self.config.uses_tls()
            && self.config.is_tcp()
            && !self.was_connected.load(Ordering::Relaxed)
    }

    fn host(&self) -> String {
        format!("Redis at {}", self.config.host())
    }

    fn no_answer(&self) -> Error {
        let limit = humantime::format_duration(self.config.connect_timeout);
        let message = format!("{} did not answer within {limit}", self.host());
        let error = Error::new(ErrorKind::Unreachable, message);
        if self.config.uses_tls() {
            error.with_remedy(
                "check host and port, and whether the server speaks TLS there (rediss://) or not (redis://)",
            )
        } else {
            error
        }
    }

    /// No connection was made.
    fn not_connected(&self, error: &RedisError) -> Error {
        if error.is_timeout() {
            return self.no_answer();
        }
        if let Some(error) = self.tls_failed(error) {
            return error;
        }
        if is_unresolved(&error.to_string()) {
            return unresolved("Redis", &self.config.host(), &error.to_string()).caused_by(error.clone());
        }
        let message = format!("cannot connect to {}: {error}", self.host());
        let made = Error::new(ErrorKind::Unreachable, message).caused_by(error.clone());
        if self.config.uses_tls() && is_cut(error) {
            return made
                .with_remedy("check that the server runs; use redis:// if it does not speak TLS there");
        }
        made
    }

    /// A connection was made, and nothing came back that a Redis would say. Who ends it without a word may be a Redis
    /// that wants TLS, or a proxy whose Redis is away for a moment.
    fn not_greeted(&self, error: &RedisError) -> Error {
        if error.is_timeout() {
            return self.no_answer();
        }
        if let Some(error) = self.tls_failed(error) {
            return error;
        }
        let host = self.host();
        let (kind, message) = match error.kind() {
            redis::ErrorKind::Parse => (
                ErrorKind::Tls,
                format!("{} answered, but not as Redis", self.config.host()),
            ),
            _ => (
                ErrorKind::Unreachable,
                format!("{host} ended the connection before its first answer"),
            ),
        };
        let remedy = if self.config.uses_tls() {
            "check that a Redis listens there; if it asks for a certificate, name one that it trusts in `client_cert` \
             and `client_key`"
        } else {
            "check that a Redis listens there; if it speaks TLS, use rediss://"
        };
        Error::new(kind, message)
            .with_remedy(remedy)
            .caused_by(error.clone())
    }

    /// What TLS had to say, if it was TLS that failed.
    fn tls_failed(&self, error: &RedisError) -> Option<Error> {
        use rustls::{CertificateError as Certificate, Error as Tls};
        let tls = tls_error(error)?;
        let host = self.host();
        let (message, remedy) = match tls {
            Tls::InvalidMessage(_) => (
                format!("{host} does not speak TLS"),
                "use redis:// instead of rediss://, or the port on which the server speaks TLS",
            ),
            Tls::InvalidCertificate(Certificate::UnknownIssuer) => (
                format!("the certificate of {host} was issued by an authority that is not trusted"),
                "set `ca_cert` to the authority's certificate, or ?ssl_ca_certs= in the address",
            ),
            Tls::InvalidCertificate(
                Certificate::NotValidForName | Certificate::NotValidForNameContext { .. },
            ) => (
                format!("the certificate of {host} is for another host name"),
                "use the name in the certificate",
            ),
            Tls::AlertReceived(alert) => (
                format!("{host} refused TLS: {alert:?}"),
                "if the server requires a client certificate, set `client_cert` and `client_key`",
            ),
            other => (
                format!("TLS with {host} failed: {other}"),
                "check the certificate of the server and the authority that is trusted (`ca_cert`)",
            ),
        };
        Some(
            Error::new(ErrorKind::Tls, message)
                .with_remedy(remedy)
                .caused_by(error.clone()),
        )
    }

    /// The answer to a login. The server's text may repeat what was sent, so it is not repeated.
    fn not_logged_in(&self, answer: &ServerError) -> Error {
        let user = self.config.username.as_deref().unwrap_or("default");
        let (host, database) = (self.host(), self.config.database);
        let text = answer.details().unwrap_or_default();
        let login = |message: String| Error::new(ErrorKind::Login, message);
        match answer.code() {
            "WRONGPASS" => login(format!(
                "{host} refused the password of the user `{user}` (for database {database})"
            ))
            .with_remedy(
                "check user and password; characters such as @ / ? # : % in them must be percent-encoded",
            ),
            "ERR" if text.contains("without any password configured") => login(format!(
                "{host} has no password for the user `{user}`, but one is configured"
            ))
            .with_remedy("remove the password"),
            "ERR" if text.starts_with("max number of clients") => self.refused("connecting", answer),
            "ERR" => login(format!("{host} refused the login of the user `{user}`")),
            _ => self.refused("logging in", answer),
        }
    }

    /// The connection failed during a request.
    fn failed(&self, doing: &str, error: &RedisError) -> Error {
        let host = self.host();
        if error.is_timeout() {
            let limit = humantime::format_duration(self.config.response_timeout);
            let message = format!("{doing}: {host} did not answer within {limit}");
            let error = Error::new(ErrorKind::Timeout, message);
            return error
                .with_remedy("raise --timeout and REDIS_SOCKET_TIMEOUT, or find out why the server is slow");
        }
        let message = format!("{doing}: the connection to {host} was lost ({error})");
        // A cut in the middle of an answer is an answer that cannot be read.
        let message = match error.kind() {
            redis::ErrorKind::Parse => {
                format!("{doing}: the connection to {host} was lost during a response")
            }
            _ => message,
        };
        Error::new(ErrorKind::ConnectionLost, message).caused_by(error.clone())
    }

    /// The one place that knows what a server's error means.
    pub(super) fn refused(&self, doing: &str, answer: &ServerError) -> Error {
        let text = answer.details().unwrap_or_default();
        // What follows repeats a command, which may be a record.
        let text = text.split(", with args beginning").next().unwrap_or_default();
        let (host, database) = (self.host(), self.config.database);
        let user = self.config.username.as_deref().unwrap_or("default");
        let error = |kind, what: &str| {
            let said = if text.is_empty() {
                answer.code().to_owned()
            } else {
                format!("{} {text}", answer.code())
            };
            let message = if what.is_empty() {
                format!("{doing}: {host}, database {database}, answered: {said}")
            } else {
                format!("{doing}: {host}, database {database}, {what} ({said})")
            };
            Error::new(kind, message)
        };
        match answer.code() {
            "NOAUTH" => error(ErrorKind::Login, "requires a password, but none is configured")
                .with_remedy("give it in the address, redis://:password@host:6379/0"),
            "WRONGPASS" => error(ErrorKind::Login, "refused the password"),
            "NOPERM" => error(
                ErrorKind::Permission,
                &format!("does not allow this for the user `{user}`"),
            ),
            "DENIED" => error(
                ErrorKind::Permission,
                "is in protected mode: it accepts only local connections",
            )
            .with_remedy("give the server a password, or turn its protected-mode off"),
            "LOADING" => error(ErrorKind::Busy, "is still loading its data"),
            "BUSY" => error(ErrorKind::Busy, "is busy with a script"),
            "TRYAGAIN" | "CLUSTERDOWN" | "MASTERDOWN" | "NOREPLICAS" => error(ErrorKind::Busy, ""),
            "READONLY" => error(ErrorKind::Busy, "is a read-only replica")
                .with_remedy("if no failover is in progress, use the master instead"),
            "MOVED" | "ASK" | "CROSSSLOT" => self.is_cluster(),
            "OOM" => error(ErrorKind::Full, "has no memory left")
                .with_remedy("raise the server's maxmemory or free some, then run the same command again"),
            "MISCONF" => error(ErrorKind::Full, "cannot save its data and refuses writes")
                .with_remedy("see the server's log: usually its disk is full or read-only"),
            "ERR" if text.starts_with("max number of clients") => {
                error(ErrorKind::Busy, "has no connection left")
            }
            "ERR"
                if text.contains("DB index is out of range") || text.starts_with("SELECT is not allowed") =>
            {
                error(ErrorKind::NotFound, "has no database with this number")
                    .with_remedy("use a number below the server's `databases` (usually 16, in a cluster 1)")
            }
            "ERR"
                if text.contains("invalid bulk length") || text.contains("exceeds maximum allowed size") =>
            {
                error(ErrorKind::RequestTooLarge, "does not accept a value of this size")
            }
            _ => error(ErrorKind::Server, ""),
        }
    }

    /// The error for a server that has only some of the keys.
    pub(super) fn is_cluster(&self) -> Error {
        let message = format!(
            "{} is one of several masters of a Redis Cluster and has only some of the keys",
            self.host()
        );
        Error::new(ErrorKind::Server, message)
            .with_remedy("use a Redis that is not a cluster: LightRAG does not support clusters either")
    }

    /// The error for an answer of a form that Redis does not give.
    pub(super) fn unexpected(&self, doing: &str) -> Error {
        let message = format!("{doing}: {} sent a response in an unknown format", self.host());
        Error::new(ErrorKind::Server, message)
            .with_remedy("check that it is Redis, not a proxy with rules of its own")
    }

    /// What the server says of itself; empty where the login may not ask.
    ///
    /// # Errors
    /// The connection failed, the server refused the login or is not ready.
    pub(super) async fn info(&self) -> Result<Info> {
        let doing = "checking the server";
        match self.try_one(doing, &cmd("INFO")).await? {
            Value::ServerError(error) if matches!(error.code(), "NOPERM" | "ERR") => Ok(Info::default()),
            Value::ServerError(error) => Err(self.refused(doing, &error)),
            text => Ok(Info::read(text)),
        }
    }

    /// What the server said of itself when the first connection was made.
    ///
    /// # Errors
    /// As [`Server::info`].
    pub(super) async fn greeting(&self) -> Result<Info> {
        self.lease().await?.finish();
        match self.greeting.get() {
            Some(info) => Ok(info.clone()),
            None => self.info().await,
        }
    }

    /// A setting of the server; `None` where the login may not ask.
    ///
    /// # Errors
    /// The connection failed.
    pub(super) async fn setting(&self, name: &str) -> Result<Option<String>> {
        let answer = self
            .try_one("checking the server", cmd("CONFIG").arg("GET").arg(name))
            .await?;
        Ok(value_of(&answer))
    }

    /// Refuses a server that has only some of the keys: the others would be missing silently.
    ///
    /// # Errors
    /// It is such a server, or the connection failed.
    pub(super) async fn check_is_whole(&self, info: &Info) -> Result<()> {
        if info.get("cluster_enabled") != Some("1") {
            return Ok(());
        }
        let answer = self
            .try_one("checking the cluster", cmd("CLUSTER").arg("INFO"))
            .await?;
        match Info::read(answer).number("cluster_size") {
            Some(0 | 1) => Ok(()),
            _ => Err(self.is_cluster()),
        }
    }
}

/// A replica that has not received its master's data yet would be read as a server with few records, or none.
/// One that lost its master has what it had.
///
/// # Errors
/// [`ErrorKind::Busy`] where it is such a replica.
pub(super) fn check_has_caught_up(location: &str, info: &Info) -> Result<()> {
    if info.get("role") != Some("slave") || info.get("master_link_status") != Some("down") {
        return Ok(());
    }
    let is_syncing = info.get("master_sync_in_progress") == Some("1");
    let never_did = info.get("master_link_down_since_seconds") == Some("-1");
    if is_syncing || never_did {
        let message = format!("{location} is a replica that has not received the data of its master yet");
        let remedy = "wait until it has, or use the master; if the master is lost, promote this replica (REPLICAOF NO ONE)";
        return Err(Error::new(ErrorKind::Busy, message).with_remedy(remedy));
    }
    tracing::warn!("{location} is a replica that has lost its master; its data may be old");
    Ok(())
}

/// The server's `INFO`: lines of `name:value`.
#[derive(Clone, Debug, Default)]
pub(super) struct Info(String);

impl Info {
    #[cfg(test)]
    pub(super) fn of(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Reads an answer; anything but text says nothing.
    fn read(answer: Value) -> Self {
        match answer {
            Value::BulkString(text) => Self(String::from_utf8_lossy(&text).into_owned()),
            Value::VerbatimString { text, .. } => Self(text),
            _ => Self::default(),
        }
    }

    /// The name that the server gave itself when it started.
    pub(super) fn run_id(&self) -> Option<String> {
        self.get("run_id").filter(|id| !id.is_empty()).map(str::to_owned)
    }

    /// A value.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let mut lines = self.0.lines().filter_map(|line| line.split_once(':'));
        lines
            .find(|(found, _)| *found == name)
            .map(|(_, value)| value.trim())
    }

    /// A value that is a number.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    /// Major and minor version.
    pub(super) fn version(&self) -> Option<(u32, u32)> {
        let mut parts = self.get("redis_version")?.split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }
}

/// The value in an answer to `CONFIG GET` for one setting; `None` if the login may not ask.
pub(super) fn value_of(answer: &Value) -> Option<String> {
    let Value::Array(pair) = answer else { return None };
    match &pair[..] {
        [_, Value::BulkString(value)] => Some(String::from_utf8_lossy(value).into_owned()),
        _ => None,
    }
}

/// Whether a server does not know a command, or does not let this login use it. Proxies and managed services have words of
/// their own for it.
pub(super) fn is_not_offered(answer: &ServerError) -> bool {
    let text = answer.details().unwrap_or_default().to_ascii_lowercase();
    match answer.code() {
        "NOPERM" => true,
        "ERR" => [
            "unknown command",
            "not allowed",
            "not supported",
            "unsupported",
            "disabled",
        ]
        .iter()
        .any(|said| text.contains(said)),
        _ => false,
    }
}

/// Whether the answer to the first question says that nothing else will be answered either.
fn keeps_out(answer: &ServerError) -> bool {
    let text = answer.details().unwrap_or_default();
    matches!(answer.code(), "NOAUTH" | "DENIED") || text.starts_with("max number of clients")
}

fn is_cut(error: &RedisError) -> bool {
    error.is_connection_dropped() && !error.is_connection_refusal()
}

/// The error of TLS inside of an error, if it was TLS that failed.
fn tls_error(error: &RedisError) -> Option<&rustls::Error> {
    // The client shares its causes, and an I/O error hides what it was made of from `source`.
    let cause = StdError::source(error)?;
    let cause: &(dyn StdError + 'static) = match cause.downcast_ref::<Arc<dyn StdError + Send + Sync>>() {
        Some(shared) => &**shared,
        None => cause,
    };
    let inner = cause
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref);
    match inner {
        Some(inner) => inner.downcast_ref(),
        None => cause.downcast_ref(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::{num::NonZeroUsize, time::Duration};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::{
        model::Value as Setting,
        model::{Origin, Secret, Side, Values, record::OnInvalid},
        storage::ConnectOptions,
    };

    pub(in super::super) const GREETING: &str = "$10\r\nrun_id:abc\r\n";
    pub(in super::super) const GREETING_OF_ANOTHER: &str = "$10\r\nrun_id:def\r\n";

    /// A server that gives each connection its answers. After the last one it closes the connection: at the next request,
    /// or at once where the answer is not whole. To an empty answer it never comes.
    pub(in super::super) async fn server(connections: &[&[&str]]) -> Server {
        let owned = |answers: &&[&str]| answers.iter().map(|answer| (*answer).to_owned()).collect();
        let connections: Vec<Vec<String>> = connections.iter().map(owned).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for answers in connections {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    for answer in &answers {
                        let _ = stream.read(&mut request).await;
                        let _ = stream.write_all(answer.as_bytes()).await;
                        if answer.is_empty() {
                            std::future::pending::<()>().await;
                        }
                    }
                    if answers.last().is_some_and(|last| last.ends_with("\r\n")) {
                        let _ = stream.read(&mut request).await;
                    }
                });
            }
        });
        let mut values = Values::new(Side::Target);
        let text = Secret::new(format!("redis://127.0.0.1:{port}?socket_timeout=0.3"));
        let origin = Origin::Default;
        values.set("uri", Setting { text, origin });
        let options = ConnectOptions {
            timeout: Duration::from_secs(10),
            concurrency: NonZeroUsize::MIN,
            on_invalid: OnInvalid::Reject,
            salvage: false,
            waiter: crate::storage::SilentWaiter::shared(0),
        };
        Server::new(Config::new(&values, &options).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn what_the_server_says_of_itself_is_asked_once() {
        let greeted = server(&[&[GREETING]]).await;
        assert_eq!(greeted.greeting().await.unwrap().run_id().as_deref(), Some("abc"));
        let refused = "-NOPERM no permission\r\n";
        let silent = server(&[&[refused, refused]]).await;
        assert_eq!(silent.greeting().await.unwrap().run_id(), None);
    }

    async fn get(server: &Server) -> Result<Value> {
        match server.try_one("reading", cmd("GET").arg("a")).await? {
            Value::ServerError(error) => Err(server.refused("reading", &error)),
            value => Ok(value),
        }
    }

    #[tokio::test]
    async fn after_a_lost_connection_the_next_request_makes_another() {
        let server = server(&[&[GREETING], &[GREETING, "$9\r\ncut"], &[GREETING, "$1\r\nb\r\n"]]).await;
        for _ in 0..2 {
            let error = get(&server).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionLost, "{error}");
            assert!(error.is_temporary());
        }
        assert_eq!(get(&server).await.unwrap(), Value::BulkString(b"b".to_vec()));
    }

    #[tokio::test]
    async fn a_connection_that_does_not_answer_is_given_up() {
        let server = server(&[&[GREETING, ""], &[GREETING, ""], &[GREETING, "$1\r\nb\r\n"]]).await;
        let error = get(&server).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        // Somebody else may be the first to lose patience.
        let impatient = tokio::time::timeout(Duration::from_millis(100), get(&server));
        assert!(impatient.await.is_err());
        assert_eq!(get(&server).await.unwrap(), Value::BulkString(b"b".to_vec()));
    }

    #[tokio::test]
    async fn a_server_that_was_demoted_is_connected_to_anew() {
        let server = server(&[&[GREETING, "-READONLY replica\r\n"], &[GREETING, "+OK\r\n"]]).await;
        let mut set = pipe();
        set.cmd("SET").arg("a").arg("b");
        let answers = server.many("writing", &set).await.unwrap();
        let [Value::ServerError(error)] = &answers[..] else {
            panic!("{answers:?}");
        };
        assert_eq!(server.refused("writing", error).kind(), ErrorKind::Busy);
        assert_eq!(server.many("writing", &set).await.unwrap(), [Value::Okay]);
    }

    #[tokio::test]
    async fn a_new_connection_to_the_same_server_is_no_new_life() {
        const ANSWER: &str = "+OK\r\n";
        let server = server(&[
            &[GREETING, ANSWER],
            &[GREETING, ANSWER],
            &[GREETING_OF_ANOTHER, ANSWER],
        ])
        .await;
        let mut commands = pipe();
        commands.cmd("PING");
        let mut lives = Vec::new();
        while lives.len() < 3 {
            if let Ok((life, _)) = server.many_in_life("reading", &commands).await {
                lives.push(life);
            }
        }
        assert_eq!(lives, [ServerEpoch(1), ServerEpoch(1), ServerEpoch(2)]);
    }

    #[tokio::test]
    async fn what_a_server_answers_has_its_kind() {
        for (answer, kind) in [
            ("LOADING Redis is loading the dataset in memory", ErrorKind::Busy),
            ("BUSY Redis is busy running a script", ErrorKind::Busy),
            (
                "TRYAGAIN Multiple keys request during rehashing of slot",
                ErrorKind::Busy,
            ),
            ("CLUSTERDOWN The cluster is down", ErrorKind::Busy),
            ("MASTERDOWN Link with MASTER is down", ErrorKind::Busy),
            ("NOREPLICAS Not enough good replicas to write.", ErrorKind::Busy),
            (
                "READONLY You can't write against a read only replica.",
                ErrorKind::Busy,
            ),
            ("ERR max number of clients reached", ErrorKind::Busy),
            (
                "OOM command not allowed when used memory > 'maxmemory'.",
                ErrorKind::Full,
            ),
            (
                "MISCONF Redis is configured to save RDB snapshots",
                ErrorKind::Full,
            ),
            ("NOAUTH Authentication required.", ErrorKind::Login),
            (
                "NOPERM this user has no permissions to run the 'get' command",
                ErrorKind::Permission,
            ),
            ("DENIED Redis is running in protected mode", ErrorKind::Permission),
            ("MOVED 3999 127.0.0.1:6381", ErrorKind::Server),
            (
                "ERR string exceeds maximum allowed size (proto-max-bulk-len)",
                ErrorKind::RequestTooLarge,
            ),
            (
                "ERR unknown command 'GET', with args beginning with: 'hunter2'",
                ErrorKind::Server,
            ),
        ] {
            let answer = format!("-{answer}\r\n");
            let error = get(&server(&[&[GREETING, &answer]]).await).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(!error.message().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn an_error_of_tls_is_found_inside_of_the_clients() {
        let tls = || rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let wrapped = RedisError::from(std::io::Error::new(std::io::ErrorKind::InvalidData, tls()));
        assert_eq!(tls_error(&wrapped), Some(&tls()));
        assert_eq!(tls_error(&RedisError::from(tls())), Some(&tls()));
        assert_eq!(tls_error(&RedisError::from(std::io::Error::other("else"))), None);
    }

    #[test]
    fn what_a_server_says_of_itself_is_read() {
        let info = Info("# Server\r\nredis_version:7.0.15\r\nrun_id:abc\r\n\r\nmaxmemory:0\r\n".to_owned());
        assert_eq!(info.version(), Some((7, 0)));
        assert_eq!(info.get("run_id"), Some("abc"));
        assert_eq!(info.number("maxmemory"), Some(0));
        assert_eq!(info.get("id"), None);
        assert_eq!(Info::default().version(), None);
    }
}

//! The connection to a server: made when it is needed, given up when it fails, and what the server says in errors.

use std::{
    error::Error as StdError,
    sync::{Mutex, MutexGuard, PoisonError},
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, Pipeline, RedisError, ServerError, Value, aio::MultiplexedConnection,
    cmd, pipe,
};

use super::config::Config;
use crate::error::{Error, ErrorKind, Result};

/// A server, and one connection to it that all requests share.
///
/// A connection that failed, or on which nobody waited for an answer to its end, is given up: the next request makes
/// another one. Its clones finish what they have under way.
pub(super) struct Server {
    config: Config,
    client: Client,
    link: AsyncConnectionConfig,
    current: Mutex<Option<(u64, MultiplexedConnection)>>,
    /// Held while connecting, so that only one does; counts the connections.
    connecting: tokio::sync::Mutex<u64>,
}

/// A connection for one request. Dropped without [`Lease::finish`] it gives the connection up.
struct Lease<'a> {
    server: &'a Server,
    number: u64,
    connection: MultiplexedConnection,
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
        if current.as_ref().is_some_and(|(number, _)| *number == self.number) {
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
            // 500 ms where nobody says anything.
            .set_response_timeout(Some(config.response_timeout));
        Ok(Self {
            client: config.client()?,
            config,
            link,
            current: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
        })
    }

    /// The settings.
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Sends one command. `doing` says what for, for errors: "reading keys".
    ///
    /// # Errors
    /// The connection failed, or the server answered with an error.
    pub(super) async fn one(&self, doing: &str, command: &Cmd) -> Result<Value> {
        match self.try_one(doing, command).await? {
            Value::ServerError(error) => Err(self.refused(doing, &error)),
            value => Ok(value),
        }
    }

    /// Sends one command, and gives the server's error as an answer.
    ///
    /// # Errors
    /// The connection failed.
    pub(super) async fn try_one(&self, doing: &str, command: &Cmd) -> Result<Value> {
        let mut lease = self.lease().await?;
        let answer = lease.connection.send_packed_command(command).await;
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
        let mut lease = self.lease().await?;
        let answers = lease
            .connection
            .send_packed_commands(commands, 0, commands.len())
            .await;
        let answers = answers.map_err(|error| self.failed(doing, &error))?;
        if answers.len() != commands.len() {
            return Err(self.unexpected(doing));
        }
        // After a failover the name of the server may lead to another one.
        let demoted =
            |answer: &Value| matches!(answer, Value::ServerError(error) if error.code() == "READONLY");
        if !answers.iter().any(demoted) {
            lease.finish();
        }
        Ok(answers)
    }

    fn current(&self) -> MutexGuard<'_, Option<(u64, MultiplexedConnection)>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lease_current(&self) -> Option<Lease<'_>> {
        let (number, connection) = self.current().clone()?;
        Some(Lease {
            server: self,
            number,
            connection,
            finished: false,
        })
    }

    async fn lease(&self) -> Result<Lease<'_>> {
        if let Some(lease) = self.lease_current() {
            return Ok(lease);
        }
        let mut count = self.connecting.lock().await;
        // Somebody else may have connected meanwhile.
        if let Some(lease) = self.lease_current() {
            return Ok(lease);
        }
        let connection = self.connect().await?;
        *count += 1;
        *self.current() = Some((*count, connection.clone()));
        Ok(Lease {
            server: self,
            number: *count,
            connection,
            finished: false,
        })
    }

    /// Connects, logs in, and chooses the database.
    async fn connect(&self) -> Result<MultiplexedConnection> {
        let connecting = async {
            let made = self
                .client
                .get_multiplexed_async_connection_with_config(&self.link)
                .await;
            let mut connection = made.map_err(|error| self.not_connected(&error))?;
            self.log_in(&mut connection, self.config.username.as_deref())
                .await?;
            Ok(connection)
        };
        let limit = self.config.connect_timeout;
        match tokio::time::timeout(limit, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(self.no_answer()),
        }
    }

    /// The first exchange; without a password it is a mere greeting, which shows whether this is a Redis.
    async fn log_in(&self, connection: &mut MultiplexedConnection, user: Option<&str>) -> Result<()> {
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
        if commands.is_empty() {
            commands.cmd("PING");
        }
        let answers = connection
            .send_packed_commands(&commands, 0, commands.len())
            .await;
        let answers = answers.map_err(|error| self.not_greeted(&error))?;
        let mut answers = answers.iter();
        if logs_in && let Some(Value::ServerError(error)) = answers.next() {
            // A server before 6.0 knows no users.
            let too_old = error
                .details()
                .is_some_and(|text| text.contains("wrong number of arguments"));
            return match user {
                Some(_) if too_old => Box::pin(self.log_in(connection, None)).await,
                _ => Err(self.not_logged_in(error)),
            };
        }
        match answers.next() {
            // Whoever may not be greeted may still read.
            Some(Value::ServerError(error)) if chooses || error.code() != "NOPERM" => {
                let doing = if chooses {
                    "choosing the database"
                } else {
                    "connecting"
                };
                Err(self.refused(doing, error))
            }
            _ => Ok(()),
        }
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
        let host = self.host();
        if self.config.uses_tls() && is_cut(error) {
            return Error::new(
                ErrorKind::Tls,
                format!("{host} ended the connection while TLS was agreed on"),
            )
            .with_remedy("use redis:// if the server does not speak TLS there; else see the server's log");
        }
        Error::new(
            ErrorKind::Unreachable,
            format!("cannot connect to {host}: {error}"),
        )
        .caused_by(error.clone())
    }

    /// A connection was made, and nothing came back that a Redis would say.
    fn not_greeted(&self, error: &RedisError) -> Error {
        if error.is_timeout() {
            return self.no_answer();
        }
        if let Some(error) = self.tls_failed(error) {
            return error;
        }
        let host = self.host();
        if self.config.uses_tls() {
            return self.failed("connecting", error);
        }
        Error::new(
            ErrorKind::Tls,
            format!("{host} ended the connection before its first answer"),
        )
        .with_remedy(
            "use rediss:// if the server speaks TLS there; else check that a Redis listens on that port",
        )
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
                format!("the certificate of {host} comes from an authority that is not trusted here"),
                "name the authority's certificate in `ca_cert`, or as ?ssl_ca_certs= in the address",
            ),
            Tls::InvalidCertificate(
                Certificate::NotValidForName | Certificate::NotValidForNameContext { .. },
            ) => (
                format!("the certificate of {host} is for another host name"),
                "use the name that stands in the certificate",
            ),
            Tls::AlertReceived(alert) => (
                format!("{host} refused TLS: {alert:?}"),
                "if the server asks for a certificate, name it in `client_cert` and `client_key`",
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
            )),
            "ERR" if text.contains("without any password configured") => login(format!(
                "{host} has no password for the user `{user}`, and one was given"
            ))
            .with_remedy("leave the password out of the address"),
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
                .with_remedy("raise --timeout and REDIS_SOCKET_TIMEOUT, or look why the server is slow");
        }
        let message = format!("{doing}: the connection to {host} was lost ({error})");
        // A cut in the middle of an answer is an answer that cannot be read.
        let message = match error.kind() {
            redis::ErrorKind::Parse => format!("{doing}: the connection to {host} was cut in an answer"),
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
            "NOAUTH" => error(ErrorKind::Login, "asks for a password")
                .with_remedy("give it in the address, redis://:password@host:6379/0"),
            "WRONGPASS" => error(ErrorKind::Login, "refused the password"),
            "NOPERM" => error(
                ErrorKind::Permission,
                &format!("does not allow this to the user `{user}`"),
            ),
            "DENIED" => error(
                ErrorKind::Permission,
                "is in protected mode: it takes connections from its own machine alone",
            )
            .with_remedy("give the server a password, or turn its protected-mode off"),
            "LOADING" => error(ErrorKind::Busy, "is still loading its data"),
            "BUSY" => error(ErrorKind::Busy, "is busy with a script"),
            "TRYAGAIN" | "CLUSTERDOWN" | "MASTERDOWN" | "NOREPLICAS" => error(ErrorKind::Busy, ""),
            "READONLY" => error(ErrorKind::Busy, "is a read-only replica")
                .with_remedy("if no failover is under way, name the master instead"),
            "MOVED" | "ASK" | "CROSSSLOT" => self.is_cluster(),
            "OOM" => error(ErrorKind::Full, "has no memory left")
                .with_remedy("raise the server's maxmemory or free some, then run the same command again"),
            "MISCONF" => error(ErrorKind::Full, "cannot save its data and so takes no writes")
                .with_remedy("see the server's log: as a rule its disk is full or read-only"),
            "ERR" if text.starts_with("max number of clients") => {
                error(ErrorKind::Busy, "has no connection left")
            }
            "ERR" if text.contains("DB index is out of range") => {
                error(ErrorKind::NotFound, "has no database of this number")
                    .with_remedy("name one below the server's `databases` (16 as a rule)")
            }
            "ERR"
                if text.contains("invalid bulk length") || text.contains("exceeds maximum allowed size") =>
            {
                error(ErrorKind::RequestTooLarge, "takes no value of this size")
            }
            _ => error(ErrorKind::Server, ""),
        }
    }

    /// The error for a server that holds a part of the keys.
    pub(super) fn is_cluster(&self) -> Error {
        let message = format!(
            "{} is one of several masters of a Redis Cluster, and holds only a part of the keys",
            self.host()
        );
        Error::new(ErrorKind::Server, message)
            .with_remedy("name a Redis that is no cluster: LightRAG does not work with one either")
    }

    /// The error for an answer of a form that Redis does not give.
    pub(super) fn unexpected(&self, doing: &str) -> Error {
        let message = format!("{doing}: {} gave an answer of an unknown form", self.host());
        Error::new(ErrorKind::Server, message)
            .with_remedy("check that it is a Redis, and no proxy with rules of its own")
    }

    /// What the server says of itself; empty where the login may not ask.
    ///
    /// # Errors
    /// The connection failed, the server refused the login or is not ready.
    pub(super) async fn info(&self) -> Result<Info> {
        let doing = "looking at the server";
        match self.try_one(doing, &cmd("INFO")).await? {
            Value::ServerError(error) if matches!(error.code(), "NOPERM" | "ERR") => Ok(Info::default()),
            Value::ServerError(error) => Err(self.refused(doing, &error)),
            Value::BulkString(text) => Ok(Info(String::from_utf8_lossy(&text).into_owned())),
            Value::VerbatimString { text, .. } => Ok(Info(text)),
            _ => Err(self.unexpected(doing)),
        }
    }

    /// A setting of the server; `None` where the login may not ask.
    ///
    /// # Errors
    /// The connection failed.
    pub(super) async fn setting(&self, name: &str) -> Result<Option<String>> {
        let answer = self
            .try_one("looking at the server", cmd("CONFIG").arg("GET").arg(name))
            .await?;
        let Value::Array(pair) = answer else {
            return Ok(None);
        };
        Ok(match &pair[..] {
            [_, Value::BulkString(value)] => Some(String::from_utf8_lossy(value).into_owned()),
            _ => None,
        })
    }

    /// Refuses a server that holds a part of the keys: what is on the others would be missing, silently.
    ///
    /// # Errors
    /// It is such a server, or the connection failed.
    pub(super) async fn check_is_whole(&self, info: &Info) -> Result<()> {
        if info.get("cluster_enabled") != Some("1") {
            return Ok(());
        }
        let answer = self
            .try_one("looking at the cluster", cmd("CLUSTER").arg("INFO"))
            .await?;
        let Value::BulkString(text) = answer else {
            return Err(self.is_cluster());
        };
        match Info(String::from_utf8_lossy(&text).into_owned()).number("cluster_size") {
            Some(0 | 1) => Ok(()),
            _ => Err(self.is_cluster()),
        }
    }
}

/// The server's `INFO`: lines of `name:value`.
#[derive(Clone, Debug, Default)]
pub(super) struct Info(String);

impl Info {
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

fn is_cut(error: &RedisError) -> bool {
    error.is_connection_dropped() && !error.is_connection_refusal()
}

/// The error of TLS among the causes of an error.
fn tls_error(error: &RedisError) -> Option<&rustls::Error> {
    let mut cause = StdError::source(error);
    while let Some(error) = cause {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        if let Some(inner) = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
            && let Some(tls) = inner.downcast_ref::<rustls::Error>()
        {
            return Some(tls);
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

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

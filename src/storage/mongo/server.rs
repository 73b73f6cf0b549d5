//! The connection to a server: its limits, its identity, and what its errors mean.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io::ErrorKind as Io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use mongodb::{
    Client, Collection, Database,
    action::Action,
    bson::{Bson, Document, RawDocument, RawDocumentBuf, doc},
    error::{
        Error as DriverError, ErrorKind as DriverErrorKind, InsertManyError, RETRYABLE_ERROR,
        RETRYABLE_WRITE_ERROR, SYSTEM_OVERLOADED_ERROR, TRANSIENT_TRANSACTION_ERROR, WriteFailure,
    },
    event::{EventHandler, sdam::SdamEvent},
    options::{Collation, CollectionOptions, ReadPreference, SelectionCriteria, Tls, WriteConcern},
};
use tokio::sync::{Notify, OnceCell};

use super::{
    checks::Facts,
    config::Config,
    extras::{Extras, WriteAttempt, is_about_the_request},
};
use crate::{
    model::{Error, ErrorKind, Result, Secret},
    storage::{
        gathered::Gathered,
        hosts::{LONG_LOGIN, another_service, is_unresolved, service_at, unresolved},
    },
};

/// How many collections are described in one answer.
const LISTED_AT_ONCE: u32 = 1000;

const LIST: &str = "list the collections of";

/// What the server takes at once, as its `hello` says (MongoDB manual, "MongoDB Limits and Thresholds").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Bytes of a document.
    pub(super) document: usize,
    /// Operations in a write command.
    pub(super) operations: usize,
}

impl Limits {
    fn of(hello: &Document) -> Self {
        let limit = |name: &str, default| {
            let said = integer(hello.get(name)).and_then(|limit| usize::try_from(limit).ok());
            said.filter(|limit| *limit > 0).unwrap_or(default)
        };
        Self {
            document: limit("maxBsonObjectSize", 16 << 20),
            operations: limit("maxWriteBatchSize", 100_000),
        }
    }
}

/// A whole number in a reply, which servers write in any of their types.
pub(super) fn integer(value: Option<&Bson>) -> Option<i64> {
    match value? {
        Bson::Int32(number) => Some(i64::from(*number)),
        Bson::Int64(number) => Some(*number),
        // Counts and codes are far below 2⁵³.
        Bson::Double(number) => Some(*number as i64),
        _ => None,
    }
}

/// What a server says of something that does not change during a run, requested once.
#[derive(Default)]
pub(super) struct Remembered<T>(OnceCell<T>);

impl<T: Clone + Default> Remembered<T> {
    /// The answer, which is requested if there is none yet. `None` from the server counts as an answer that says nothing, and
    /// is not kept: the next call asks again.
    ///
    /// # Errors
    /// That of the request.
    pub(super) async fn get(&self, ask: impl Future<Output = Result<Option<T>>>) -> Result<Cow<'_, T>> {
        let answer = async {
            match ask.await {
                Ok(answer) => answer.ok_or(None),
                Err(error) => Err(Some(error)),
            }
        };
        match self.0.get_or_try_init(|| answer).await {
            Ok(answer) => Ok(Cow::Borrowed(answer)),
            Err(None) => Ok(Cow::Owned(T::default())),
            Err(Some(error)) => Err(error),
        }
    }
}

/// A connected server and one of its databases. Without `Debug`, since the client contains the password.
pub(super) struct Server {
    client: Client,
    database: Database,
    names: Names,
    /// What it says of itself.
    pub(super) identity: String,
    pub(super) limits: Limits,
    write_concern: WriteConcern,
    /// Whether the address asks for that write concern.
    concern_is_asked_for: bool,
    pub(super) extras: Extras,
    login_status: Remembered<Document>,
    /// The facts of collections that were listed.
    pub(super) listed: Gathered<Facts>,
    heartbeats: Arc<Heartbeats>,
    /// How long it took to connect.
    login: Duration,
    is_opened_ahead: AtomicBool,
    /// How long a request may take whose answer does not grow with the cache.
    patience: Duration,
}

/// What errors name.
struct Names {
    database: String,
    location: String,
    hosts: String,
    user: Option<String>,
    password: Option<Secret>,
    tls: bool,
}

impl Server {
    /// Connects and logs in.
    ///
    /// # Errors
    /// No server is there, TLS or the login fails.
    pub(super) async fn connect(config: Config) -> Result<Self> {
        let Config {
            mut options,
            database,
            location,
            hosts,
            user,
            password,
            write_concern,
            concern_is_asked_for,
            warnings: _,
            patience,
        } = config;
        let heartbeats = Arc::new(Heartbeats::default());
        let seeds = options.hosts.len();
        let listener = Arc::clone(&heartbeats);
        options.sdam_event_handler = Some(EventHandler::callback(move |event| listener.hear(event)));
        let names = Names {
            tls: matches!(options.tls, Some(Tls::Enabled(_))),
            database,
            location,
            hosts,
            user,
            password,
        };
        let client = Client::with_options(options).map_err(|error| connecting_failed(&names.hosts, error))?;
        let mut server = Self {
            database: client.database(&names.database),
            client,
            names,
            identity: String::new(),
            limits: Limits::of(&Document::new()),
            write_concern,
            concern_is_asked_for,
            extras: Extras::default(),
            login_status: Remembered::default(),
            listed: Gathered::default(),
            heartbeats,
            login: Duration::ZERO,
            is_opened_ahead: AtomicBool::new(false),
            patience,
        };
        let began = Instant::now();
        // The driver looks for a server again and again until its time is up; when every host has refused, it is known.
        let hello = tokio::select! {
            hello = server.hello() => hello,
            error = server.heartbeats.all_failed(seeds) => Err(error),
        };
        let hello = match hello {
            Ok(hello) => hello,
            Err(error) => return Err(server.not_connected(error).await),
        };
        server.login = began.elapsed();
        server.limits = Limits::of(&hello);
        server.identity = server.identify(&hello).await;
        Ok(server)
    }

    /// Asks the primary, where there is one: every client of a replica set then hears the same.
    async fn hello(&self) -> Result<Document, DriverError> {
        let ask = |command| {
            self.database
                .run_command(command)
                .selection_criteria(primary_preferred())
        };
        match ask(doc! { "hello": 1 }).await {
            // Its name before MongoDB 4.4, which some services know alone.
            Err(error) if is_about_the_request(&error) => ask(doc! { "isMaster": 1 }).await,
            answer => answer,
        }
    }

    /// Opens connections to a distant server before requests need them, once, as far as the address allows. Those that cannot be
    /// opened are done without: a request that needs one reports why.
    pub(super) fn open_ahead(&self, connections: usize) {
        if self.login < LONG_LOGIN || self.is_opened_ahead.swap(true, Ordering::Relaxed) {
            return;
        }
        // The driver opens a connection for a request that finds none idle, so these are made at the same time.
        for _ in 0..connections {
            let database = self.database.clone();
            tokio::spawn(async move {
                let ping = database.run_command(doc! { "ping": 1 });
                let members = database.selection_criteria().cloned();
                let pinged = ping.optional(members, |ping, members| ping.selection_criteria(members));
                if let Err(error) = pinged.await {
                    tracing::debug!("no further connection was opened: {error}");
                }
            });
        }
    }

    /// Whether the server answers at all.
    pub(super) async fn answers(&self) -> bool {
        self.hello().await.is_ok()
    }

    /// A write, acknowledged as the address asks, or by a majority if it does not and the server knows that.
    pub(super) fn write(&self) -> WriteAttempt<'_> {
        self.extras.write(&self.write_concern, !self.concern_is_asked_for)
    }

    /// Runs a command on the database, on one of these members. An empty document if the server does not know the command or
    /// refuses it to this login; `None` if it failed for another reason, so that it may be answered next time.
    ///
    /// # Errors
    /// No such member can be reached, or it is busy.
    pub(super) async fn ask(
        &self,
        command: Document,
        members: SelectionCriteria,
        action: &str,
    ) -> Result<Option<Document>> {
        let asked = self.database.run_command(command);
        match asked.selection_criteria(members).await {
            Ok(answer) => Ok(Some(answer)),
            Err(error) => {
                let is_final = is_refused_for_good(&error);
                match self.failed(action, error) {
                    error if error.is_temporary() => Err(error),
                    _ => Ok(is_final.then(Document::new)),
                }
            }
        }
    }

    /// Makes a request with a time limit. The driver has none, and neither has the engine where it waits for a storage to look
    /// through everything.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`].
    async fn in_time<T>(
        &self,
        action: &str,
        request: impl IntoFuture<Output = Result<T, DriverError>>,
    ) -> Result<Result<T, DriverError>> {
        tokio::time::timeout(self.patience, request.into_future())
            .await
            .map_err(|_| {
                let limit = humantime::format_duration(self.patience);
                let message = format!("cannot {action} {}: no answer within {limit}", self.location());
                Error::new(ErrorKind::Timeout, message)
            })
    }

    /// What the primary says about this login, as [`Server::ask`] returns it. Requested once for all collections.
    ///
    /// # Errors
    /// As [`Server::ask`].
    pub(super) async fn login_status(&self) -> Result<Cow<'_, Document>> {
        let command = doc! { "connectionStatus": 1, "showPrivileges": true };
        self.login_status
            .get(self.ask(command, primary(), "read the permissions at"))
            .await
    }

    /// Looks at the description of each collection, as one of these members gives it. False if there is no list, or only a
    /// part of it.
    ///
    /// # Errors
    /// No such member can be reached, or it is busy.
    pub(super) async fn list_collections(
        &self,
        members: SelectionCriteria,
        mut look: impl FnMut(&RawDocument),
    ) -> Result<bool> {
        let command = doc! { "listCollections": 1, "cursor": { "batchSize": LISTED_AT_ONCE } };
        let request = self
            .database
            .run_cursor_command(command)
            .selection_criteria(members)
            .batch_size(LISTED_AT_ONCE);
        let failed = |error| self.failed(LIST, error);
        let listing = async {
            let mut collections = self.in_time(LIST, request).await?.map_err(failed)?;
            while self.in_time(LIST, collections.advance()).await?.map_err(failed)? {
                look(collections.current());
            }
            Ok::<(), Error>(())
        };
        match listing.await {
            Ok(()) => Ok(true),
            // To describe all of them may take too long where one can be described.
            Err(error) if error.is_temporary() && error.kind() != ErrorKind::Timeout => Err(error),
            Err(error) => {
                tracing::debug!("collections are asked about one by one: {error}");
                Ok(false)
            }
        }
    }

    /// The names of the collections that the login may see.
    pub(super) async fn collection_names(&self) -> Result<Vec<String>> {
        let list = || self.database.list_collection_names();
        // A login that may read some collections may list those.
        let names = match self.in_time(LIST, list().authorized_collections(true)).await? {
            Err(error) if is_about_the_request(&error) => self.in_time(LIST, list()).await?,
            names => names,
        };
        names.map_err(|error| self.failed(LIST, error))
    }

    /// An identity by which a server is known however it was reached. A process gives each of its lives an id; that of the
    /// primary identifies a replica set. The routers of a sharded cluster share the cluster's id, where the login may read
    /// it.
    async fn identify(&self, hello: &Document) -> String {
        if hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid") {
            let version = self.client.database("config").collection::<Document>("version");
            let cluster = version.find_one(doc! {}).await.ok().flatten();
            return match cluster.as_ref().and_then(|version| version.get("clusterId")) {
                Some(id) => format!("cluster {id}"),
                None => format!("cluster at {}", self.names.hosts),
            };
        }
        let process = hello.get_document("topologyVersion").ok();
        if let Some(id) = process.and_then(|version| version.get("processId")) {
            return format!("process {id}");
        }
        match hello.get_str("me") {
            Ok(me) => format!("server {me}"),
            Err(_) => format!("server at {}", self.names.hosts),
        }
    }

    /// The place without its password.
    pub(super) fn location(&self) -> &str {
        &self.names.location
    }

    /// The database's name.
    pub(super) fn database_name(&self) -> &str {
        &self.names.database
    }

    pub(super) fn database(&self) -> &Database {
        &self.database
    }

    /// A collection to read, from the members that the address prefers.
    pub(super) fn collection(&self, name: &str) -> Collection<RawDocumentBuf> {
        self.database.collection(name)
    }

    /// A collection to write, and to read what was written.
    pub(super) fn primary_collection(&self, name: &str) -> Collection<RawDocumentBuf> {
        let options = CollectionOptions::builder().selection_criteria(primary()).build();
        self.database.collection_with_options(name, options)
    }

    /// Converts an error of the driver; `action` says what failed, as in `read`.
    pub(super) fn failed(&self, action: &str, error: DriverError) -> Error {
        self.error(kind_of(&error), action, error)
    }

    /// The same of an error before there was any answer: whatever broke, there is no server to talk to.
    async fn not_connected(&self, error: DriverError) -> Error {
        let kind = match kind_of(&error) {
            ErrorKind::ConnectionLost | ErrorKind::Server => ErrorKind::Unreachable,
            kind => kind,
        };
        let hosts = &self.names.hosts;
        let may_be_another = kind == ErrorKind::Unreachable
            && !self.names.tls
            && self.heartbeats.worst() != Some(Heard::Refused);
        // The name of one server, and no list of several or a record to look up.
        if may_be_another && hosts.contains(':') && !hosts.contains(',') {
            match service_at(hosts).await {
                Some("MongoDB") | None => {}
                Some(found) => return another_service("MongoDB", hosts, found).caused_by(error),
            }
        }
        self.error(kind, "connect to", error)
    }

    fn error(&self, kind: ErrorKind, action: &str, error: DriverError) -> Error {
        let Names {
            location,
            hosts,
            user,
            ..
        } = &self.names;
        let (kind, remedy) = self.with_remedy(kind);
        let what = match (self.heartbeats.summary(), &*error.kind) {
            (heard, _) if !heard.is_empty() && matches!(kind, ErrorKind::Unreachable | ErrorKind::Tls) => {
                heard
            }
            // It lists all that the driver knows of the servers, which is nothing.
            (_, DriverErrorKind::ServerSelection { .. }) => "no answer in time".to_owned(),
            _ => said(&error),
        };
        let what = self.names.clean(&what);
        let message = match (kind, user) {
            (ErrorKind::Login, Some(user)) => format!("{location} refuses the user {user}: {what}"),
            (ErrorKind::Login, None) => format!("{location} refuses a login without a user: {what}"),
            (ErrorKind::Unreachable, _) if is_unresolved(&what) => {
                return unresolved("MongoDB", hosts, &what).caused_by(error);
            }
            (ErrorKind::Unreachable, _) if self.heartbeats.worst() == Some(Heard::AnotherService) => {
                format!("{hosts} answered, but not as MongoDB: {what}")
            }
            (ErrorKind::Unreachable, _) => format!("no MongoDB server answers at {hosts}: {what}"),
            (ErrorKind::Tls, _) => format!("TLS with {hosts} failed: {what}"),
            _ => format!("cannot {action} {location}: {what}"),
        };
        let error = Error::new(kind, message).caused_by(error);
        match remedy {
            Some(remedy) => error.with_remedy(remedy),
            None => error,
        }
    }

    /// The kind of an error in the light of what else is known, and what to do about it.
    fn with_remedy(&self, kind: ErrorKind) -> (ErrorKind, Option<&'static str>) {
        let heard = self.heartbeats.worst();
        match kind {
            // The server accepts connections without a login, but no commands.
            ErrorKind::Permission if self.names.user.is_none() => (
                ErrorKind::Login,
                Some("put a user and a password into the address"),
            ),
            ErrorKind::Unreachable | ErrorKind::ConnectionLost if heard == Some(Heard::Tls) => {
                (ErrorKind::Tls, remedy(ErrorKind::Tls))
            }
            // A server without TLS hangs up on a greeting with it, and the other way round.
            ErrorKind::Unreachable
                if self.names.tls && matches!(heard, Some(Heard::HungUp | Heard::AnotherService)) =>
            {
                (ErrorKind::Tls, remedy(ErrorKind::Tls))
            }
            ErrorKind::Unreachable if self.names.tls && heard != Some(Heard::Refused) => (
                kind,
                Some("check host and port; if the server uses no TLS, take tls=true out of the address"),
            ),
            ErrorKind::Unreachable if heard == Some(Heard::AnotherService) => {
                (kind, Some("check host and port: another service listens there"))
            }
            ErrorKind::Unreachable if heard == Some(Heard::HungUp) => (
                kind,
                Some(
                    "check that this is MongoDB's port; if the server wants TLS, add tls=true to the address",
                ),
            ),
            kind => (kind, remedy(kind)),
        }
    }
}

impl Names {
    /// A driver's text without the password, should it ever repeat it.
    fn clean(&self, text: &str) -> String {
        match &self.password {
            Some(password)
                if !password.expose().is_empty() && Some(password.expose()) != self.user.as_deref() =>
            {
                text.replace(password.expose(), "***")
            }
            _ => text.to_owned(),
        }
    }
}

/// The primary alone: what a secondary says may be out of date.
pub(super) fn primary() -> SelectionCriteria {
    SelectionCriteria::ReadPreference(ReadPreference::Primary)
}

/// The primary, or a secondary where there is none.
pub(super) fn primary_preferred() -> SelectionCriteria {
    SelectionCriteria::ReadPreference(ReadPreference::PrimaryPreferred { options: None })
}

/// The members that know a source well enough, or a target.
pub(super) fn members_to_ask(is_target: bool) -> SelectionCriteria {
    if is_target { primary() } else { primary_preferred() }
}

/// Keys are compared byte by byte, whatever order the collection has for people.
pub(super) fn by_bytes() -> Collation {
    Collation::builder().locale("simple").build()
}

/// The error of an address that leads nowhere, before there is a connection.
pub(super) fn connecting_failed(hosts: &str, error: DriverError) -> Error {
    let what = said(&error);
    match kind_of(&error) {
        ErrorKind::Tls => Error::new(ErrorKind::Tls, format!("cannot use TLS with {hosts}: {what}"))
            .with_remedy("check the files that tls_ca_file and tls_certificate_key_file name"),
        ErrorKind::Config => Error::config(format!("cannot connect to {hosts}: {what}")),
        // Reading the files that TLS needs is all that is done on disk.
        ErrorKind::ConnectionLost => {
            Error::new(ErrorKind::Config, format!("cannot use TLS with {hosts}: {what}"))
        }
        kind => Error::new(kind, format!("cannot find {hosts}: {what}")),
    }
}

/// What the servers' heartbeats said while the driver looked for one.
#[derive(Default)]
struct Heartbeats {
    failures: Mutex<BTreeMap<String, DriverError>>,
    news: Notify,
}

/// What a failed heartbeat shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Heard {
    Other,
    Refused,
    HungUp,
    /// What came back is no message of MongoDB's.
    AnotherService,
    Tls,
}

impl Heartbeats {
    fn failures(&self) -> MutexGuard<'_, BTreeMap<String, DriverError>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, event: SdamEvent) {
        match event {
            SdamEvent::ServerHeartbeatFailed(event) => {
                self.failures()
                    .insert(event.server_address.to_string(), event.failure);
                self.news.notify_one();
            }
            SdamEvent::ServerHeartbeatSucceeded(event) => {
                self.failures().remove(&event.server_address.to_string());
            }
            SdamEvent::ServerClosed(event) => {
                self.failures().remove(&event.address.to_string());
            }
            _ => {}
        }
    }

    /// Ends when every one of the first hosts has failed: with what the last one said.
    async fn all_failed(&self, hosts: usize) -> DriverError {
        loop {
            self.news.notified().await;
            let failures = self.failures();
            if failures.len() >= hosts
                && let Some(error) = failures.values().next_back()
            {
                return error.clone();
            }
        }
    }

    fn worst(&self) -> Option<Heard> {
        self.failures().values().map(heard).max()
    }

    fn summary(&self) -> String {
        let failures = self.failures();
        let texts = failures.iter().map(|(host, error)| match failures.len() {
            1 => said(error),
            _ => format!("{host}: {}", said(error)),
        });
        texts.collect::<Vec<_>>().join("; ")
    }
}

fn heard(error: &DriverError) -> Heard {
    match &*error.kind {
        DriverErrorKind::InvalidTlsConfig { .. } => Heard::Tls,
        DriverErrorKind::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => {
            Heard::Tls
        }
        DriverErrorKind::Io(error) => match error.kind() {
            Io::ConnectionRefused => Heard::Refused,
            Io::UnexpectedEof | Io::ConnectionReset | Io::BrokenPipe => Heard::HungUp,
            Io::InvalidData => Heard::AnotherService,
            _ => Heard::Other,
        },
        DriverErrorKind::InvalidResponse { .. } => Heard::AnotherService,
        _ => Heard::Other,
    }
}

/// What an error says, in the server's words where it spoke.
fn said(error: &DriverError) -> String {
    // The driver's own time is over at about the same moment as the socket's, and either may be the one to say so.
    if matches!(&*error.kind, DriverErrorKind::Io(error) if error.kind() == Io::TimedOut) {
        return "no answer in time".to_owned();
    }
    match &*error.kind {
        DriverErrorKind::Command(error) => format!("{} (code {})", error.message, error.code),
        DriverErrorKind::Write(WriteFailure::WriteConcernError(error)) => {
            format!("{} (code {})", error.message, error.code)
        }
        DriverErrorKind::Write(WriteFailure::WriteError(error)) => {
            format!("{} (code {})", error.message, error.code)
        }
        DriverErrorKind::Io(error) => error.to_string(),
        other => other.to_string(),
    }
}

/// What an error means. One that is not known but labelled as temporary may pass.
pub(super) fn kind_of(error: &DriverError) -> ErrorKind {
    match kind_of_cause(error) {
        ErrorKind::Server if is_labelled_temporary(error) => ErrorKind::Busy,
        kind => kind,
    }
}

/// Whether the server or the driver says of an error that the same request may succeed later.
pub(super) fn is_labelled_temporary(error: &DriverError) -> bool {
    [
        RETRYABLE_WRITE_ERROR,
        TRANSIENT_TRANSACTION_ERROR,
        RETRYABLE_ERROR,
        SYSTEM_OVERLOADED_ERROR,
    ]
    .iter()
    .any(|label| error.contains_label(label))
}

fn kind_of_cause(error: &DriverError) -> ErrorKind {
    match &*error.kind {
        DriverErrorKind::Authentication { .. } => {
            // The driver reports a connection lost during the login as a failed login, with the loss as its cause.
            match error_source(error) {
                Some(DriverErrorKind::Io(_)) => ErrorKind::ConnectionLost,
                _ => ErrorKind::Login,
            }
        }
        DriverErrorKind::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => {
            ErrorKind::Tls
        }
        DriverErrorKind::Io(error) if error.kind() == Io::ConnectionRefused => ErrorKind::Unreachable,
        DriverErrorKind::Io(_) | DriverErrorKind::ConnectionPoolCleared { .. } => ErrorKind::ConnectionLost,
        DriverErrorKind::ServerSelection { .. } | DriverErrorKind::DnsResolve { .. } => {
            ErrorKind::Unreachable
        }
        DriverErrorKind::InvalidTlsConfig { .. } => ErrorKind::Tls,
        DriverErrorKind::InvalidArgument { .. } => ErrorKind::Config,
        DriverErrorKind::Command(error) => kind_of_code(error.code).unwrap_or(ErrorKind::Server),
        DriverErrorKind::Write(WriteFailure::WriteConcernError(error)) => kind_of_concern(error.code),
        DriverErrorKind::Write(WriteFailure::WriteError(error)) => {
            kind_of_code(error.code).unwrap_or(ErrorKind::Server)
        }
        DriverErrorKind::InsertMany(InsertManyError {
            write_concern_error: Some(error),
            ..
        }) => kind_of_concern(error.code),
        _ => ErrorKind::Server,
    }
}

fn error_source(error: &DriverError) -> Option<&DriverErrorKind> {
    let source = std::error::Error::source(error)?;
    source.downcast_ref::<DriverError>().map(|error| &*error.kind)
}

/// What a server's code means where it is about the server and not about a record (MongoDB source,
/// `src/mongo/base/error_codes.yml`; that a request may be repeated, the categories there and the driver's lists say).
pub(super) fn kind_of_code(code: i32) -> Option<ErrorKind> {
    Some(match code {
        // AuthenticationFailed, AtlasError, ReauthenticationRequired
        18 | 8000 | 391 => ErrorKind::Login,
        // Unauthorized
        13 => ErrorKind::Permission,
        // InvalidNamespace
        73 => ErrorKind::Config,
        // HostUnreachable, HostNotFound, NetworkTimeout, SocketException
        6 | 7 | 89 | 9001 => ErrorKind::ConnectionLost,
        // There is no primary, or not the same: NotWritablePrimary (and its older forms), InterruptedDueToReplStateChange,
        // NotPrimaryOrSecondary, PrimarySteppedDown, ReadConcernMajorityNotAvailableYet, FailedToSatisfyReadPreference,
        // ElectionInProgress
        10107 | 10058 | 13435 | 11602 | 13436 | 189 | 134 | 133 | 216 => ErrorKind::Busy,
        // It ends or changes: InterruptedAtShutdown, ShutdownInProgress, InterruptedDueToStorageChange,
        // InterruptedDueToFCVChange
        11600 | 91 | 355 | 10_045_600 => ErrorKind::Busy,
        // It waited too long: ExceededTimeLimit, NetworkInterfaceExceededTimeLimit,
        // PooledConnectionAcquisitionExceededTimeLimit, LockTimeout, LockBusy
        262 | 202 | 407 | 24 | 46 => ErrorKind::Busy,
        // Other operations are in the way: Interrupted, WriteConflict, MigrationConflict, ConflictingOperationInProgress,
        // TemporarilyUnavailable, SnapshotTooOld, SnapshotUnavailable, DatabaseDropPending, ObjectIsBusy, QueryPlanKilled,
        // UpdatesStillPending
        11601 | 112 | 272 | 117 | 365 | 239 | 246 | 215 | 314 | 175 | 412 => ErrorKind::Busy,
        // Data moves between shards: StaleConfig, StaleEpoch, StaleDbVersion, StaleChunkHistory,
        // ReshardingCriticalSectionTimeout, ShardCannotRefreshDueToLocksHeld, InterruptedDueToReshardingCriticalSection,
        // MigrationBlockingOperationCoordinatorCleaningUp, RetriableRemoteCommandFailure
        13388 | 150 | 249 | 250 | 342 | 343 | 453 | 406 | 91331 => ErrorKind::Busy,
        // It is overloaded: ResourceExhausted, AdmissionQueueOverflow, RateLimitExceeded,
        // PooledConnectionAcquisitionRejected, IngressRequestRateLimitExceeded, and TooManyRequests of Azure Cosmos DB
        402 | 433 | 449 | 450 | 462 | 16500 => ErrorKind::Busy,
        // MaxTimeMSExpired
        50 => ErrorKind::Timeout,
        // OutOfDiskSpace, ExceededMemoryLimit, and a user's quota
        14031 | 146 | 12501 => ErrorKind::Full,
        // BSONObjectTooLarge
        10334 => ErrorKind::RequestTooLarge,
        // IllegalOperation: a read-only server, a transaction where there is none
        20 => ErrorKind::Permission,
        _ => return None,
    })
}

/// Whether the server refuses a command for good: it does not know the command or something in it, or does not allow it to
/// this login. Any other error may have a reason that passes.
fn is_refused_for_good(error: &DriverError) -> bool {
    match &*error.kind {
        // BadValue, FailedToParse, TypeMismatch, CommandNotFound, InvalidOptions, CommandNotSupported,
        // InternalErrorNotSupported, NotImplemented, a feature that Amazon DocumentDB does not support, APIVersionError,
        // APIStrictError, APIDeprecationError, IDLDuplicateField, IDLFailedToParse, IDLUnknownField
        DriverErrorKind::Command(error) => matches!(
            (kind_of_code(error.code), error.code),
            (Some(ErrorKind::Login | ErrorKind::Permission | ErrorKind::Config), _)
                | (None, 2 | 9 | 14 | 59 | 72 | 115 | 235 | 238 | 303 | 322..=324 | 40413..=40415)
        ),
        DriverErrorKind::IncompatibleServer { .. } | DriverErrorKind::InvalidArgument { .. } => true,
        _ => false,
    }
}

/// What it means that a write was not acknowledged as it was to be.
pub(super) fn kind_of_concern(code: i32) -> ErrorKind {
    match code {
        // WriteConcernFailed (formerly WriteConcernTimeout)
        64 => ErrorKind::Timeout,
        // UnknownReplWriteConcern, UnsatisfiableWriteConcern
        79 | 100 => ErrorKind::Config,
        code => kind_of_code(code).unwrap_or(ErrorKind::Server),
    }
}

fn remedy(kind: ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::Login => Some("check user, password and authSource (the database that stores the login)"),
        ErrorKind::Tls => Some(
            "check whether the server uses TLS (tls=true), its certificate authority (tlsCAFile, or tls_ca_file in a \
             job file) and that the certificate names the host",
        ),
        ErrorKind::Permission => {
            Some("give the user the role readWrite (for a source, read) on the database")
        }
        ErrorKind::Config => Some("correct the address or its options"),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::future::ready;

    use mongodb::bson::deserialize_from_document;

    use super::*;

    /// The error of a command that was refused with this code.
    pub(in crate::storage::mongo) fn command_error(code: i32) -> DriverError {
        let error = deserialize_from_document(doc! { "code": code, "errmsg": "refused" }).unwrap();
        DriverErrorKind::Command(error).into()
    }

    #[test]
    fn a_server_that_says_little_has_the_limits_of_them_all() {
        let limits = Limits::of(&doc! { "maxBsonObjectSize": 1000_i64, "maxWriteBatchSize": 0 });
        assert_eq!(
            limits,
            Limits {
                document: 1000,
                operations: 100_000
            }
        );
    }

    #[test]
    fn codes_about_the_server_are_told_from_those_about_a_record() {
        assert_eq!(kind_of_code(18), Some(ErrorKind::Login));
        assert_eq!(kind_of_code(10107), Some(ErrorKind::Busy));
        assert_eq!(kind_of_code(14031), Some(ErrorKind::Full));
        // DuplicateKey, DocumentValidationFailure
        assert_eq!(kind_of_code(11000), None);
        assert_eq!(kind_of_code(121), None);
        assert_eq!(kind_of_concern(64), ErrorKind::Timeout);
        assert_eq!(kind_of_concern(91), ErrorKind::Busy);
    }

    /// An error with a code that is not known.
    fn not_acknowledged(labels: &[&str]) -> DriverError {
        let error = doc! { "code": 12_345_678, "errmsg": "later", "errorLabels": labels.to_vec() };
        let error = deserialize_from_document(error).unwrap();
        DriverErrorKind::Write(WriteFailure::WriteConcernError(error)).into()
    }

    #[test]
    fn what_passes_is_known_by_its_code_or_its_label() {
        // FailedToSatisfyReadPreference, NetworkInterfaceExceededTimeLimit, MigrationConflict, TemporarilyUnavailable, and
        // TooManyRequests of Azure Cosmos DB
        for code in [133, 202, 272, 365, 16500] {
            let error = command_error(code);
            assert_eq!(kind_of(&error), ErrorKind::Busy, "{code}");
            assert!(!is_about_the_request(&error), "{code}");
        }
        assert_eq!(
            kind_of(&not_acknowledged(&["RetryableWriteError"])),
            ErrorKind::Busy
        );
        assert_eq!(kind_of(&not_acknowledged(&[])), ErrorKind::Server);
    }

    #[test]
    fn a_refusal_is_final_only_where_the_server_does_not_know_or_allow_the_command() {
        // Unauthorized, CommandNotFound, NotImplemented
        for code in [13, 59, 238] {
            assert!(is_refused_for_good(&command_error(code)), "{code}");
        }
        // InternalError, UnknownError, NotWritablePrimary, and one that is not known
        for code in [1, 8, 10107, 12_345_678] {
            assert!(!is_refused_for_good(&command_error(code)), "{code}");
        }
    }

    #[tokio::test]
    async fn an_answer_is_kept_and_the_lack_of_one_is_not() {
        let known = Remembered::<u32>::default();
        let busy = || Error::new(ErrorKind::Busy, "later");
        assert_eq!(*known.get(ready(Ok(None))).await.unwrap(), 0);
        assert!(known.get(ready(Err(busy()))).await.is_err());
        assert_eq!(*known.get(ready(Ok(Some(1)))).await.unwrap(), 1);
        assert_eq!(*known.get(ready(Ok(Some(2)))).await.unwrap(), 1);
        assert_eq!(*known.get(ready(Err(busy()))).await.unwrap(), 1);
    }
}

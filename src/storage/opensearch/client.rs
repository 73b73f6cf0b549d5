//! Requests to a cluster and its answers, and what went wrong with them in this program's words.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error as StdError,
    io,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use bytes::Bytes;
use opensearch::{
    auth::Credentials,
    cert::{Certificate, CertificateValidation},
    http::{
        Method, Url,
        headers::{ACCEPT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue},
        transport::{SingleNodeConnectionPool, Transport, TransportBuilder},
    },
};
use serde::Deserialize;

use super::{
    config::{Config, Host, Trust},
    inspect::ClusterFacts,
    pauses::Pauses,
};
use crate::{
    model::{Error, ErrorKind, Result},
    storage::hosts::{another_service, is_unresolved, service_at, unresolved},
};

/// A cluster, through the first of its hosts that answers.
pub(super) struct Client {
    hosts: Vec<(Host, Transport)>,
    /// The host that answered last; another one is tried when it does no more.
    current: AtomicUsize,
    user: Option<String>,
    /// The ID of the cluster, or its first address if it does not say.
    cluster: String,
    pub(super) facts: ClusterFacts,
    pub(super) abilities: Abilities,
    pub(super) pauses: Pauses,
}

/// What the server can do, as far as requests that failed have shown that it cannot. Its version says less: a managed
/// service may leave things out, and a server can be set to give the version of another.
#[derive(Default)]
pub(super) struct Abilities {
    /// Points in time (OpenSearch 2.4).
    pub(super) point_in_time: Ability,
    /// Sorting by `_shard_doc` (OpenSearch 3.3).
    pub(super) shard_doc: Ability,
    /// Reading the primaries only (not in OpenSearch 1).
    pub(super) primary_preference: Ability,
}

/// Whether a status asks to come back later.
pub(super) fn is_busy(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

/// Something that a server can do until it is found that it cannot.
#[derive(Default)]
pub(super) struct Ability(AtomicBool);

impl Ability {
    pub(super) fn is_missing(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn set_missing(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What is asked of the server.
pub(super) struct Request<'a> {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: &'a [(&'a str, &'a str)],
    pub(super) body: Bytes,
    /// What it is for, to complete "cannot …".
    pub(super) what: String,
    /// The largest answer to read, in bytes, where the server says how large it is.
    pub(super) at_most: Option<u64>,
}

impl<'a> Request<'a> {
    pub(super) fn new(method: Method, path: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            query: &[],
            body: Bytes::new(),
            what: what.into(),
            at_most: None,
        }
    }

    pub(super) fn query(mut self, query: &'a [(&'a str, &'a str)]) -> Self {
        self.query = query;
        self
    }

    pub(super) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    pub(super) fn json(self, body: &serde_json::Value) -> Self {
        self.body(body.to_string())
    }

    /// Refuses to read a larger answer, with [`ErrorKind::RequestTooLarge`].
    pub(super) fn at_most(mut self, bytes: u64) -> Self {
        self.at_most = Some(bytes);
        self
    }
}

/// What the server answered.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Bytes,
    /// The place of the host in the list.
    host: usize,
}

impl Answer {
    #[cfg(test)]
    pub(super) fn new(status: u16, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            body: body.into(),
            host: 0,
        }
    }

    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Whether it is that there is no such index.
    pub(super) fn lacks_index(&self) -> bool {
        self.status == 404 && self.cause().is("index_not_found_exception")
    }

    /// Whether it has a form that OpenSearch answers in. A proxy, or another server, answers with a page or a line.
    fn is_json(&self) -> bool {
        serde_json::from_slice::<serde::de::IgnoredAny>(&self.body).is_ok()
    }

    /// The error of the server; empty if there is none.
    pub(super) fn cause(&self) -> Cause {
        #[derive(Deserialize)]
        struct Refusal {
            error: CauseOrText,
        }
        match serde_json::from_slice(&self.body) {
            Ok(Refusal { error }) => error.into_cause(),
            Err(_) => Cause::default(),
        }
    }
}

/// An error of the server.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Cause {
    #[serde(rename = "type", default)]
    pub(super) kind: String,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    root_cause: Vec<Cause>,
    #[serde(default)]
    caused_by: Option<Box<Cause>>,
}

/// What the first request is for.
const CONNECTING: &str = "connect to OpenSearch";

/// The longest part of a reason that is repeated, in characters. Some repeat a whole document.
const LONGEST_REASON: usize = 300;

impl Cause {
    /// The most specific cause.
    fn root(&self) -> &Self {
        self.root_cause.first().unwrap_or(self)
    }

    /// What it says at the top.
    pub(super) fn reason(&self) -> &str {
        self.reason.as_deref().unwrap_or_default()
    }

    /// Whether it or one of its causes is of this type.
    pub(super) fn is(&self, kind: &str) -> bool {
        self.kind == kind
            || self.root_cause.iter().any(|cause| cause.is(kind))
            || self.caused_by.as_ref().is_some_and(|cause| cause.is(kind))
    }

    /// Whether the server is set to refuse queries that are dear, and took one for such.
    pub(super) fn forbids_expensive_queries(&self) -> bool {
        self.text().contains("search.allow_expensive_queries")
    }

    /// The largest answer to a search, in documents, where that is why it was refused.
    pub(super) fn result_window(&self) -> Option<usize> {
        let text = self.text();
        let (_, limit) = text.split_once("must be less than or equal to: [")?;
        let (limit, _) = limit.split_once(']')?;
        limit
            .parse()
            .ok()
            .filter(|_| text.contains("esult window is too large"))
    }

    /// The block that an administrator, or the server itself, has put on the index or the cluster.
    pub(super) fn block(&self) -> Option<Block> {
        if !self.is("cluster_block_exception") {
            return None;
        }
        let text = self.text();
        let (_, block) = text.split_once("blocked by: [")?;
        let mut parts = block.splitn(3, '/');
        let (level, number) = (parts.next()?, parts.next()?);
        Some(Block {
            is_passing: level == "SERVICE_UNAVAILABLE",
            setting: match number {
                "5" => Some("index.blocks.read_only"),
                "7" => Some("index.blocks.read"),
                "8" => Some("index.blocks.write"),
                "9" => Some("index.blocks.metadata"),
                "12" => Some(FULL_INDEX),
                "6" => Some("cluster.blocks.read_only"),
                "10" => Some("cluster.blocks.create_index"),
                "13" => Some(FULL_CLUSTER),
                _ => None,
            },
        })
    }

    /// Its sentence, and that of its cause, for people.
    pub(super) fn text(&self) -> String {
        let root = self.root();
        let mut text = root.reason.clone().unwrap_or_else(|| root.kind.clone());
        if let Some(cause) = root.caused_by.as_ref().or(self.caused_by.as_ref())
            && let Some(reason) = &cause.reason
            && !text.contains(reason)
        {
            text.push_str(": ");
            text.push_str(reason);
        }
        let mut text: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if let Some((end, _)) = text.char_indices().nth(LONGEST_REASON) {
            text.truncate(end);
            text.push('…');
        }
        text
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum CauseOrText {
    Cause(Cause),
    Text(String),
}

impl CauseOrText {
    fn into_cause(self) -> Cause {
        match self {
            Self::Cause(cause) => cause,
            Self::Text(reason) => Cause {
                reason: Some(reason),
                ..Cause::default()
            },
        }
    }
}

/// What a server sets when its disk is full.
const FULL_INDEX: &str = "index.blocks.read_only_allow_delete";
const FULL_CLUSTER: &str = "cluster.blocks.read_only_allow_delete";

/// A block on an index or a cluster.
pub(super) struct Block {
    /// Whether it goes away by itself, as when a cluster has no manager for a moment.
    pub(super) is_passing: bool,
    /// The setting that lifts it.
    setting: Option<&'static str>,
}

impl Block {
    pub(super) fn of_setting(setting: &'static str) -> Self {
        Self {
            is_passing: false,
            setting: Some(setting),
        }
    }

    pub(super) fn kind(&self) -> ErrorKind {
        match self.setting {
            _ if self.is_passing => ErrorKind::Busy,
            Some(FULL_INDEX | FULL_CLUSTER) => ErrorKind::Full,
            _ => ErrorKind::Permission,
        }
    }

    /// What to do about it.
    pub(super) fn remedy(&self, index: &str) -> Option<String> {
        let setting = self.setting?;
        let lift = match setting.starts_with("cluster.") {
            true => format!("PUT /_cluster/settings {{\"persistent\": {{\"{setting}\": null}}}}"),
            false => format!("PUT /{index}/_settings {{\"{setting}\": null}}"),
        };
        Some(match setting {
            FULL_INDEX | FULL_CLUSTER => format!("a full disk sets it: free space there, then {lift}"),
            _ => format!("lift the block ({lift}), or choose another workspace"),
        })
    }
}

/// A field in all indices of a name.
pub(super) struct FoundField {
    /// The open indices of the name.
    pub(super) indices: Vec<String>,
    /// The types that the field has in them; empty where it has none.
    pub(super) types: BTreeSet<String>,
    /// Whether the login may not ask for the types.
    pub(super) is_hidden: bool,
}

impl FoundField {
    /// Whether whole values can be searched in it.
    pub(super) fn is_searchable(&self) -> bool {
        // Without an explicit type the server maps the field as text, in which only words can be searched.
        let is_keyword = self.types.iter().eq(["keyword"]);
        // A closed index shows no fields, and only a look into it says that it is closed.
        is_keyword || (self.indices.is_empty() && !self.is_hidden)
    }
}

/// The names that match a pattern.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Resolved {
    #[serde(default)]
    pub(super) indices: Vec<ResolvedName>,
    #[serde(default)]
    pub(super) aliases: Vec<ResolvedName>,
    #[serde(default)]
    pub(super) data_streams: Vec<ResolvedName>,
}

/// The name of an index, an alias or a data stream.
#[derive(Debug, Deserialize)]
pub(super) struct ResolvedName {
    pub(super) name: String,
    /// What kind of index it is: `open`, `closed`, `hidden`, `system`.
    #[serde(default)]
    attributes: Vec<String>,
}

impl ResolvedName {
    pub(super) fn is_closed(&self) -> bool {
        self.attributes.iter().any(|attribute| attribute == "closed")
    }
}

/// What went wrong with a request.
enum Failure<'a> {
    /// There was no answer.
    Transport(opensearch::Error),
    /// The answer was no success.
    Refused(&'a Answer),
}

impl Client {
    /// Connects to the first host that answers.
    ///
    /// # Errors
    /// None does, or one refuses the login or is no OpenSearch.
    pub(super) async fn connect(config: &Config, timeout: Duration) -> Result<Self> {
        let timeout = config.timeout.map_or(timeout, |own| own.min(timeout));
        let hosts = config
            .hosts
            .iter()
            .map(|host| Ok((host.clone(), transport(config, host, timeout)?)))
            .collect::<Result<Vec<_>>>()?;
        let mut client = Self {
            cluster: hosts
                .first()
                .map(|(host, _)| host.to_string())
                .unwrap_or_default(),
            current: AtomicUsize::new(0),
            user: config.login.as_ref().map(|(user, _)| user.clone()),
            facts: ClusterFacts::default(),
            abilities: Abilities::default(),
            pauses: Pauses::default(),
            hosts,
        };
        let share = timeout / u32::try_from(client.hosts.len()).unwrap_or(u32::MAX);
        let hello = Request::new(Method::Get, "/", CONNECTING);
        let answer = match client.send_within(&hello, Some(share)).await {
            Err(error) => return Err(client.not_spoken_to(error).await),
            Ok(answer) => answer,
        };
        // Who may read indices alone may not ask this, and a proxy may let nothing but indices through: what LightRAG does
        // without, a later request decides.
        if !matches!(answer.status, 403..=405) {
            let answer = client.success(&hello, answer)?;
            if let Some(uuid) = client.cluster_uuid(&answer)? {
                client.cluster = uuid;
            }
        }
        Ok(client)
    }

    /// Why the first request failed: perhaps another service listens there.
    async fn not_spoken_to(&self, error: Error) -> Error {
        if !matches!(
            error.kind(),
            ErrorKind::ConnectionLost | ErrorKind::Tls | ErrorKind::Server
        ) {
            return error;
        }
        // The current host is another one already where this one may be gone.
        let host = match self.hosts.as_slice() {
            [(host, _)] => host,
            _ => return error,
        };
        match service_at(&host.address()).await {
            Some(found @ ("PostgreSQL" | "Redis" | "MongoDB")) => {
                another_service("OpenSearch", &host.to_string(), found).caused_by(error)
            }
            _ => error,
        }
    }

    /// The identity that a cluster gives of itself, if it has one yet.
    fn cluster_uuid(&self, answer: &Answer) -> Result<Option<String>> {
        #[derive(Deserialize)]
        struct Hello {
            cluster_uuid: Option<String>,
            version: Version,
        }
        #[derive(Deserialize)]
        struct Version {
            number: String,
        }
        let hello: Hello = serde_json::from_slice(&answer.body)
            .map_err(|_| not_opensearch(&self.hosts[answer.host].0, &answer.body))?;
        tracing::debug!("OpenSearch {}", hello.version.number);
        Ok(hello.cluster_uuid.filter(|uuid| uuid != "_na_"))
    }

    /// The cluster's own identity.
    pub(super) fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The host that is spoken to, for people.
    pub(super) fn host(&self) -> &Host {
        &self.hosts[self.current.load(Ordering::Relaxed)].0
    }

    /// Sends a request, and reads the answer whatever it is.
    ///
    /// # Errors
    /// There was none.
    pub(super) async fn send(&self, request: &Request<'_>) -> Result<Answer> {
        self.pauses.end();
        let answer = self.send_within(request, None).await;
        self.pauses.begin();
        answer
    }

    /// The answer, if it is a success.
    pub(super) fn success(&self, request: &Request<'_>, answer: Answer) -> Result<Answer> {
        if answer.is_success() {
            return Ok(answer);
        }
        Err(self.failed(
            &self.hosts[answer.host].0,
            &request.what,
            Failure::Refused(&answer),
        ))
    }

    /// The answer, whatever it is, unless the server asks to come back later. An internal error (500) may come every time, and
    /// LightRAG does not make these requests, so it is an answer.
    pub(super) fn unless_busy(&self, request: &Request<'_>, answer: Answer) -> Result<Answer> {
        match is_busy(answer.status) && answer.status != 500 {
            true => self.success(request, answer),
            false => Ok(answer),
        }
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// It is not of the form that OpenSearch answers in.
    pub(super) fn parse<'a, T: Deserialize<'a>>(&self, request_was: &str, body: &'a [u8]) -> Result<T> {
        // Given bytes, the parser would look for bad UTF-8 field by field, which takes longer than to parse them.
        let parsed = match simdutf8::basic::from_utf8(body) {
            Ok(text) => serde_json::from_str(text),
            Err(_) => serde_json::from_slice(body),
        };
        parsed.map_err(|error| {
            // The parser's own words may repeat what it read.
            let place = format!("line {} column {}", error.line(), error.column());
            let message = format!(
                "cannot {request_was} at {}: the response is not in OpenSearch's format ({place})",
                self.host()
            );
            Error::new(ErrorKind::Server, message)
        })
    }

    /// Everything whose name matches a pattern, closed and hidden indices too.
    pub(super) async fn resolve(&self, pattern: &str, what: &str) -> Result<Resolved> {
        let query = [("expand_wildcards", "all")];
        let path = format!("/_resolve/index/{pattern}");
        let request = Request::new(Method::Get, path, what).query(&query);
        let answer = self.send(&request).await?;
        if answer.lacks_index() {
            return Ok(Resolved::default());
        }
        let answer = self.success(&request, answer)?;
        self.parse(&request.what, &answer.body)
    }

    /// Looks at a field of an index; `None` where there is no such index.
    pub(super) async fn field(&self, index: &str, field: &str) -> Result<Option<FoundField>> {
        #[derive(Deserialize)]
        struct Capabilities {
            indices: Indices,
            fields: BTreeMap<String, BTreeMap<String, serde::de::IgnoredAny>>,
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Indices {
            One(String),
            Many(Vec<String>),
        }
        let query = [("fields", field)];
        let what = format!("inspect the index {index}");
        let request = Request::new(Method::Get, format!("/{index}/_field_caps"), what).query(&query);
        let answer = self.send(&request).await?;
        if answer.lacks_index() {
            return Ok(None);
        }
        if answer.status == 403 && answer.is_json() && answer.cause().block().is_none() {
            return self.hidden_field(index).await;
        }
        let answer = self.success(&request, answer)?;
        let mut found: Capabilities = self.parse(&request.what, &answer.body)?;
        let types = found.fields.remove(field).unwrap_or_default();
        Ok(Some(FoundField {
            indices: match found.indices {
                Indices::One(index) => vec![index],
                Indices::Many(indices) => indices,
            },
            types: types.into_keys().filter(|kind| kind != "unmapped").collect(),
            is_hidden: false,
        }))
    }

    /// What is left to find out where the login may not look at fields, which LightRAG does not need to.
    async fn hidden_field(&self, index: &str) -> Result<Option<FoundField>> {
        let what = format!("check whether the index {index} exists");
        let request = Request::new(Method::Head, format!("/{index}"), what);
        let answer = self.send(&request).await?;
        if answer.status == 404 {
            return Ok(None);
        }
        self.success(&request, answer)?;
        Ok(Some(FoundField {
            indices: Vec::new(),
            types: BTreeSet::new(),
            is_hidden: true,
        }))
    }

    async fn send_within(&self, request: &Request<'_>, timeout: Option<Duration>) -> Result<Answer> {
        let mut unreachable = None;
        for _ in 0..self.hosts.len() {
            let at = self.current.load(Ordering::Relaxed);
            let error = match self.send_to(at, request, timeout).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if error.is_temporary() {
                // The next request, of whomever, goes to the next host.
                let next = (at + 1) % self.hosts.len();
                let _ = self
                    .current
                    .compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
            }
            // Only a request that reached no host may go to another one at once.
            if error.kind() != ErrorKind::Unreachable {
                return Err(error);
            }
            unreachable.get_or_insert(error);
        }
        Err(unreachable.unwrap_or_else(|| Error::new(ErrorKind::Internal, "no host to send a request to")))
    }

    async fn send_to(&self, at: usize, request: &Request<'_>, timeout: Option<Duration>) -> Result<Answer> {
        let (host, transport) = &self.hosts[at];
        let failed = |error| match address_in(&error) {
            // The address that the server named may not answer, or not be trusted.
            Some(url) if !host.is_origin_of(&url) => redirected(host, &request.path, &url),
            _ => self.failed(host, &request.what, Failure::Transport(error)),
        };
        let mut headers = HeaderMap::new();
        if request.path.ends_with("/_bulk") {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        }
        // Compressing costs the server more than it saves on most networks, and hides how large an answer is.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let query = (!request.query.is_empty()).then_some(request.query);
        let body = (!request.body.is_empty()).then(|| request.body.clone());
        let response = transport
            .send(request.method, &request.path, headers, query, body, timeout)
            .await
            .map_err(failed)?;
        let status = response.status_code().as_u16();
        if !host.is_origin_of(response.url()) {
            return Err(redirected(host, &request.path, response.url()));
        }
        if let (Some(most), Some(length)) = (request.at_most, response.content_length())
            && length > most
        {
            let message = format!("cannot {}: the answer of {host} has {length} bytes", request.what);
            return Err(Error::new(ErrorKind::RequestTooLarge, message));
        }
        let body = response.bytes().await.map_err(failed)?;
        Ok(Answer {
            status,
            body,
            host: at,
        })
    }

    /// The error for what went wrong: the one place that knows the driver's and the server's.
    fn failed(&self, host: &Host, what: &str, failure: Failure<'_>) -> Error {
        match failure {
            Failure::Transport(error) => no_answer(host, what, error),
            Failure::Refused(answer) => {
                let cause = answer.cause();
                if answer.status == 401 {
                    return self.login_refused(host);
                }
                if answer.status == 400 && is_tls_port(&answer.body) {
                    let message = format!("the server at {host} requires TLS");
                    return Error::new(ErrorKind::Tls, message)
                        .with_remedy("use an https:// address, or set OPENSEARCH_USE_SSL=true");
                }
                // A proxy says in its own words that it is busy, or that a request is too large.
                let may_be_a_proxys = matches!(answer.status, 408 | 413 | 429 | 500..600);
                if !may_be_a_proxys && !answer.body.is_empty() && !answer.is_json() {
                    return not_opensearch(host, &answer.body);
                }
                self.refused(host, what, answer.status, &cause)
            }
        }
    }

    fn login_refused(&self, host: &Host) -> Error {
        let (message, remedy) = match &self.user {
            Some(user) => (
                format!("OpenSearch at {host} refused the login of {user}"),
                "check OPENSEARCH_USER and OPENSEARCH_PASSWORD, or the login in the address",
            ),
            None => (
                format!("OpenSearch at {host} requires a login, but none is configured"),
                "set OPENSEARCH_USER and OPENSEARCH_PASSWORD, or put the login into the address",
            ),
        };
        Error::new(ErrorKind::Login, message).with_remedy(remedy)
    }

    /// The error for a status and what the server said with it, of a request or of one document.
    pub(super) fn refused(&self, host: &Host, what: &str, status: u16, cause: &Cause) -> Error {
        let said = cause.text();
        let said = match said.is_empty() {
            true => format!("status {status}"),
            false => said,
        };
        let message = format!("cannot {what} at {host}: {said}");
        if let Some(block) = cause.block() {
            let error = Error::new(block.kind(), message);
            return match block.remedy("<index>") {
                Some(remedy) => error.with_remedy(remedy),
                None => error,
            };
        }
        let kind = match status {
            // With 500 or 503, which otherwise ask to come back later.
            _ if cause.forbids_expensive_queries() => ErrorKind::Server,
            _ if cause.is("index_closed_exception") => {
                return Error::new(ErrorKind::NotFound, message)
                    .with_remedy("open the index (POST /<index>/_open), or choose another workspace");
            }
            401 => return self.login_refused(host),
            403 => ErrorKind::Permission,
            404 => ErrorKind::NotFound,
            413 => ErrorKind::RequestTooLarge,
            408 | 429 | 500 | 502 | 503 | 504 => ErrorKind::Busy,
            _ => ErrorKind::Server,
        };
        Error::new(kind, message)
    }
}

fn transport(config: &Config, host: &Host, timeout: Duration) -> Result<Transport> {
    let mut builder = TransportBuilder::new(SingleNodeConnectionPool::new(host.url()?))
        // LightRAG's client does not look for a proxy in the environment either.
        .disable_proxy()
        .timeout(timeout);
    if let Some((user, password)) = &config.login {
        builder = builder.auth(Credentials::Basic(user.clone(), password.expose().to_owned()));
    }
    let trust = match &config.trust {
        Trust::Anyone => CertificateValidation::None,
        Trust::System => CertificateValidation::Default,
        Trust::Authority(path) => {
            let pem = std::fs::read(path)
                .map_err(|error| Error::io("read the certificate authority in", path, error))?;
            let certificate = Certificate::from_pem(&pem)
                .ok()
                .filter(|_| pem.windows(11).any(|text| text == b"-----BEGIN "));
            let certificate = certificate.ok_or_else(|| {
                Error::config(format!(
                    "{} contains no certificate in PEM format",
                    path.display()
                ))
            })?;
            CertificateValidation::Full(certificate)
        }
    };
    builder.cert_validation(trust).build().map_err(|error| {
        Error::new(ErrorKind::Tls, format!("cannot prepare a connection to {host}")).caused_by(error)
    })
}

/// Whether this is the error of nginx or a JVM with TLS about plain HTTP.
fn is_tls_port(body: &[u8]) -> bool {
    let body = String::from_utf8_lossy(&body[..body.len().min(4096)]);
    body.contains("plain HTTP request was sent to HTTPS port")
        || body.contains("HTTP request to an HTTPS server")
}

/// The error for a request that got no answer.
fn no_answer(host: &Host, what: &str, error: opensearch::Error) -> Error {
    let mut causes: Vec<&(dyn StdError + 'static)> = Vec::new();
    let mut next: Option<&(dyn StdError + 'static)> = Some(&error);
    while let Some(cause) = next {
        causes.push(cause);
        next = cause.source();
    }
    let tls = causes.iter().find_map(|cause| tls_error(*cause));
    let texts: Vec<String> = causes.iter().map(|cause| cause.to_string()).collect();
    let connecting = texts.iter().any(|text| text.contains("(Connect)"));
    // The innermost says what it is; the outer ones repeat the address.
    let last = texts.last().cloned().unwrap_or_default();
    let (kind, message, remedy) = if let Some(tls) = tls {
        return tls_failed(host, tls).caused_by(error);
    } else if error.is_timeout() && !connecting {
        let message = format!("cannot {what} at {host}: no answer in time");
        let remedy =
            "raise --timeout (and OPENSEARCH_TIMEOUT if it is set), or find out why the server is slow";
        (ErrorKind::Timeout, message, Some(remedy))
    } else if connecting && is_unresolved(&last) {
        return unresolved("OpenSearch", &host.to_string(), &last).caused_by(error);
    } else if connecting && last.contains("handshake eof") {
        let message = format!("the server at {host} closes the connection when TLS starts");
        let remedy = "check host and port; if the server has no TLS, use an http:// address or set \
                      OPENSEARCH_USE_SSL=false";
        (ErrorKind::Tls, message, Some(remedy))
    } else if last.starts_with("invalid HTTP") {
        return not_opensearch(host, &[]).caused_by(error);
    } else if connecting {
        let last = match error.is_timeout() {
            true => "no answer in time".to_owned(),
            false => last,
        };
        let message = format!("cannot reach OpenSearch at {host}: {last}");
        (ErrorKind::Unreachable, message, None)
    } else {
        // A server with TLS usually closes a connection without it, and so do PostgreSQL and Redis.
        match what == CONNECTING {
            true => (
                ErrorKind::ConnectionLost,
                format!("{host} answered, but not as OpenSearch: it closed the connection ({last})"),
                Some(match host.tls {
                    true => "check host and port, and the server's log",
                    false => {
                        "check host and port; if the server wants TLS, use an https:// address or set \
                         OPENSEARCH_USE_SSL=true"
                    }
                }),
            ),
            false => {
                let message = format!("cannot {what} at {host}: the connection was lost ({last})");
                (ErrorKind::ConnectionLost, message, None)
            }
        }
    };
    let failed = Error::new(kind, message).caused_by(error);
    match remedy {
        Some(remedy) => failed.with_remedy(remedy),
        None => failed,
    }
}

/// The error for a server that is another one than OpenSearch.
fn not_opensearch(host: &Host, body: &[u8]) -> Error {
    let start = String::from_utf8_lossy(&body[..body.len().min(4096)]).to_lowercase();
    let what = if start.contains("mongodb") {
        " (it seems to be MongoDB)"
    } else if start.contains("<html") || start.contains("<!doctype") {
        " (it sent a web page)"
    } else {
        ""
    };
    Error::new(
        ErrorKind::Server,
        format!("{host} answered, but not as OpenSearch{what}"),
    )
    .with_remedy("check host, port and path")
}

/// The address that a request failed at, which the driver gives in its text alone.
fn address_in(error: &opensearch::Error) -> Option<Url> {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(cause) = next {
        let text = cause.to_string();
        if let Some((_, rest)) = text.split_once("for url (") {
            return Url::parse(rest.split_once(')')?.0).ok();
        }
        next = cause.source();
    }
    None
}

/// The error for a server that sends its clients elsewhere: with most requests, to lose what they say.
fn redirected(host: &Host, path: &str, url: &Url) -> Error {
    let mut target = url.clone();
    target.set_query(None);
    target.set_fragment(None);
    // Neither can fail for an address of http or https.
    let _ = target.set_username("");
    let _ = target.set_password(None);
    let target = target.as_str();
    let target = target.strip_suffix(path).unwrap_or(target).trim_end_matches('/');
    Error::new(
        ErrorKind::Server,
        format!("the server at {host} redirects to {target}"),
    )
    .with_remedy(format!("use {target} as the address of OpenSearch"))
}

/// The error of TLS that this is, or that is wrapped in it.
fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    error.downcast_ref::<rustls::Error>().or_else(|| {
        // An error of input or output does not give what it wraps as its cause.
        let wrapped = error.downcast_ref::<io::Error>()?.get_ref()?;
        tls_error(wrapped)
    })
}

fn tls_failed(host: &Host, error: &rustls::Error) -> Error {
    match error {
        rustls::Error::InvalidMessage(_) => {
            let remedy = match host.is_upgraded {
                true => {
                    "set OPENSEARCH_USE_SSL=false: it is true by default, and LightRAG gives it precedence over http://"
                }
                false => "use an http:// address, or set OPENSEARCH_USE_SSL=false",
            };
            Error::new(ErrorKind::Tls, format!("the server at {host} does not speak TLS")).with_remedy(remedy)
        }
        rustls::Error::InvalidCertificate(problem) => {
            let message = format!("the certificate of {host} is not trusted: {problem}");
            Error::new(ErrorKind::Tls, message).with_remedy(
                "name its authority (ca_cert in the job file, ?ca_cert=FILE in the address) and a host that the \
                 certificate names",
            )
        }
        other => Error::new(ErrorKind::Tls, format!("no TLS with {host}: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(json: &str) -> Cause {
        Answer::new(400, json.to_owned()).cause()
    }

    #[test]
    fn a_refusal_tells_what_is_the_matter() {
        let reason = |kind: &str, reason: &str| {
            let error = serde_json::json!({"type": kind, "reason": reason});
            cause(&serde_json::json!({"error": {"root_cause": [error]}}).to_string())
        };
        let prefix =
            "[prefix] queries cannot be executed when 'search.allow_expensive_queries' is set to false.";
        assert!(reason("exception", prefix).forbids_expensive_queries());
        let window =
            "Result window is too large, from + size must be less than or equal to: [3] but was [4]. See";
        assert_eq!(
            reason("illegal_argument_exception", window).result_window(),
            Some(3)
        );
        assert_eq!(reason("illegal_argument_exception", "[3]").result_window(), None);
        for (text, kind, remedy) in [
            (
                "FORBIDDEN/7/index read (api)",
                ErrorKind::Permission,
                "index.blocks.read\": null",
            ),
            (
                "TOO_MANY_REQUESTS/12/disk usage exceeded flood-stage watermark, index has read-only-allow-delete block",
                ErrorKind::Full,
                "free space",
            ),
            (
                "FORBIDDEN/6/cluster read-only (api)",
                ErrorKind::Permission,
                "PUT /_cluster/settings",
            ),
            ("SERVICE_UNAVAILABLE/2/no cluster manager", ErrorKind::Busy, ""),
        ] {
            let reason = reason(
                "cluster_block_exception",
                &format!("index [i] blocked by: [{text}];"),
            );
            let block = reason.block().unwrap();
            assert_eq!(block.kind(), kind, "{text}");
            assert!(block.remedy("i").unwrap_or_default().contains(remedy), "{text}");
        }
        assert!(reason("security_exception", "no permissions").block().is_none());
    }

    #[test]
    fn an_error_is_told_with_its_cause() {
        let cause = cause(
            r#"{"error": {"root_cause": [{"type": "a", "reason": "Result window is too large"}],
                "type": "search_phase_execution_exception", "reason": "all shards failed",
                "caused_by": {"type": "illegal_argument_exception", "reason": "said\n below"}}, "status": 400}"#,
        );
        assert_eq!(cause.text(), "Result window is too large: said below");
        assert!(cause.is("illegal_argument_exception") && cause.is("a"));
    }

    #[test]
    fn an_answer_of_another_form_tells_nothing() {
        assert_eq!(cause("<html>").text(), "");
        assert_eq!(
            cause(r#"{"error": "no handler found"}"#).text(),
            "no handler found"
        );
        let long = cause(&format!(r#"{{"error": "{}"}}"#, "é".repeat(1000)));
        assert_eq!(long.text().chars().count(), LONGEST_REASON + 1);
    }

    #[test]
    fn plain_http_to_a_tls_port_is_recognized() {
        assert!(is_tls_port(
            b"<title>400 The plain HTTP request was sent to HTTPS port</title>"
        ));
        assert!(!is_tls_port(b"{}"));
    }
}

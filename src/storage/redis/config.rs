//! Where the server is and how to log in, as LightRAG's `REDIS_URI` says it.
//!
//! The address is read as redis-py's `from_url` reads it, its `ssl_*` and timeout parameters included, since that is
//! what LightRAG hands it to. What only tunes redis-py's pool is passed over; a value that redis-py cannot read is an
//! error, as it is there.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
    time::Duration,
};

use percent_encoding::percent_decode_str;
use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo,
    TlsCertificates, io::tcp::TcpSettings,
};
use url::{Host, Url};

use crate::{
    model::{Error, Result, Secret, Values},
    storage::{ConnectOptions, tls::unverified},
};

const DEFAULT_PORT: u16 = 6379;
const DEFAULT_HOST: &str = "localhost";

const EXPECTED_ADDRESS: &str = "an address such as redis://user:password@host:6379/0";
const ENCODE: &str = "write characters such as # / ? @ : % in user and password percent-encoded, or give the password as \
                      `password` in the job file";

/// Takes an address apart. User and password of a weaker setting do not hold beside it.
///
/// # Errors
/// A configuration error. It does not repeat the address.
pub(super) fn parse_uri(address: &str) -> Result<Vec<(&'static str, Secret)>> {
    Address::read(address)
        .map_err(|expected| Error::config(format!("expected {expected}")).with_remedy(ENCODE))?;
    Ok(vec![
        ("uri", Secret::new(address)),
        ("username", Secret::default()),
        ("password", Secret::default()),
    ])
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Listener {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// An address, taken apart.
#[derive(Clone, Debug)]
struct Address {
    listener: Listener,
    tls: bool,
    username: Option<String>,
    password: Option<Secret>,
    /// The number of the database.
    database: u32,
    verify_certs: Option<bool>,
    check_hostname: bool,
    ca_cert: Option<Pem>,
    client_cert: Option<PathBuf>,
    client_key: Option<PathBuf>,
    socket_timeout: Option<Duration>,
    connect_timeout: Option<Duration>,
    /// What a person should know of it: clauses that repeat no value.
    warnings: Vec<String>,
}

/// Parameters of redis-py that hold a whole number, and change nothing here.
const WHOLE_NUMBERS: [&str; 4] = [
    "socket_read_size",
    "max_connections",
    "health_check_interval",
    "protocol",
];

/// Parameters of redis-py that change nothing here.
const WITHOUT_EFFECT: [&str; 14] = [
    "socket_keepalive",
    "retry_on_timeout",
    "retry_on_error",
    "timeout",
    "legacy_responses",
    "client_name",
    "lib_name",
    "lib_version",
    "encoding",
    "encoding_errors",
    "decode_responses",
    "socket_type",
    "host",
    "port",
];

/// Certificates.
#[derive(Clone, Debug)]
enum Pem {
    File(PathBuf),
    Text(String),
}

impl Address {
    /// Reads an address; else says what was expected, without repeating it.
    fn read(text: &str) -> std::result::Result<Self, String> {
        let wrong = || EXPECTED_ADDRESS.to_owned();
        let url = Url::parse(text.trim()).map_err(|_| wrong())?;
        let (listener, tls) = match url.scheme() {
            "redis" => (tcp(&url)?, false),
            "rediss" => (tcp(&url)?, true),
            "unix" | "redis+unix" => (unix(&url)?, false),
            _ => return Err(wrong()),
        };
        // A `/`, `?` or `#` in a password makes its start look like a host.
        let after_host = [Some(url.path()), url.fragment(), text_before_value(&url)];
        if matches!(listener, Listener::Tcp { .. })
            && after_host.into_iter().flatten().any(|part| part.contains('@'))
        {
            return Err(format!("{EXPECTED_ADDRESS}, and no @ after the host"));
        }
        let mut address = Self {
            username: said(url.username())?,
            password: said(url.password().unwrap_or_default())?.map(Secret::new),
            database: 0,
            listener,
            tls,
            verify_certs: None,
            check_hostname: true,
            ca_cert: None,
            client_cert: None,
            client_key: None,
            socket_timeout: None,
            connect_timeout: None,
            warnings: Vec::new(),
        };
        // Of a repeated name redis-py uses the first value, so the first is applied last.
        let parameters: Vec<(Cow<'_, str>, Cow<'_, str>)> = url.query_pairs().collect();
        for (name, value) in parameters.iter().rev().filter(|(_, value)| !value.is_empty()) {
            address.take_parameter(name, value)?;
        }
        if matches!(address.listener, Listener::Tcp { .. })
            && !parameters.iter().any(|(name, _)| name == "db")
        {
            address.take_path(&decode(url.path())?.replace('/', ""))?;
        }
        Ok(address)
    }

    /// The path after the host is the number of a database; redis-py ignores anything else.
    fn take_path(&mut self, path: &str) -> std::result::Result<(), String> {
        let path = path.trim();
        if path.is_empty() || path.parse::<i64>().is_ok() {
            self.database = database(path)?;
        } else {
            self.warnings.push(
                "the text after the host in the address is not the number of a database: database 0 is used, as \
                 LightRAG does"
                    .to_owned(),
            );
        }
        Ok(())
    }

    fn take_parameter(&mut self, name: &str, value: &str) -> std::result::Result<(), String> {
        match name {
            "db" => self.database = database(value)?,
            "username" => self.username = self.username.take().or_else(|| Some(value.to_owned())),
            "password" => self.password = self.password.take().or_else(|| Some(Secret::new(value))),
            "ssl_cert_reqs" => {
                self.verify_certs = Some(match value.to_ascii_lowercase().as_str() {
                    "none" => false,
                    "optional" | "required" => true,
                    _ => return Err("none, optional or required for ssl_cert_reqs".to_owned()),
                });
            }
            "ssl_check_hostname" => {
                let no = ["0", "f", "false", "n", "no"];
                self.check_hostname = !no.iter().any(|no| no.eq_ignore_ascii_case(value));
            }
            "ssl_ca_certs" => self.ca_cert = Some(Pem::File(value.into())),
            "ssl_ca_data" => self.ca_cert = Some(Pem::Text(value.to_owned())),
            "ssl_certfile" => self.client_cert = Some(value.into()),
            "ssl_keyfile" => self.client_key = Some(value.into()),
            "ssl_ca_path" => {
                return Err("one file with certificates in ssl_ca_certs, instead of ssl_ca_path".to_owned());
            }
            "ssl_password" => {
                return Err("no ssl_password: a key that is not encrypted".to_owned());
            }
            "socket_timeout" => self.socket_timeout = Some(seconds(name, value)?),
            "socket_connect_timeout" => self.connect_timeout = Some(seconds(name, value)?),
            name if WHOLE_NUMBERS.contains(&name) => {
                let number = value.trim().parse::<i64>();
                number.map_err(|_| format!("a whole number for {name} in the address"))?;
            }
            name if WITHOUT_EFFECT.contains(&name) => {}
            name => self
                .warnings
                .push(format!("the parameter {name} of the address has no effect here")),
        }
        Ok(())
    }
}

/// The query up to the first `=`, where there may be no password.
fn text_before_value(url: &Url) -> Option<&str> {
    let query = url.query()?;
    Some(query.split_once('=').map_or(query, |(name, _)| name))
}

fn tcp(url: &Url) -> std::result::Result<Listener, String> {
    let host = match url.host() {
        Some(Host::Ipv4(address)) => address.to_string(),
        Some(Host::Ipv6(address)) => address.to_string(),
        Some(Host::Domain(name)) => decode(name)?,
        None => String::new(),
    };
    let host = if host.is_empty() {
        DEFAULT_HOST.to_owned()
    } else {
        host
    };
    let port = url.port().unwrap_or(DEFAULT_PORT);
    Ok(Listener::Tcp { host, port })
}

fn unix(url: &Url) -> std::result::Result<Listener, String> {
    let path = decode(url.path())?;
    if url.host_str().is_some_and(|host| !host.is_empty()) || !path.starts_with('/') {
        return Err("the whole path of a socket, as in unix:///run/redis.sock".to_owned());
    }
    Ok(Listener::Unix(path.into()))
}

fn decode(text: &str) -> std::result::Result<String, String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded
        .map(Cow::into_owned)
        .map_err(|_| "percent-encoded UTF-8".to_owned())
}

/// Decoded text, where there is any.
fn said(text: &str) -> std::result::Result<Option<String>, String> {
    decode(text).map(|text| (!text.is_empty()).then_some(text))
}

fn database(text: &str) -> std::result::Result<u32, String> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse()
        .map_err(|_| "the number of a database after the host, as in redis://host:6379/0".to_owned())
}

fn seconds(name: &str, value: &str) -> std::result::Result<Duration, String> {
    let seconds = value
        .parse::<f64>()
        .ok()
        .and_then(|s| Duration::try_from_secs_f64(s).ok());
    let seconds = seconds.filter(|seconds| !seconds.is_zero());
    seconds.ok_or_else(|| format!("seconds above 0 for {name}"))
}

/// The server, the login, and how long to wait.
#[derive(Clone, Debug)]
pub(super) struct Config {
    listener: Listener,
    tls: Option<Tls>,
    /// The user.
    pub(super) username: Option<String>,
    pub(super) password: Option<Secret>,
    /// The number of the database.
    pub(super) database: u32,
    /// How long connecting may take, TLS and login included.
    pub(super) connect_timeout: Duration,
    /// How long an answer may take.
    pub(super) response_timeout: Duration,
    /// Whether a server that throws keys away may be written to.
    pub(super) allow_eviction_policy: bool,
    /// What a person should know of the settings.
    pub(super) warnings: Vec<String>,
}

#[derive(Clone, Debug)]
struct Tls {
    verify: bool,
    check_hostname: bool,
    ca_cert: Option<Pem>,
    client: Option<(PathBuf, PathBuf)>,
}

impl Config {
    /// # Errors
    /// A setting that cannot be read.
    pub(super) fn new(values: &Values, options: &ConnectOptions) -> Result<Self> {
        let address = Address::read(values.required_text("uri"))
            .map_err(|expected| values.invalid("uri", &expected).with_remedy(ENCODE))?;
        let text = |name| values.text(name).filter(|text| !text.is_empty());
        let path = |name| text(name).map(PathBuf::from);
        let timeout = |name, in_address: Option<Duration>| {
            let said = match in_address {
                Some(said) => Some(said),
                None => values.duration(name)?,
            };
            match said {
                Some(said) if said.is_zero() => Err(values.invalid(name, "a duration above 0")),
                said => Ok(said.map_or(options.timeout, |said| said.min(options.timeout))),
            }
        };
        let tls = address.tls.then(|| {
            let client_cert = path("client_cert").or(address.client_cert);
            let client_key = path("client_key").or(address.client_key);
            Ok(Tls {
                verify: values
                    .flag("verify_certs")?
                    .or(address.verify_certs)
                    .unwrap_or(true),
                check_hostname: address.check_hostname,
                ca_cert: path("ca_cert").map(Pem::File).or(address.ca_cert),
                client: match (client_cert, client_key) {
                    (None, None) => None,
                    // A key may be in the same file as its certificate.
                    (Some(cert), key) => Some((cert.clone(), key.unwrap_or(cert))),
                    (None, Some(_)) => {
                        return Err(values.invalid("client_key", "a `client_cert` beside it"));
                    }
                },
            })
        });
        let mut config = Self {
            warnings: Vec::new(),
            listener: address.listener,
            tls: tls.transpose()?,
            username: text("username").map(str::to_owned).or(address.username),
            password: text("password").map(Secret::new).or(address.password),
            database: address.database,
            connect_timeout: timeout("connect_timeout", address.connect_timeout)?,
            response_timeout: timeout("socket_timeout", address.socket_timeout)?,
            allow_eviction_policy: values.flag("allow_eviction_policy")?.unwrap_or(false),
        };
        let location = config.location();
        config.warnings = address
            .warnings
            .into_iter()
            .map(|what| format!("{location}: {what}"))
            .collect();
        if config.trusts_anyone() {
            let remedy = "leave out ssl_cert_reqs=none and verify_certs: false to have it checked";
            config.warnings.push(unverified(&location, remedy));
        }
        Ok(config)
    }

    /// Whether the connection is to be encrypted.
    pub(super) fn uses_tls(&self) -> bool {
        self.tls.is_some()
    }

    pub(super) fn is_tcp(&self) -> bool {
        matches!(self.listener, Listener::Tcp { .. })
    }

    /// Host and port, or the socket.
    pub(super) fn host(&self) -> String {
        match &self.listener {
            Listener::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Listener::Tcp { host, port } => format!("{host}:{port}"),
            Listener::Unix(path) => path.display().to_string(),
        }
    }

    /// The place, for people: no password in it.
    pub(super) fn location(&self) -> String {
        let login = match (&self.username, &self.password) {
            (None, None) => String::new(),
            (Some(user), None) => format!("{user}@"),
            (user, Some(_)) => format!("{}:***@", user.as_deref().unwrap_or_default()),
        };
        let (host, database) = (self.host(), self.database);
        match (&self.listener, self.uses_tls()) {
            (Listener::Unix(_), _) => format!("unix://{login}{host}?db={database}"),
            (Listener::Tcp { .. }, true) => format!("rediss://{login}{host}/{database}"),
            (Listener::Tcp { .. }, false) => format!("redis://{login}{host}/{database}"),
        }
    }

    /// Whether TLS is used without verifying the server.
    fn trusts_anyone(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| !tls.verify)
    }

    /// A client for the server. It does not know user, password and database: this module sends those itself, to see
    /// what the server says of them.
    ///
    /// # Errors
    /// A file with a certificate or a key that cannot be read.
    pub(super) fn client(&self) -> Result<Client> {
        let made = match (&self.listener, &self.tls) {
            (Listener::Unix(path), _) => self.open(ConnectionAddr::Unix(path.clone())),
            (Listener::Tcp { host, port }, None) => self.open(ConnectionAddr::Tcp(host.clone(), *port)),
            (Listener::Tcp { host, port }, Some(tls)) => {
                let address = ConnectionAddr::TcpTls {
                    host: host.clone(),
                    port: *port,
                    insecure: !tls.verify,
                    tls_params: None,
                };
                let certificates = tls.certificates()?;
                let with_tls = self
                    .info(address)
                    .and_then(|info| Client::build_with_tls(info, certificates));
                with_tls.and_then(|client| {
                    let mut address = client.get_connection_info().addr().clone();
                    address.set_danger_accept_invalid_hostnames(!tls.check_hostname);
                    self.open(address)
                })
            }
        };
        made.map_err(|error| Error::config(format!("cannot use the settings for {}: {error}", self.host())))
    }

    fn open(&self, address: ConnectionAddr) -> redis::RedisResult<Client> {
        Client::open(self.info(address)?)
    }

    fn info(&self, address: ConnectionAddr) -> redis::RedisResult<ConnectionInfo> {
        let login = RedisConnectionInfo::default().set_skip_set_lib_name();
        let tcp = TcpSettings::default().set_nodelay(true);
        let info = address.into_connection_info()?;
        Ok(info.set_redis_settings(login).set_tcp_settings(tcp))
    }
}

impl Tls {
    fn certificates(&self) -> Result<TlsCertificates> {
        let root_cert = match &self.ca_cert {
            None => None,
            Some(Pem::File(path)) => Some(read_pem("ca_cert", path, "BEGIN CERTIFICATE")?),
            Some(Pem::Text(text)) => Some(text.clone().into_bytes()),
        };
        let client_tls = match &self.client {
            None => None,
            Some((cert, key)) => Some(ClientTlsConfig {
                client_cert: read_pem("client_cert", cert, "BEGIN CERTIFICATE")?,
                client_key: read_pem("client_key", key, "PRIVATE KEY")?,
            }),
        };
        Ok(TlsCertificates {
            client_tls,
            root_cert,
        })
    }
}

/// A file that must contain this kind of PEM block, so that the error names a wrong file.
fn read_pem(setting: &str, path: &Path, mark: &str) -> Result<Vec<u8>> {
    let failed = |what: String| Error::config(format!("{setting}: {what}"));
    let text =
        std::fs::read(path).map_err(|error| failed(format!("cannot read {}: {error}", path.display())))?;
    if memchr::memmem::find(&text, mark.as_bytes()).is_none() {
        return Err(failed(format!(
            "{} contains no `{mark}`; expected PEM",
            path.display()
        )));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::model::{Origin, Side, Value, record::OnInvalid};

    fn config_with(settings: &[(&'static str, &str)]) -> Result<Config> {
        let mut values = Values::new(Side::Target);
        for (name, text) in settings {
            let (text, origin) = (Secret::new(*text), Origin::Default);
            values.set(name, Value { text, origin });
        }
        let options = ConnectOptions {
            timeout: Duration::from_secs(60),
            concurrency: NonZeroUsize::MIN,
            on_invalid: OnInvalid::Reject,
            salvage: false,
            waiter: crate::storage::SilentWaiter::shared(0),
        };
        Config::new(&values, &options)
    }

    fn config(uri: &str) -> Config {
        config_with(&[("uri", uri)]).unwrap()
    }

    #[test]
    fn an_address_is_read_as_redis_py_reads_it() {
        for (uri, location) in [
            ("redis://localhost:6379", "redis://localhost:6379/0"),
            ("redis://cache", "redis://cache:6379/0"),
            ("redis://cache/3", "redis://cache:6379/3"),
            ("redis://cache/3?db=4", "redis://cache:6379/4"),
            ("redis://:p@cache:1/2", "redis://:***@cache:1/2"),
            ("redis://me:p%40%2F@cache:1/2", "redis://me:***@cache:1/2"),
            ("redis://me@cache", "redis://me@cache:6379/0"),
            (
                "rediss://cache:6380/1?ssl_cert_reqs=none",
                "rediss://cache:6380/1",
            ),
            ("redis://[::1]:7000/1", "redis://[::1]:7000/1"),
            ("redis:///2", "redis://localhost:6379/2"),
            ("redis://cache/name", "redis://cache:6379/0"),
            ("redis://cache/name?db=4", "redis://cache:6379/4"),
            ("unix:///run/redis.sock?db=2", "unix:///run/redis.sock?db=2"),
            (
                "unix:///run/redis.sock?username=me&password=p",
                "unix://me:***@/run/redis.sock?db=0",
            ),
            ("redis+unix:///run/re%20dis.sock", "unix:///run/re dis.sock?db=0"),
        ] {
            assert_eq!(config(uri).location(), location, "{uri}");
        }
        let encoded = config("redis://m%40e:p%40%2F%C3%A9@cache");
        assert_eq!(encoded.username.as_deref(), Some("m@e"));
        assert_eq!(encoded.password.unwrap().expose(), "p@/é");
    }

    #[test]
    fn an_address_that_cannot_be_read_is_not_repeated() {
        for uri in [
            "redis://:hunter2#x@cache:6379",
            "redis://:hunter2@cache:port",
            "redis://me:12/hunter2@cache",
            "redis://me:12?hunter2@cache",
            "redis://me:12#hunter2@cache",
            "redis://:hunter2@cache/-1",
            "redis://:hunter2@cache?max_connections=hunter2",
            "http://:hunter2@cache",
            "unix://hunter2/run/redis.sock",
            "rediss://:hunter2@cache?ssl_password=hunter2",
            "redis://cache?password=hunter2&socket_timeout=hunter2",
            "hunter2",
        ] {
            let error = parse_uri(uri).unwrap_err();
            assert!(!format!("{error:?} {error}").contains("hunter2"), "{error}");
            let error = config_with(&[("uri", uri)]).unwrap_err();
            assert!(!format!("{error:?} {error}").contains("hunter2"), "{error}");
            assert!(error.message().starts_with("target.uri"), "{error}");
        }
    }

    #[test]
    fn what_an_address_says_in_vain_is_warned_of() {
        let said = config("redis://:p@cache/name?foo=hunter2&max_connections=5").warnings;
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(
            said[0].contains("parameter foo") && !said[0].contains("hunter2"),
            "{said:?}"
        );
        assert!(said[1].contains("database 0 is used"), "{said:?}");
        assert_eq!(config("redis://cache/0?socket_keepalive=true").warnings, [""; 0]);
    }

    #[test]
    fn no_printed_form_holds_the_password() {
        let config = config("redis://me:hunter2@cache");
        assert!(!format!("{config:?} {}", config.location()).contains("hunter2"));
    }

    #[test]
    fn what_stands_beside_an_address_goes_before_what_stands_in_it() {
        let config = config_with(&[
            (
                "uri",
                "rediss://me:one@cache?ssl_cert_reqs=none&socket_timeout=5&socket_connect_timeout=90",
            ),
            ("username", "you"),
            ("password", "two"),
            ("verify_certs", "true"),
        ])
        .unwrap();
        assert_eq!(config.username.as_deref(), Some("you"));
        assert_eq!(config.password.unwrap().expose(), "two");
        assert!(config.tls.unwrap().verify);
        assert_eq!(config.response_timeout, Duration::from_secs(5));
        // Never longer than the run allows.
        assert_eq!(config.connect_timeout, Duration::from_secs(60));
    }

    #[test]
    fn a_new_address_takes_no_login_from_an_old_one() {
        let place = parse_uri("redis://other").unwrap();
        let mut settings = vec![("username", "me"), ("password", "p")];
        settings.extend(place.iter().map(|(name, text)| (*name, text.expose())));
        let config = config_with(&settings).unwrap();
        assert_eq!((config.username, config.password), (None, None));
    }

    #[test]
    fn a_file_that_is_no_certificate_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let config = config_with(&[("uri", "rediss://cache"), ("ca_cert", path)]).unwrap();
        let error = config.client().unwrap_err();
        assert!(
            error.message().contains("ca_cert") && error.message().contains(path),
            "{error}"
        );
    }
}

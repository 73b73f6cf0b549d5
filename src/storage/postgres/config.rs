//! Which server, and how to reach it: LightRAG's variables, and addresses as libpq reads them.

use std::{path::PathBuf, time::Duration};

use tokio_postgres::config::{ChannelBinding, TargetSessionAttrs};

use super::info::CLIENT_SSL_MODE;
use super::session::{Session, Setting, is_name, parse_options};

use crate::{
    model::{Error, Origin, Result, Secret, Side, Values},
    storage::{
        ConnectOptions,
        tls::{TlsOptions, Verification},
    },
};

/// libpq's parameters of an address, and what they are called here.
const PARAMETERS: &[(&str, &str)] = &[
    ("host", "host"),
    ("port", "port"),
    ("user", "user"),
    ("password", "password"),
    ("dbname", "database"),
    ("sslmode", "ssl_mode"),
    ("sslcert", "ssl_cert"),
    ("sslkey", "ssl_key"),
    ("sslrootcert", "ssl_root_cert"),
    ("sslcrl", "ssl_crl"),
    ("connect_timeout", "connect_timeout"),
    ("options", "options"),
    ("application_name", "application_name"),
    ("target_session_attrs", "target_session_attrs"),
    ("channel_binding", "channel_binding"),
];

const DEFAULT_PORT: u16 = 5432;

/// Takes an address apart: `postgres://user:password@host:port,host:port/database?sslmode=require`.
///
/// # Errors
/// Where it cannot be read; the message repeats names of parameters, never a value.
pub(super) fn parse_uri(address: &str) -> Result<Vec<(&'static str, Secret)>> {
    let (_, rest) = address
        .split_once("://")
        .ok_or_else(|| unreadable("it has no scheme"))?;
    let (rest, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    // A `/` in a password makes its start, or the text after an `@` in it, look like a host.
    if database.contains('@') {
        return Err(unreadable("an @ after the host looks like the end of a password"));
    }
    let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = match login.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (login, None),
    };
    let mut found = Vec::new();
    let mut add = |name, text: &str| {
        if !text.is_empty() {
            found.push((name, Secret::new(text)));
        }
    };
    add("user", &decoded(user)?);
    add("password", &decoded(password.unwrap_or_default())?);
    add("database", &decoded(database)?);
    let (hosts, ports) = split_hosts(hosts)?;
    add("host", &hosts);
    add("port", &ports);
    for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter
            .split_once('=')
            .ok_or_else(|| unreadable("a parameter has no value"))?;
        let value = decoded(value)?;
        let known = PARAMETERS.iter().find(|(known, _)| *known == name);
        match (known, name, &*value) {
            (Some((_, field)), _, value) => add(field, value),
            // What Java's driver calls it; libpq reads it too.
            (None, "ssl", "true") => add("ssl_mode", "require"),
            (None, name, _) => {
                let known: Vec<&str> = PARAMETERS.iter().map(|(name, _)| *name).collect();
                return Err(unreadable(&format!(
                    "the parameter `{name}` is not known; known: {}",
                    known.join(", ")
                )));
            }
        }
    }
    Ok(found)
}

/// Hosts and ports of `host:port,host:port`, each list separated by commas; no ports where none is said.
fn split_hosts(text: &str) -> Result<(String, String)> {
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for host in text.split(',') {
        let (host, port) = match host.strip_prefix('[') {
            Some(rest) => {
                let (address, rest) = rest
                    .split_once(']')
                    .ok_or_else(|| unreadable("a `[` is not closed"))?;
                (address, rest.strip_prefix(':').unwrap_or_default())
            }
            None => host.rsplit_once(':').unwrap_or((host, "")),
        };
        hosts.push(decoded(host)?);
        ports.push(match port {
            "" => None,
            port => Some(
                port.parse::<u16>()
                    .map_err(|_| unreadable("a port is not a number up to 65535"))?,
            ),
        });
    }
    if ports.iter().all(Option::is_none) {
        return Ok((hosts.join(","), String::new()));
    }
    let ports: Vec<String> = ports
        .into_iter()
        .map(|port| port.unwrap_or(DEFAULT_PORT).to_string())
        .collect();
    Ok((hosts.join(","), ports.join(",")))
}

fn unreadable(what: &str) -> Error {
    Error::config(format!(
        "the address of a PostgreSQL server cannot be read: {what}"
    ))
    .with_remedy(
        "write postgres://user:password@host:port/database; in a password, `@`, `/`, `?`, `:` and `%` are \
         written %40, %2F, %3F, %3A and %25",
    )
}

/// Replaces `%XX`.
fn decoded(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.ok_or_else(|| unreadable("a `%` is not followed by two hexadecimal digits"))?);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).map_err(|_| unreadable("it is not valid UTF-8"))
}

/// Writes as `%XX` what has a meaning in an address.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
        encoded
    })
}

/// What libpq calls `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SslMode {
    /// Never TLS.
    Disable,
    /// TLS where the server refuses a login without.
    Allow,
    /// TLS where the server has it.
    Prefer,
    /// TLS, without verifying the server.
    Require,
    /// TLS, with a certificate from a trusted authority.
    VerifyCa,
    /// TLS, with a certificate from a trusted authority for this host.
    VerifyFull,
}

/// Where the server is and how to talk to it. Not `Debug`: the password is in it.
pub(super) struct Config {
    hosts: Vec<String>,
    ports: Vec<u16>,
    user: String,
    password: Option<Secret>,
    database: String,
    pub(super) ssl_mode: SslMode,
    /// What a person should know of the settings.
    pub(super) warnings: Vec<String>,
    ssl_cert: Option<PathBuf>,
    ssl_key: Option<PathBuf>,
    ssl_root_cert: Option<PathBuf>,
    ssl_crl: Option<PathBuf>,
    /// What the user wants the session to begin with, as the login sends it. Many poolers refuse or ignore it.
    startup_options: String,
    /// The settings in those options; `None` where there is more than settings in them.
    user_settings: Option<Vec<Setting>>,
    application_name: String,
    connect_timeout: Option<Duration>,
    target_session_attrs: TargetSessionAttrs,
    channel_binding: ChannelBinding,
    /// The most connections at once.
    pub(super) connections: usize,
    pub(super) side: Side,
}

impl Config {
    /// Reads the settings.
    ///
    /// # Errors
    /// One that cannot be read.
    pub(super) fn new(values: &Values, options: &ConnectOptions) -> Result<Self> {
        let side = values.side();
        let list = |name| {
            let items = values.required_text(name).split(',').map(str::trim);
            items.filter(|item| !item.is_empty()).collect::<Vec<_>>()
        };
        let hosts: Vec<String> = list("host").into_iter().map(str::to_owned).collect();
        let ports = list("port")
            .into_iter()
            .map(str::parse::<u16>)
            .collect::<Result<Vec<u16>, _>>();
        let ports = ports.map_err(|_| values.invalid("port", "a port, or one for each host"))?;
        if hosts.is_empty() {
            return Err(values.invalid("host", "a host"));
        }
        if ports.len() != 1 && ports.len() != hosts.len() {
            return Err(values.invalid("port", "one port, or one for each host"));
        }
        check_hosts(values, &hosts)?;
        let path = |name| values.text(name).map(PathBuf::from);
        let mut warnings = Vec::new();
        let ssl_mode = ssl_mode_of(values, &mut warnings)?;
        let _: Option<usize> = values.parse("statement_cache_size", "a number of statements")?;
        let startup_options = startup_options(values)?;
        let max_connections: Option<usize> = values.parse("max_connections", "a number of connections")?;
        // One more than there are writes at once, so that reading the target does not wait for them.
        let wanted = options.concurrency.get() + 1;
        Ok(Self {
            hosts,
            ports,
            user: values.required_text("user").to_owned(),
            password: values
                .secret("password")
                .filter(|password| !password.expose().is_empty()),
            database: values.required_text("database").to_owned(),
            ssl_mode,
            warnings,
            ssl_cert: path("ssl_cert"),
            ssl_key: path("ssl_key"),
            ssl_root_cert: path("ssl_root_cert"),
            ssl_crl: path("ssl_crl"),
            user_settings: parse_options(&startup_options),
            startup_options,
            application_name: values.required_text("application_name").to_owned(),
            connect_timeout: values.duration("connect_timeout")?,
            target_session_attrs: choice(values, "target_session_attrs", SESSION_ATTRS)?,
            channel_binding: choice(values, "channel_binding", CHANNEL_BINDINGS)?,
            connections: max_connections.unwrap_or(wanted).clamp(1, wanted),
            side,
        })
    }

    /// The driver's configuration. It contains the password and its debug output shows it: do not log it.
    pub(super) fn driver(&self, options: &ConnectOptions, startup: Startup) -> tokio_postgres::Config {
        let mut driver = tokio_postgres::Config::new();
        for host in &self.hosts {
            driver.host(host);
        }
        for port in &self.ports {
            driver.port(*port);
        }
        if let Some(password) = &self.password {
            driver.password(password.expose());
        }
        driver
            .user(&self.user)
            .dbname(&self.database)
            .application_name(&self.application_name)
            .connect_timeout(self.login_timeout(options))
            // A connection that lost its other end is noticed at about the time when a request would be given up.
            .tcp_user_timeout(options.timeout)
            .keepalives_idle(KEEPALIVE)
            .keepalives_interval(KEEPALIVE / 3)
            .keepalives_retries(3)
            .target_session_attrs(self.target_session_attrs)
            .channel_binding(self.channel_binding);
        if startup == Startup::WithOptions && !self.startup_options.is_empty() {
            driver.options(&self.startup_options);
        }
        driver
    }

    /// Whether the login can do without the options that it would send: what is in them can be set later.
    pub(super) fn has_optional_options(&self) -> bool {
        !self.startup_options.is_empty() && self.user_settings.is_some()
    }

    /// What every transaction begins with.
    pub(super) fn session(&self, options: &ConnectOptions) -> Session {
        let users = self.user_settings.clone().unwrap_or_default();
        Session::new(self.side, options.timeout, users)
    }

    /// How long making a connection may take, to the end of the login. It ends before a whole request would, so that
    /// the error can name the hosts that did not answer.
    pub(super) fn login_timeout(&self, options: &ConnectOptions) -> Duration {
        self.connect_timeout
            .unwrap_or(LONGEST_LOGIN)
            .min(options.timeout * 9 / 10)
    }

    /// How to speak TLS; `None` where it is never spoken.
    pub(super) fn tls(&self) -> Option<TlsOptions<'_>> {
        let verification = match self.ssl_mode {
            SslMode::Disable => return None,
            SslMode::VerifyFull => Verification::Host,
            SslMode::VerifyCa => Verification::Authority,
            // libpq, too, verifies here what it was given an authority for.
            SslMode::Require if self.ssl_root_cert.is_some() => Verification::Authority,
            SslMode::Allow | SslMode::Prefer | SslMode::Require => Verification::None,
        };
        let verifies = verification != Verification::None;
        Some(TlsOptions {
            verification,
            root_cert: self.ssl_root_cert.as_deref().filter(|_| verifies),
            crl: self.ssl_crl.as_deref().filter(|_| verifies),
            cert: self.ssl_cert.as_deref(),
            key: self.ssl_key.as_deref(),
        })
    }

    /// Host and port, for people: `db:5432`.
    pub(super) fn address(&self) -> String {
        let hosts = self.hosts.iter().enumerate().map(|(at, host)| {
            let port = self.ports.get(at).or(self.ports.first()).unwrap_or(&DEFAULT_PORT);
            match host {
                host if host.starts_with('/') => format!("{}:{port}", encoded(host)),
                host if host.contains(':') => format!("[{host}]:{port}"),
                host => format!("{host}:{port}"),
            }
        });
        hosts.collect::<Vec<_>>().join(",")
    }

    /// The place, for people: `postgres://rag:***@db:5432/rag`.
    pub(super) fn location(&self) -> String {
        let password = if self.password.is_some() { ":***" } else { "" };
        format!(
            "postgres://{}{password}@{}/{}",
            encoded(&self.user),
            self.address(),
            encoded(&self.database)
        )
    }

    pub(super) fn user(&self) -> &str {
        &self.user
    }

    pub(super) fn database(&self) -> &str {
        &self.database
    }
}

/// How long a connection may be idle before it is asked whether its other end is still there.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// The default time limit for connecting; a suspended server needs seconds.
const LONGEST_LOGIN: Duration = Duration::from_secs(20);

const SSL_MODES: &[(&str, SslMode)] = &[
    ("disable", SslMode::Disable),
    ("allow", SslMode::Allow),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];

const SESSION_ATTRS: &[(&str, TargetSessionAttrs)] = &[
    ("any", TargetSessionAttrs::Any),
    ("read-write", TargetSessionAttrs::ReadWrite),
    ("read-only", TargetSessionAttrs::ReadOnly),
];

const CHANNEL_BINDINGS: &[(&str, ChannelBinding)] = &[
    ("disable", ChannelBinding::Disable),
    ("prefer", ChannelBinding::Prefer),
    ("require", ChannelBinding::Require),
];

fn choice<T: Copy>(values: &Values, name: &str, known: &[(&str, T)]) -> Result<T> {
    let text = values.required_text(name).trim().to_ascii_lowercase();
    let found = known.iter().find(|(known, _)| *known == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        values.invalid(name, &format!("one of {}", known.join(", ")))
    })
}

/// The mode. One that LightRAG's configuration names and that is none leaves the choice to LightRAG's client, with a warning.
fn ssl_mode_of(values: &Values, warnings: &mut Vec<String>) -> Result<SslMode> {
    let chosen = choice(values, "ssl_mode", SSL_MODES);
    let value = values.get("ssl_mode");
    let is_lightrags = value.is_some_and(|value| {
        // What the client's own variable says the client refuses.
        value.origin.is_lightrags() && !value.origin.is_variable(CLIENT_SSL_MODE)
    });
    chosen.or_else(|error| {
        if !is_lightrags {
            return Err(error);
        }
        let message = error.message();
        warnings.push(format!(
            "{message}; as in LightRAG, TLS is used if the server supports it"
        ));
        Ok(SslMode::Prefer)
    })
}

/// Whether a login sends the user's options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Startup {
    WithOptions,
    WithoutOptions,
}

/// The settings that the user gave, as command-line options of the server process. Empty where there are none: a pooler
/// need not know any.
fn startup_options(values: &Values) -> Result<String> {
    let mut options = values.text("options").unwrap_or_default().trim().to_owned();
    let expected = "name=value, several separated by `&`";
    let pairs = values.text("server_settings").unwrap_or_default();
    for pair in pairs.split('&').filter(|pair| !pair.trim().is_empty()) {
        let (name, value) = pair
            .split_once('=')
            .ok_or_else(|| values.invalid("server_settings", expected))?;
        let name = name.trim();
        if !is_name(name) {
            return Err(values.invalid("server_settings", expected));
        }
        // Poolers take the project from this option: not as a setting, but as the whole text.
        if name == "options" {
            options = format!("{value} {options}").trim().to_owned();
        } else {
            let value = value.replace('\\', "\\\\").replace(' ', "\\ ");
            options = format!("{options} -c {name}={value}").trim_start().to_owned();
        }
    }
    Ok(options)
}

/// A host with a port after it would be resolved as a name.
fn check_hosts(values: &Values, hosts: &[String]) -> Result<()> {
    let has_port = |host: &String| match host.split_once(':') {
        Some((_, port)) => !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()),
        None => false,
    };
    if !hosts.iter().any(has_port) {
        return Ok(());
    }
    let (host, port) = match values.get("host").map(|host| &host.origin) {
        Some(Origin::Variable(_) | Origin::DotEnv { .. }) => ("POSTGRES_HOST", "POSTGRES_PORT"),
        _ => ("host", "port"),
    };
    let error = values.invalid("host", "a host without a port");
    Err(error.with_remedy(format!("write the port into {port} instead of {host}")))
}

#[cfg(test)]
pub(super) mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::model::{Origin, Value, record::OnInvalid};

    /// The defaults, and these settings.
    pub(in super::super) fn values(side: Side, settings: &[(&'static str, &str)]) -> Values {
        let mut values = Values::new(side);
        let defaults = super::super::info::FIELDS
            .iter()
            .filter_map(|field| Some((field.name, field.default?)));
        for (name, text) in defaults.chain(settings.iter().copied()) {
            let text = Secret::new(text);
            values.set(
                name,
                Value {
                    text,
                    origin: Origin::Default,
                },
            );
        }
        values
    }

    pub(in super::super) fn options() -> ConnectOptions {
        ConnectOptions {
            timeout: Duration::from_secs(7),
            concurrency: NonZeroUsize::new(2).unwrap(),
            on_invalid: OnInvalid::Reject,
            salvage: false,
            waiter: crate::storage::SilentWaiter::shared(0),
        }
    }

    fn read(address: &str) -> Vec<(&'static str, String)> {
        let found = parse_uri(address).unwrap();
        let text = found
            .into_iter()
            .map(|(name, text)| (name, text.expose().to_owned()));
        text.collect()
    }

    #[test]
    fn an_address_is_taken_apart() {
        let expected = [
            ("user", "me"),
            ("password", "p@s/s"),
            ("database", "r ag"),
            ("host", "db"),
            ("port", "5433"),
            ("ssl_mode", "verify-full"),
            ("ssl_root_cert", "/etc/ca.pem"),
        ];
        let found =
            read("postgres://me:p%40s%2fs@db:5433/r%20ag?sslmode=verify-full&sslrootcert=/etc/ca.pem");
        assert_eq!(found, expected.map(|(name, text)| (name, text.to_owned())));
    }

    #[test]
    fn several_hosts_and_sockets_are_read() {
        let several = read("postgresql://a,[::1]:5433/rag");
        assert_eq!(several[1], ("host", "a,::1".to_owned()));
        assert_eq!(several[2], ("port", "5432,5433".to_owned()));
        assert_eq!(read("postgres:///rag?host=/run/pg")[1].1, "/run/pg");
        assert_eq!(read("postgres://%2Frun%2Fpg/rag")[1].1, "/run/pg");
    }

    #[test]
    fn a_wrong_address_is_not_repeated() {
        for address in [
            "postgres://me:hunter2@db:port/rag",
            "postgres://me:hunter2%zz@db/rag",
            "postgres://me:hunter2@db/rag?sslmod=hunter2",
            "postgres://me:hunter2@[db/rag",
            "postgres://me:hunter2@db/rag?hunter2",
            "postgres://me:pass@hunter2/word@db/rag",
            "postgres://me:1/hunter2@db/rag",
        ] {
            let error = parse_uri(address).unwrap_err();
            assert!(
                !format!("{error} {:?}", error.remedy()).contains("hunter2"),
                "{error}"
            );
        }
        let error = parse_uri("postgres://db/rag?sslmod=require").unwrap_err();
        assert!(error.message().contains("`sslmod`"), "{error}");
    }

    #[test]
    fn the_location_shows_no_password() {
        let values = values(
            Side::Target,
            &[
                ("user", "r/g"),
                ("password", "hunter2"),
                ("database", "rag"),
                ("host", "::1,b"),
            ],
        );
        let config = Config::new(&values, &options()).unwrap();
        assert_eq!(config.location(), "postgres://r%2Fg:***@[::1]:5432,b:5432/rag");
    }

    #[test]
    fn a_login_sends_options_only_where_the_user_gave_some() {
        let startup = |settings: &[(&'static str, &str)]| {
            let config = Config::new(&values(Side::Source, settings), &options()).unwrap();
            (config.startup_options.clone(), config.has_optional_options())
        };
        assert_eq!(startup(&[]), (String::new(), false));
        assert_eq!(
            startup(&[
                ("options", "-c search_path=a"),
                ("server_settings", "TimeZone=Asia/Tokyo&work_mem=64 MB"),
            ]),
            (
                "-c search_path=a -c TimeZone=Asia/Tokyo -c work_mem=64\\ MB".to_owned(),
                true
            )
        );
        assert_eq!(
            startup(&[("server_settings", "options=reference=project&work_mem=1MB")]),
            ("reference=project -c work_mem=1MB".to_owned(), false)
        );
    }

    #[test]
    fn a_port_behind_a_host_is_refused_with_where_it_belongs() {
        let config = Config::new(&values(Side::Source, &[("host", "localhost:5432")]), &options());
        let error = config.err().unwrap();
        assert!(error.message().contains("source.host"), "{error}");
        assert!(error.remedy().unwrap().contains("port"), "{error:?}");
        for host in ["::1", "localhost", "/run/postgresql", "a,b"] {
            Config::new(&values(Side::Source, &[("host", host)]), &options()).unwrap();
        }
    }

    #[test]
    fn an_unknown_mode_in_lightrags_configuration_is_a_warning_and_no_error() {
        let with = |origin: Origin| {
            let mut values = values(Side::Target, &[("user", "rag"), ("database", "rag")]);
            let text = Secret::new("on");
            values.set("ssl_mode", Value { text, origin });
            Config::new(&values, &options())
        };
        let config = with(Origin::Variable("POSTGRES_SSL_MODE".to_owned())).unwrap();
        assert_eq!(config.ssl_mode, SslMode::Prefer);
        assert!(
            config.warnings[0].starts_with("POSTGRES_SSL_MODE: expected one of disable"),
            "{:?}",
            config.warnings
        );
        for origin in [
            Origin::Flag("--target"),
            Origin::Variable(CLIENT_SSL_MODE.to_owned()),
        ] {
            assert!(with(origin).is_err());
        }
    }

    #[test]
    fn wrong_settings_are_named_with_what_was_expected() {
        let wrong = |setting| {
            let given = [("user", "rag"), ("database", "rag"), setting];
            let error = Config::new(&values(Side::Target, &given), &options())
                .err()
                .unwrap();
            error.message().to_owned()
        };
        assert!(wrong(("ssl_mode", "on")).contains("target.ssl_mode"));
        assert!(wrong(("ssl_mode", "on")).contains("verify-full"));
        assert!(wrong(("port", "5432,5433")).contains("target.port"));
        assert!(wrong(("server_settings", "a b=c")).contains("target.server_settings"));
        assert!(wrong(("max_connections", "many")).contains("target.max_connections"));
    }

    #[test]
    fn the_server_is_verified_as_far_as_the_mode_says() {
        let verification = |mode, root: Option<&str>| {
            let mut given = vec![("user", "rag"), ("database", "rag"), ("ssl_mode", mode)];
            given.extend(root.map(|root| ("ssl_root_cert", root)));
            let config = Config::new(&values(Side::Target, &given), &options()).unwrap();
            config.tls().map(|tls| tls.verification)
        };
        assert_eq!(verification("disable", None), None);
        assert_eq!(verification("prefer", Some("/ca")), Some(Verification::None));
        assert_eq!(verification("require", None), Some(Verification::None));
        assert_eq!(
            verification("require", Some("/ca")),
            Some(Verification::Authority)
        );
        assert_eq!(verification("verify-ca", None), Some(Verification::Authority));
        assert_eq!(verification("VERIFY-FULL", None), Some(Verification::Host));
    }
}

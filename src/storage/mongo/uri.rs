//! An address as PyMongo reads it, since that is what LightRAG hands it to, and what of it the driver here is given.
//!
//! PyMongo takes more options than the driver here, and where it does not know one, or cannot read its value, it warns
//! and goes on. So an option is passed on where the driver knows it and PyMongo takes its value; anything else is passed
//! over with a warning, unless that would make the connection another one than was asked for.

use std::collections::BTreeMap;

use mongodb::options::ConnectionString;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

pub(super) const ADDRESS_REMEDY: &str = "write it as mongodb://user:password@host:port/?options, with %40 for @, %3A for :, %2F for /, %3F for ?, %25 \
     for % in user and password";

/// What values an option takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Flag,
    /// A number from this one on.
    Number(u32),
    /// A number; 0 means no limit.
    PoolSize,
    /// Milliseconds, of which 0 means what it means to leave the option out.
    Milliseconds,
    OneOf(&'static [&'static str]),
    /// `key:value` pairs, which are decoded after they are split.
    Properties,
    Level,
    MaxStaleness,
    /// Ways to compress, in the order in which they are preferred. PyMongo leaves out those that it does not know.
    Compressors,
    /// From -1, the default, to 9.
    ZlibLevel,
}

/// What becomes of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// The driver is given it.
    Driver(Kind),
    /// It changes nothing about the data, or nothing here.
    NoEffect,
    /// What it asks for cannot be done here, and to do without would be another connection.
    Impossible(&'static str),
}

const HOSTNAMES: &str = "tlsAllowInvalidHostnames=true asks for certificates of other hosts to be taken, which this tool does not \
     do; use the host's name in the certificate, or tlsAllowInvalidCertificates=true";
const KEY_PASSWORD: &str = "tlsCertificateKeyFilePassword asks for an encrypted key to be read, which this tool does not do; name \
     a key file that is not encrypted";

/// The options that PyMongo knows (its `URI_OPTIONS_VALIDATOR_MAP`), in lower case.
const OPTIONS: &[(&str, Use)] = &[
    ("appname", Use::Driver(Kind::Text)),
    (
        "authmechanism",
        Use::Driver(Kind::OneOf(&[
            "DEFAULT",
            "GSSAPI",
            "MONGODB-AWS",
            "MONGODB-OIDC",
            "MONGODB-X509",
            "PLAIN",
            "SCRAM-SHA-1",
            "SCRAM-SHA-256",
        ])),
    ),
    ("authmechanismproperties", Use::Driver(Kind::Properties)),
    ("authsource", Use::Driver(Kind::Text)),
    ("compressors", Use::Driver(Kind::Compressors)),
    ("connect", Use::NoEffect),
    ("connecttimeoutms", Use::Driver(Kind::Milliseconds)),
    ("datetime_conversion", Use::NoEffect),
    ("directconnection", Use::Driver(Kind::Flag)),
    ("driver", Use::NoEffect),
    ("enableoverloadretargeting", Use::NoEffect),
    ("fsync", Use::NoEffect),
    ("heartbeatfrequencyms", Use::Driver(Kind::Milliseconds)),
    ("journal", Use::Driver(Kind::Flag)),
    ("loadbalanced", Use::Driver(Kind::Flag)),
    ("localthresholdms", Use::Driver(Kind::Milliseconds)),
    ("maxadaptiveretries", Use::NoEffect),
    ("maxconnecting", Use::Driver(Kind::Number(1))),
    ("maxidletimems", Use::Driver(Kind::Milliseconds)),
    ("maxpoolsize", Use::Driver(Kind::PoolSize)),
    ("maxstalenessseconds", Use::Driver(Kind::MaxStaleness)),
    ("minpoolsize", Use::Driver(Kind::Number(0))),
    ("readconcernlevel", Use::Driver(Kind::Text)),
    (
        "readpreference",
        Use::Driver(Kind::OneOf(&[
            "primary",
            "primaryPreferred",
            "secondary",
            "secondaryPreferred",
            "nearest",
        ])),
    ),
    ("readpreferencetags", Use::Driver(Kind::Text)),
    ("replicaset", Use::Driver(Kind::Text)),
    ("retryreads", Use::Driver(Kind::Flag)),
    ("retrywrites", Use::Driver(Kind::Flag)),
    ("server_api", Use::NoEffect),
    (
        "servermonitoringmode",
        Use::Driver(Kind::OneOf(&["auto", "stream", "poll"])),
    ),
    ("serverselectiontimeoutms", Use::Driver(Kind::Milliseconds)),
    // How long an answer may take is for --timeout to say.
    ("sockettimeoutms", Use::NoEffect),
    ("srvallowedhostssuffix", Use::NoEffect),
    ("srvmaxhosts", Use::Driver(Kind::Number(0))),
    ("srvservicename", Use::Driver(Kind::Text)),
    ("ssl", Use::Driver(Kind::Flag)),
    ("timeoutms", Use::NoEffect),
    ("tls", Use::Driver(Kind::Flag)),
    ("tlsallowinvalidcertificates", Use::Driver(Kind::Flag)),
    ("tlsallowinvalidhostnames", Use::Impossible(HOSTNAMES)),
    ("tlscafile", Use::Driver(Kind::Text)),
    ("tlscertificatekeyfile", Use::Driver(Kind::Text)),
    ("tlscertificatekeyfilepassword", Use::Impossible(KEY_PASSWORD)),
    ("tlscrlfile", Use::NoEffect),
    ("tlsdisableocspendpointcheck", Use::NoEffect),
    ("tlsinsecure", Use::Driver(Kind::Flag)),
    ("tz_aware", Use::NoEffect),
    ("unicode_decode_error_handler", Use::NoEffect),
    ("uuidrepresentation", Use::NoEffect),
    ("w", Use::Driver(Kind::Level)),
    ("waitqueuemultiple", Use::NoEffect),
    ("waitqueuetimeoutms", Use::Driver(Kind::Milliseconds)),
    ("wtimeoutms", Use::Driver(Kind::Number(0))),
    ("zlibcompressionlevel", Use::Driver(Kind::ZlibLevel)),
];

/// The options that an address may contain more than once.
const REPEATED: &str = "readpreferencetags";

/// What the driver here can compress with.
const COMPRESSORS: [&str; 3] = ["snappy", "zlib", "zstd"];

/// Login mechanisms that the driver here is built without.
const NO_MECHANISM: [&str; 3] = ["GSSAPI", "MONGODB-AWS", "MONGODB-OIDC"];

/// An address that was read.
pub(super) struct Address {
    pub(super) parsed: ConnectionString,
    /// What a person should know of its options: clauses that repeat no value.
    pub(super) warnings: Vec<String>,
}

impl Address {
    /// Parses an address. Errors do not repeat text that may be part of a password.
    pub(super) fn read(uri: &str) -> Result<Self, String> {
        let (place, options) = uri.split_once('?').unwrap_or((uri, ""));
        let unreadable = |why: &str| Err(format!("not a MongoDB address: {why}"));
        // A `?` or `#` in a password makes its start look like a host, and its rest like options.
        let rest = place.split_once("://").map_or(place, |(_, rest)| rest);
        if options.contains('@') && !rest.contains(['@', '/']) {
            return unreadable("a user or password in it is not percent-encoded");
        }
        let mut reader = Options::default();
        reader.read(options)?;
        let mut address = for_driver(place);
        for (at, (name, value)) in reader.passed_on().enumerate() {
            let separator = match at {
                0 if rest.contains('/') => "?",
                0 => "/?",
                _ => "&",
            };
            let value = utf8_percent_encode(value, NON_ALPHANUMERIC);
            address.push_str(&format!("{separator}{name}={value}"));
        }
        let parsed = ConnectionString::parse(&address).map_err(|error| match *error.kind {
            mongodb::error::ErrorKind::InvalidArgument { message, .. }
                if !options.contains('@') && !message.contains("authMechanismProperties") =>
            {
                format!("not a MongoDB address: {message}")
            }
            _ => "not a MongoDB address".to_owned(),
        })?;
        Ok(Self {
            parsed,
            warnings: reader.warnings(),
        })
    }
}

/// The part before the options in the driver's form: PyMongo takes a `+` in user and password for a space, and what
/// follows a dot in the database's name for a collection.
fn for_driver(place: &str) -> String {
    let (scheme, rest) = match place.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), place),
    };
    let (login, rest) = match rest.rsplit_once('@') {
        Some((login, rest)) => (format!("{}@", login.replace('+', "%20")), rest),
        None => (String::new(), rest),
    };
    let (hosts, database) = match rest.split_once('/') {
        Some((hosts, database)) => {
            let database = database.split_once('.').map_or(database, |(name, _)| name);
            (hosts, format!("/{database}"))
        }
        None => (rest, String::new()),
    };
    format!("{scheme}{login}{hosts}{database}")
}

/// The options of an address.
#[derive(Default)]
struct Options {
    /// In the order of their names.
    single: BTreeMap<String, String>,
    repeated: Vec<String>,
    /// As they are spelled in the address.
    without_effect: Vec<String>,
    unknown: Vec<String>,
    unreadable: Vec<String>,
    doubled: Vec<String>,
}

impl Options {
    fn read(&mut self, options: &str) -> Result<(), String> {
        if options.is_empty() {
            return Ok(());
        }
        let separator = match (options.contains('&'), options.contains(';')) {
            (true, true) => {
                return Err("not a MongoDB address: its options are separated by both & and ;".to_owned());
            }
            (false, true) => ';',
            _ => '&',
        };
        for option in options.split(separator) {
            let Some((name, value)) = option.split_once('=') else {
                return Err(
                    "not a MongoDB address: the options after the ? must be name=value, separated by &"
                        .to_owned(),
                );
            };
            self.take(name, value)?;
        }
        self.check_tls()
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), String> {
        let lower = name.to_ascii_lowercase();
        let decoded = decode(value);
        let Some((_, usage)) = OPTIONS.iter().find(|(known, _)| *known == lower) else {
            self.unknown.push(name.to_owned());
            return Ok(());
        };
        match usage {
            Use::NoEffect => self.without_effect.push(name.to_owned()),
            Use::Impossible(why) if decoded != "false" => return Err(format!("MongoDB address: {why}")),
            Use::Impossible(_) => {}
            Use::Driver(kind) => {
                let Some(value) = kind.read(&decoded) else {
                    self.unreadable.push(name.to_owned());
                    return Ok(());
                };
                check_login(&lower, value.as_deref())?;
                let Some(value) = value else {
                    return Ok(());
                };
                if lower == REPEATED {
                    self.repeated.push(value);
                } else if self.single.insert(lower, value).is_some() {
                    self.doubled.push(name.to_owned());
                }
            }
        }
        Ok(())
    }

    /// PyMongo takes `ssl` and `tls` side by side where they say the same; the driver takes one of them.
    fn check_tls(&mut self) -> Result<(), String> {
        let Some(ssl) = self.single.remove("ssl") else {
            return Ok(());
        };
        match self.single.insert("tls".to_owned(), ssl.clone()) {
            Some(tls) if tls != ssl => {
                Err("not a MongoDB address: ssl and tls contradict each other".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// `tls` comes first: the driver reads the options about certificates in its light.
    fn passed_on(&self) -> impl Iterator<Item = (&str, &str)> {
        let is_tls = |name: &str| name == "tls";
        let all = || self.single.iter().map(|(name, value)| (&**name, &**value));
        all()
            .filter(move |(name, _)| is_tls(name))
            .chain(all().filter(move |(name, _)| !is_tls(name)))
            .chain(self.repeated.iter().map(|value| (REPEATED, &**value)))
    }

    fn warnings(&self) -> Vec<String> {
        let said = [
            (&self.without_effect, "have no effect here"),
            (&self.unknown, "are unknown and ignored, as in LightRAG's driver"),
            (
                &self.unreadable,
                "have an invalid value and are ignored, as in LightRAG's driver",
            ),
            (&self.doubled, "occur more than once: the last one counts"),
        ];
        said.into_iter()
            .filter(|(names, _)| !names.is_empty())
            .map(|(names, what)| format!("options of the address that {what}: {}", names.join(", ")))
            .collect()
    }
}

/// Refuses a way to log in that the driver here does not have: to pass it over would log in another way.
fn check_login(name: &str, value: Option<&str>) -> Result<(), String> {
    match value {
        Some(mechanism) if name == "authmechanism" && NO_MECHANISM.contains(&mechanism) => Err(format!(
            "MongoDB address: this tool cannot log in with authMechanism={mechanism}; it can with SCRAM-SHA-1, \
             SCRAM-SHA-256, MONGODB-X509 and PLAIN"
        )),
        Some("") if name == "authsource" => Err("not a MongoDB address: authSource is empty".to_owned()),
        _ => Ok(()),
    }
}

impl Kind {
    /// The value for the driver, or `Some(None)` where that is to leave the option out; `None` where PyMongo would not
    /// take it.
    fn read(self, value: &str) -> Option<Option<String>> {
        let value = value.to_owned();
        match self {
            // The default is no name of a mechanism to the driver.
            Self::OneOf(_) if value == "DEFAULT" => Some(None),
            Self::OneOf(known) => known.contains(&value.as_str()).then_some(Some(value)),
            Self::Text => Some(Some(value)),
            Self::Flag => matches!(value.as_str(), "true" | "false").then_some(Some(value)),
            Self::Number(least) => {
                let number = value.trim().parse::<u32>().ok()?;
                (number >= least).then_some(Some(number.to_string()))
            }
            Self::PoolSize => {
                let number = value.trim().parse::<u32>().ok()?;
                let limit = if number == 0 { u32::MAX } else { number };
                Some(Some(limit.to_string()))
            }
            Self::Milliseconds => {
                let number = value.trim().parse::<f64>().ok()?;
                match number {
                    0.0 => Some(None),
                    _ if number > 0.0 && number < 1e9 => Some(Some(format!("{:.0}", number.ceil()))),
                    _ => None,
                }
            }
            Self::Level => (!value.starts_with('-')).then_some(Some(value)),
            Self::MaxStaleness => {
                let number = value.trim().parse::<i64>().ok()?;
                (number == -1 || number > 0).then_some((number > 0).then(|| number.to_string()))
            }
            Self::Compressors => {
                let known = value.split(',').map(str::trim);
                let known: Vec<&str> = known.filter(|name| COMPRESSORS.contains(name)).collect();
                (!known.is_empty()).then(|| Some(known.join(",")))
            }
            Self::ZlibLevel => {
                let level = value.trim().parse::<i32>().ok()?;
                (-1..=9).contains(&level).then(|| Some(level.to_string()))
            }
            Self::Properties => {
                let known = [
                    "SERVICE_NAME",
                    "CANONICALIZE_HOST_NAME",
                    "SERVICE_REALM",
                    "SERVICE_HOST",
                    "AWS_SESSION_TOKEN",
                    "ENVIRONMENT",
                    "TOKEN_RESOURCE",
                ];
                let is_known = |pair: &str| {
                    let (name, text) = pair.split_once(':').unwrap_or((pair, ""));
                    !text.is_empty() && known.contains(&name)
                };
                value.split(',').all(is_known).then_some(Some(value))
            }
        }
    }
}

/// A value of the address in its own characters, as Python's `unquote_plus` gives it.
fn decode(value: &str) -> String {
    let spaced = value.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use mongodb::options::HostInfo;

    use super::*;

    fn warnings(options: &str) -> String {
        let address = Address::read(&format!("mongodb://h/?{options}"));
        address.map(|address| address.warnings.join("; ")).unwrap()
    }

    fn refused(uri: &str) -> String {
        Address::read(uri).map(|_| ()).unwrap_err()
    }

    #[test]
    fn a_plus_is_a_space_in_the_login_and_part_of_the_scheme() {
        for (place, driver) in [
            ("mongodb+srv://h.example.com", "mongodb+srv://h.example.com"),
            (
                "mongodb+srv://u:p+w@h.example.com/db",
                "mongodb+srv://u:p%20w@h.example.com/db",
            ),
            (
                "mongodb://a+b:c@h1:1,h2:2/db.c+d",
                "mongodb://a%20b:c@h1:1,h2:2/db",
            ),
            ("mongodb://h", "mongodb://h"),
        ] {
            assert_eq!(for_driver(place), driver);
            let address = Address::read(place).unwrap();
            let is_looked_up = matches!(address.parsed.host_info, HostInfo::DnsRecord(_));
            assert_eq!(is_looked_up, place.starts_with("mongodb+srv"), "{place}");
        }
    }

    #[test]
    fn what_only_pymongo_knows_is_passed_over_by_name() {
        let said = warnings("socketTimeoutMS=30000&uuidRepresentation=standard&tz_aware=true&fsync=true");
        assert_eq!(
            said,
            "options of the address that have no effect here: socketTimeoutMS, uuidRepresentation, tz_aware, fsync"
        );
        assert!(warnings("foo=hunter2").ends_with("driver: foo"));
        assert!(warnings("tls=perhaps").contains("invalid value"));
        assert!(warnings("appName=a&appname=b").contains("the last one counts: appname"));
        assert_eq!(
            warnings("replicaSet=rs&retryWrites=false;".trim_end_matches(';')),
            ""
        );
    }

    #[test]
    fn what_the_driver_knows_reaches_it_as_pymongo_understands_it() {
        let read = |options: &str| {
            Address::read(&format!("mongodb://me:p+w%2B@h/db.c?{options}"))
                .unwrap()
                .parsed
        };
        let parsed = read(
            "maxPoolSize=0&appName=a+b%26c&connectTimeoutMS=0&serverSelectionTimeoutMS=1500.5&ssl=true&tls=true",
        );
        assert_eq!(parsed.max_pool_size, Some(u32::MAX));
        assert_eq!(parsed.app_name.as_deref(), Some("a b&c"));
        assert_eq!(parsed.connect_timeout, None);
        assert_eq!(
            parsed.server_selection_timeout,
            Some(std::time::Duration::from_millis(1501))
        );
        assert!(parsed.tls.is_some());
        assert_eq!(parsed.default_database.as_deref(), Some("db"));
        let credential = parsed.credential.unwrap();
        assert_eq!(credential.password.as_deref(), Some("p w+"));
    }

    #[test]
    fn compression_is_asked_for_in_the_order_of_the_address() {
        let compressors = |options: &str| {
            let address = Address::read(&format!("mongodb://h/?{options}")).unwrap();
            (
                format!("{:?}", address.parsed.compressors),
                address.warnings.join("; "),
            )
        };
        let (given, warnings) = compressors("compressors=zstd,lz4,zlib,snappy&zlibCompressionLevel=9");
        let places: Vec<_> = ["Zstd", "Zlib", "Snappy"].map(|name| given.find(name)).into();
        assert!(places.is_sorted() && places[0].is_some(), "{given}");
        assert!(
            given.contains("level: Some(9)") && warnings.is_empty(),
            "{given} {warnings}"
        );
        let (given, warnings) = compressors("compressors=lz4");
        assert_eq!(given, "None");
        assert!(warnings.ends_with("driver: compressors"), "{warnings}");
        // A level alone asks for nothing.
        for options in [
            "zlibCompressionLevel=9",
            "compressors=snappy&zlibCompressionLevel=-1",
        ] {
            assert_eq!(compressors(options).1, "");
        }
        assert!(compressors("zlibCompressionLevel=10").1.contains("invalid value"));
    }

    #[test]
    fn what_would_be_another_connection_is_refused() {
        for option in [
            "tlsAllowInvalidHostnames=true",
            "authMechanism=GSSAPI",
            "authMechanism=MONGODB-AWS",
            "ssl=true&tls=false",
            "authSource=",
            "a",
            "a=1&b=2;c=3",
        ] {
            assert!(!refused(&format!("mongodb://h/?{option}")).is_empty());
        }
        assert_eq!(warnings("tlsAllowInvalidHostnames=false"), "");
    }

    #[test]
    fn a_password_that_was_not_encoded_leads_to_no_host() {
        for uri in [
            "mongodb://me:12?34@h:1/",
            "mongodb://me:12?3=4@h:1/",
            "mongodb://me:12/34@h:1/",
            "mongodb://me:1@2@h:1/",
            "mongodb://me:1:2@h:1/",
        ] {
            refused(uri);
        }
    }
}

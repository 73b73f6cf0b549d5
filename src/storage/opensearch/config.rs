//! Which servers, as whom, and how an index is made.

use std::{fmt, path::PathBuf, time::Duration};

use opensearch::http::Url;
use percent_encoding::percent_decode_str;

use crate::model::{Error, Origin, Result, Secret, Values};

/// Takes an address apart: `https://[user[:password]@]host[:port][/path][?verify_certs=…&ca_cert=…]`.
///
/// # Errors
/// It cannot be read. The message does not repeat it.
pub(super) fn parse_uri(address: &str) -> Result<Vec<(&'static str, Secret)>> {
    let (host, login) = read_address(address, true)?;
    let mut settings = vec![("hosts", Secret::new(host.to_string()))];
    if let Some((user, password)) = login {
        settings.push(("user", Secret::new(user)));
        settings.extend(password.map(|password| ("password", password)));
    }
    let url = parse_url(address)?;
    for (name, value) in url.query_pairs() {
        let known = ["verify_certs", "ca_cert"]
            .into_iter()
            .find(|known| *known == name);
        let name = known.ok_or_else(|| {
            Error::config("the address of OpenSearch has an unknown parameter")
                .with_remedy("known: verify_certs, ca_cert")
        })?;
        settings.push((name, Secret::new(value)));
    }
    Ok(settings)
}

/// A server's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) tls: bool,
    /// Whether its address says `http://`, and LightRAG's configuration is stronger.
    pub(super) is_upgraded: bool,
    /// A name or an address, IPv6 in brackets.
    name: String,
    port: u16,
    /// The path that a proxy has put before the server's own: empty, or `/opensearch`.
    path: String,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme(), self.without_scheme())
    }
}

impl Host {
    fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    fn without_scheme(&self) -> String {
        format!("{}:{}{}", self.name, self.port, self.path)
    }

    /// Name and port.
    pub(super) fn address(&self) -> String {
        format!("{}:{}", self.name, self.port)
    }

    /// Whether an address is on this server, whatever its path.
    pub(super) fn is_origin_of(&self, url: &Url) -> bool {
        url.scheme() == self.scheme()
            && url.host_str() == Some(&self.name)
            && url.port_or_known_default() == Some(self.port)
    }

    /// The address for a client, with no login in it.
    ///
    /// # Errors
    /// It is none, which its reading would have found.
    pub(super) fn url(&self) -> Result<Url> {
        parse_url(&self.to_string())
    }
}

/// How a server proves who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trust {
    /// Not at all, as LightRAG has it where nothing is said.
    Anyone,
    /// By a certificate that the system trusts.
    System,
    /// By a certificate that this file or the system vouches for.
    Authority(PathBuf),
}

/// Which servers, as whom, and how an index is made.
#[derive(Debug, Clone)]
pub(super) struct Config {
    /// In the order in which they are tried. Never empty.
    pub(super) hosts: Vec<Host>,
    /// User and password; `None` where none is to be sent.
    pub(super) login: Option<(String, Secret)>,
    pub(super) trust: Trust,
    /// The most that a request may take, where LightRAG's configuration says it.
    pub(super) timeout: Option<Duration>,
    /// The most retries of a document that the server was too busy for.
    pub(super) max_retries: u32,
    pub(super) shards: u32,
    pub(super) replicas: u32,
}

impl Config {
    pub(super) fn new(values: &Values) -> Result<Self> {
        let use_ssl = values.flag("use_ssl")?.unwrap_or(true);
        // LightRAG's client speaks TLS to an http:// address too where its configuration says so, as it does by default.
        let scheme_decides = is_named_by_user(values);
        let expected = "host[:port], or several between commas";
        let mut hosts = Vec::new();
        let mut own_login = None;
        let texts = values.required_text("hosts").split(',').map(str::trim);
        for text in texts.filter(|text| !text.is_empty()) {
            let (mut host, login) = read_address(text, use_ssl).map_err(|error| {
                let place = values.invalid("hosts", expected);
                Error::config(format!("{}; {}", place.message(), error.message()))
            })?;
            own_login = own_login.or(login);
            host.is_upgraded = use_ssl && !scheme_decides && !host.tls;
            host.tls |= host.is_upgraded;
            hosts.push(host);
        }
        if hosts.is_empty() {
            return Err(values.invalid("hosts", expected));
        }
        let trust = match values.text("ca_cert") {
            Some(path) => Trust::Authority(path.into()),
            None if values.flag("verify_certs")?.unwrap_or(false) => Trust::System,
            None => Trust::Anyone,
        };
        let number = |name| -> Result<u32> {
            let number = values.parse(name, "a whole number")?;
            Ok(number.unwrap_or_default())
        };
        Ok(Self {
            login: login(values, own_login, &hosts),
            hosts,
            trust,
            timeout: values.duration("timeout")?,
            max_retries: number("max_retries")?,
            shards: number("number_of_shards")?.max(1),
            replicas: number("number_of_replicas")?,
        })
    }

    /// The place, for people.
    pub(super) fn parse_uri(&self) -> String {
        let scheme = self.hosts.first().map_or("https", Host::scheme);
        let login = match &self.login {
            Some((user, _)) => format!("{user}:***@"),
            None => String::new(),
        };
        let hosts = self.hosts.iter().map(Host::without_scheme);
        format!("{scheme}://{login}{}", hosts.collect::<Vec<_>>().join(","))
    }
}

/// A user, and a password where there is one.
type Login = (String, Option<Secret>);

/// The login. An address has precedence over other settings.
///
/// LightRAG logs in as `admin` with the password `admin` by default. A server that was given by an
/// `http://` address is not sent that in clear text.
fn login(values: &Values, own: Option<Login>, hosts: &[Host]) -> Option<(String, Secret)> {
    let password = values.secret("password").unwrap_or_default();
    if let Some((user, own_password)) = own {
        return Some((user, own_password.unwrap_or(password)));
    }
    let user = values.text("user").filter(|user| !user.is_empty())?;
    let origin = |name| values.get(name).map(|value| &value.origin);
    let nobody_said_it = origin("user") == Some(&Origin::Default);
    let in_clear_text = hosts.iter().any(|host| !host.tls);
    let keep = nobody_said_it && is_named_by_user(values) && in_clear_text;
    (!keep).then(|| (user.to_owned(), password))
}

/// Whether a flag or the job file names the servers, and not LightRAG's configuration.
fn is_named_by_user(values: &Values) -> bool {
    let origin = values.get("hosts").map(|value| &value.origin);
    matches!(origin, Some(Origin::Flag(_) | Origin::Job { .. }))
}

/// Reads `host[:port][/path]` or an address, as opensearch-py does.
///
/// # Errors
/// It cannot be read. The message does not repeat it.
fn read_address(text: &str, use_ssl: bool) -> Result<(Host, Option<Login>)> {
    let wrong = |what: &str| Err(Error::config(format!("an address of OpenSearch {what}")));
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme.to_ascii_lowercase()), rest),
        None => (None, text),
    };
    let tls = match scheme.as_deref() {
        Some("https") => true,
        Some("http") => false,
        Some(_) => return wrong("begins with neither http:// nor https://"),
        None => use_ssl,
    };
    let url = parse_url(&format!("{}://{rest}", if tls { "https" } else { "http" }))?;
    let Some(name) = url.host_str() else {
        return wrong("has no host");
    };
    // As LightRAG's client has it: after https:// the web's port, otherwise OpenSearch's own.
    let port = url.port().or(said_port(rest)).unwrap_or(match scheme.as_deref() {
        Some("https") => 443,
        _ => 9200,
    });
    let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let password = url.password().map(|password| Secret::new(decode(password)));
    let user = decode(url.username());
    let login = (!user.is_empty() || password.is_some()).then_some((user, password));
    let host = Host {
        tls,
        is_upgraded: false,
        name: name.to_owned(),
        port,
        path: url.path().trim_end_matches('/').to_owned(),
    };
    Ok((host, login))
}

/// The explicit port of an address, which parsing drops if it is the default of the scheme.
fn said_port(rest: &str) -> Option<u16> {
    let authority = rest.split(['/', '?', '#']).next()?;
    let (_, port) = authority.rsplit_once(':')?;
    port.parse().ok()
}

fn parse_url(text: &str) -> Result<Url> {
    let unreadable = |why: &str| Error::config(format!("cannot read an address of OpenSearch: {why}"));
    let url = Url::parse(text).map_err(|error| unreadable(&error.to_string()))?;
    // A `/` in a password makes its start, or the text after an `@` in it, look like a host.
    if url.path().contains('@') {
        return Err(unreadable("an @ after the host looks like the end of a password")
            .with_remedy("write `@` and `/` in a password as %40 and %2F"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Side, Value};

    fn values(settings: &[(&'static str, &str, Origin)]) -> Values {
        let mut values = Values::new(Side::Target);
        for field in super::super::info::FIELDS {
            let text = field.default.map(Secret::new);
            let origin = Origin::Default;
            text.into_iter().for_each(|text| {
                values.set(
                    field.name,
                    Value {
                        text,
                        origin: origin.clone(),
                    },
                );
            });
        }
        for (name, text, origin) in settings {
            let text = Secret::new(*text);
            let origin = origin.clone();
            values.set(name, Value { text, origin });
        }
        values
    }

    fn variable(name: &'static str, text: &'static str) -> (&'static str, &'static str, Origin) {
        (name, text, Origin::Variable(String::new()))
    }

    fn flag(address: &str) -> Values {
        let settings = parse_uri(address).unwrap();
        let settings: Vec<_> = settings
            .iter()
            .map(|(name, text)| (*name, text.expose(), Origin::Flag("--target")))
            .collect();
        values(&settings)
    }

    #[test]
    fn without_a_word_it_is_lightrags_own_place() {
        let config = Config::new(&values(&[])).unwrap();
        assert_eq!(config.parse_uri(), "https://admin:***@localhost:9200");
        assert_eq!(config.trust, Trust::Anyone);
        assert_eq!(
            (config.shards, config.replicas, config.max_retries, config.timeout),
            (1, 0, 3, None)
        );
    }

    #[test]
    fn hosts_are_read_as_lightrags_client_reads_them() {
        let hosts = "a, b:1 ,http://c,https://d,https://e:9200,[::1]:7,http://f:80";
        let config = Config::new(&values(&[variable("hosts", hosts)])).unwrap();
        let read: Vec<String> = config.hosts.iter().map(Host::to_string).collect();
        assert_eq!(
            read,
            [
                "https://a:9200",
                "https://b:1",
                "https://c:9200",
                "https://d:443",
                "https://e:9200",
                "https://[::1]:7",
                "https://f:80"
            ]
        );
        let config = Config::new(&values(&[variable("use_ssl", "false")])).unwrap();
        assert_eq!(config.parse_uri(), "http://admin:***@localhost:9200");
    }

    #[test]
    fn a_path_is_a_part_of_the_address() {
        // What opensearch-py 3 makes of each, with use_ssl true and false.
        let expected = [
            (
                "http://g/opensearch",
                "https://g:9200/opensearch",
                "http://g:9200/opensearch",
            ),
            ("h:1/a/b/", "https://h:1/a/b", "http://h:1/a/b"),
            ("https://i/os/", "https://i:443/os", "https://i:443/os"),
        ];
        let hosts = expected.map(|(host, ..)| host).join(" ,");
        let read = |use_ssl| {
            let settings = [
                ("hosts", hosts.as_str(), Origin::Variable(String::new())),
                variable("use_ssl", use_ssl),
            ];
            let config = Config::new(&values(&settings)).unwrap();
            config.hosts.iter().map(Host::to_string).collect::<Vec<_>>()
        };
        assert_eq!(read("true"), expected.map(|(_, with, _)| with));
        assert_eq!(read("false"), expected.map(|(_, _, without)| without));
        let config = Config::new(&flag("http://h:80/opensearch?verify_certs=true")).unwrap();
        assert_eq!(config.parse_uri(), "http://h:80/opensearch");
        assert!(!config.hosts[0].is_upgraded);
        let config = Config::new(&values(&[variable("hosts", "http://h,https://h")])).unwrap();
        assert!(config.hosts[0].is_upgraded && !config.hosts[1].is_upgraded);
    }

    #[test]
    fn an_address_brings_its_login_and_hides_the_password() {
        let config = Config::new(&flag("https://me:p%40ss%2f@h:9?verify_certs=true")).unwrap();
        assert_eq!(config.parse_uri(), "https://me:***@h:9");
        assert_eq!(config.login, Some(("me".to_owned(), Secret::new("p@ss/"))));
        assert_eq!(config.trust, Trust::System);
        assert!(!format!("{config:?}").contains("p@ss/"));
    }

    #[test]
    fn the_default_login_is_not_sent_in_clear_text_to_a_named_server() {
        assert_eq!(Config::new(&flag("http://h:9200")).unwrap().login, None);
        let over_tls = Config::new(&flag("https://h:9200")).unwrap();
        assert_eq!(over_tls.parse_uri(), "https://admin:***@h:9200");
        let mut said = flag("http://h:80");
        let text = Secret::new("admin");
        let origin = Origin::Variable("OPENSEARCH_USER".to_owned());
        said.set("user", Value { text, origin });
        assert_eq!(Config::new(&said).unwrap().parse_uri(), "http://admin:***@h:80");
    }

    #[test]
    fn an_authority_means_that_the_server_must_prove_itself() {
        let config = Config::new(&flag("https://h?ca_cert=/etc/ca.pem")).unwrap();
        assert_eq!(config.trust, Trust::Authority("/etc/ca.pem".into()));
    }

    #[test]
    fn what_is_wrong_with_an_address_is_told_without_it() {
        for address in [
            "https://me:hunter2@[h/path",
            "https://me:hunter2@h?x=1",
            "https://me:pass@hunter2/word@h",
            "https://me:1/hunter2@h/path",
            "https://me:hunter2@",
            "ftp://me:hunter2@h",
        ] {
            let error = parse_uri(address).unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        let error = Config::new(&values(&[variable("hosts", " , ")])).unwrap_err();
        assert!(error.message().contains("expected host[:port]"), "{error}");
    }
}

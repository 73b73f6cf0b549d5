//! Where the server is, and how to log in: a MongoDB address, a database, and what TLS needs.
//!
//! LightRAG hands `MONGO_URI` to its driver as it is and opens the database `MONGO_DATABASE`; a database in the address
//! is to it, as to every driver, no more than where the login is kept. An address that a flag or a job file names says by
//! its path which database is meant, unless that is `admin`, where logins are kept and nothing else.

use std::{path::PathBuf, time::Duration};

use mongodb::options::{Acknowledgment, ClientOptions, HostInfo, Tls, TlsOptions, WriteConcern};

use super::{
    batches::MOST_REQUESTS,
    server::connecting_failed,
    uri::{ADDRESS_REMEDY, Address},
};
use crate::{
    model::{Error, Result, Secret, Values, Workspace},
    storage::{
        ConnectOptions,
        tls::{system_authorities, unverified},
    },
};

/// The most that finding a server takes where neither the address nor `--timeout` say less. MongoDB elects a new primary
/// in 10 to 12 seconds; a longer wait takes retries.
const SELECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// What names may not hold that are a database's.
const FORBIDDEN_IN_DATABASE: &[char] = &['/', '\\', '.', ' ', '"', '$', '*', '<', '>', ':', '|', '?', '\0'];

/// MongoDB's limit for `database.collection` since 4.4, in bytes.
const MAX_NAMESPACE: usize = 255;

/// Takes an address apart that a flag or a job file names.
pub(super) fn parse_uri(uri: &str) -> Result<Vec<(&'static str, Secret)>> {
    let address = Address::read(uri).map_err(|reason| Error::config(reason).with_remedy(ADDRESS_REMEDY))?;
    let mut settings = vec![("uri", Secret::new(uri))];
    if let Some(database) = address.parsed.default_database.filter(|name| name != "admin") {
        settings.push(("database", Secret::new(database)));
    }
    Ok(settings)
}

/// Where the server is and how to use it. It has no `Debug`: the driver's options hold the password.
pub(super) struct Config {
    /// What the driver is given.
    pub(super) options: ClientOptions,
    pub(super) database: String,
    /// The address without its password.
    pub(super) location: String,
    /// The hosts of the address: `db1:27017, db2:27017`.
    pub(super) hosts: String,
    /// The user that logs in.
    pub(super) user: Option<String>,
    /// What must not be printed.
    pub(super) password: Option<Secret>,
    /// How writes are acknowledged.
    pub(super) write_concern: WriteConcern,
    /// Whether the address asks for it.
    pub(super) concern_is_asked_for: bool,
    /// What a person should know of the connection.
    pub(super) warnings: Vec<String>,
    /// How long a request may take whose answer does not grow with the cache.
    pub(super) patience: Duration,
}

impl Config {
    /// Checks the settings and looks hosts up where the address is `mongodb+srv://`.
    ///
    /// # Errors
    /// A setting is wrong, or the hosts are not found.
    pub(super) async fn new(values: &Values, options: &ConnectOptions) -> Result<Self> {
        let address = Address::read(values.required_text("uri")).map_err(|reason| {
            values
                .invalid("uri", &format!("a MongoDB address; {reason}"))
                .with_remedy(ADDRESS_REMEDY)
        })?;
        let Address {
            parsed,
            warnings: about_options,
        } = address;
        let database = database(values)?;
        let (scheme, hosts) = scheme_and_hosts(&parsed.host_info);
        let credential = parsed.credential.clone();
        let user = credential.as_ref().and_then(|login| login.username.clone());
        let password = credential.and_then(|login| login.password).map(Secret::new);
        let login = match (&user, &password) {
            (Some(user), Some(_)) => format!("{user}:***@"),
            (Some(user), None) => format!("{user}@"),
            _ => String::new(),
        };
        let location = format!("{scheme}://{login}{hosts}/{database}");

        let mut driver = ClientOptions::parse(parsed)
            .await
            .map_err(|error| connecting_failed(&hosts, error))?;
        driver.tls = tls(values, driver.tls.take())?;
        set_limits(&mut driver, options.timeout);
        let mut warnings: Vec<String> = about_options
            .into_iter()
            .map(|what| format!("{location}: {what}"))
            .collect();
        if let Some(Tls::Enabled(tls)) = &driver.tls
            && tls.allow_invalid_certificates == Some(true)
        {
            let remedy =
                "leave out tlsAllowInvalidCertificates and tls_allow_invalid_certificates to have it checked";
            warnings.push(unverified(&location, remedy));
        }
        let asked = driver.write_concern.take();
        let concern_is_asked_for = asked.is_some();
        let write_concern = acknowledged(asked);
        Ok(Self {
            options: driver,
            database,
            location,
            hosts,
            user,
            password,
            write_concern,
            concern_is_asked_for,
            warnings,
            patience: options.patience(),
        })
    }
}

fn scheme_and_hosts(host_info: &HostInfo) -> (&'static str, String) {
    match host_info {
        HostInfo::DnsRecord(name) => ("mongodb+srv", name.clone()),
        HostInfo::HostIdentifiers(hosts) => {
            let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
            ("mongodb", hosts.join(","))
        }
        _ => ("mongodb", String::new()),
    }
}

/// The name of the database.
fn database(values: &Values) -> Result<String> {
    let name = values.required_text("database");
    if name.is_empty() || name.len() > 63 || name.contains(FORBIDDEN_IN_DATABASE) {
        let expected = r#"a database's name: 1 to 63 bytes without / \ . " $ * < > : | ? and spaces"#;
        return Err(values.invalid("database", expected));
    }
    Ok(name.to_owned())
}

/// Sets what the address left open: our name, and how long to look for a server, in less than `--timeout`.
fn set_limits(driver: &mut ClientOptions, timeout: Duration) {
    driver
        .app_name
        .get_or_insert_with(|| "migrate-llm-cache".to_owned());
    // The driver's own 30 seconds would outlast `--timeout` and hide a wrong port.
    let patience = SELECTION_TIMEOUT.min(timeout.mul_f64(0.8));
    driver.server_selection_timeout.get_or_insert(patience);
    driver.connect_timeout.get_or_insert(patience);
    // Two unless the address says otherwise, which would open the connections of parallel reads one after another.
    driver.max_connecting.get_or_insert(MOST_REQUESTS as u32);
}

/// How writes are acknowledged: by a majority, unless the address says otherwise. A record counts as written when the
/// target has said that it keeps it, so an address that wants no answer (`w=0`) does not have its way, and one that
/// wants the answer of a number of servers gets it when their journals have the write, unless it says `journal=false`.
fn acknowledged(asked: Option<WriteConcern>) -> WriteConcern {
    let mut concern = asked.unwrap_or_default();
    match concern.w {
        None | Some(Acknowledgment::Nodes(0)) => concern.w = Some(Acknowledgment::Majority),
        Some(Acknowledgment::Nodes(_)) => {
            concern.journal.get_or_insert(true);
        }
        _ => {}
    }
    concern
}

/// What the address says of TLS, with the settings laid over it.
fn tls(values: &Values, address: Option<Tls>) -> Result<Option<Tls>> {
    let wanted = values.flag("tls")?;
    let file = |name: &str| values.text(name).map(PathBuf::from);
    let ca_file = file("tls_ca_file");
    let key_file = file("tls_certificate_key_file");
    let any_certificate = values.flag("tls_allow_invalid_certificates")?;
    let (mut options, on) = match address {
        Some(Tls::Enabled(options)) => (options, true),
        Some(Tls::Disabled) => (TlsOptions::default(), false),
        None => {
            let implied = ca_file.is_some() || key_file.is_some() || any_certificate.is_some();
            if wanted.is_none() && !implied {
                return Ok(None);
            }
            (TlsOptions::default(), implied)
        }
    };
    if !wanted.unwrap_or(on) {
        return Ok(Some(Tls::Disabled));
    }
    options.ca_file_path = ca_file.or(options.ca_file_path);
    options.cert_key_file_path = key_file.or(options.cert_key_file_path);
    options.allow_invalid_certificates = any_certificate.or(options.allow_invalid_certificates);
    // Without a file the driver trusts only its bundled authorities, not those of this system.
    if options.ca_file_path.is_none() && options.allow_invalid_certificates != Some(true) {
        options.ca_file_path = Some(system_authorities()?);
    }
    Ok(Some(Tls::Enabled(options)))
}

/// The collection of a workspace: `[workspace_]llm_response_cache`.
///
/// # Errors
/// MongoDB has no collection of that name.
pub(super) fn collection(database: &str, workspace: &Workspace) -> Result<String> {
    let name = workspace.prefixed_namespace();
    let namespace = database.len() + 1 + name.len();
    let reason = if name.contains('$') {
        "the name of a collection must not contain $".to_owned()
    } else if name.starts_with("system.") || name.starts_with('.') {
        "the name of its collection would start with a prefix that MongoDB reserves".to_owned()
    } else if namespace > MAX_NAMESPACE {
        format!("{database}.{name} has {namespace} bytes, and MongoDB's limit is {MAX_NAMESPACE}")
    } else {
        return Ok(name);
    };
    Err(Error::config(format!(
        "MongoDB cannot store the workspace {workspace}: {reason}"
    ))
    .with_remedy("map it to another name with --workspace-map"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ErrorKind, Origin, Side, Value};

    fn values(pairs: &[(&'static str, &str)]) -> Values {
        let mut values = Values::new(Side::Target);
        for (name, text) in [("database", "LightRAG")].iter().chain(pairs) {
            let text = Secret::new(*text);
            let origin = Origin::Default;
            values.set(name, Value { text, origin });
        }
        values
    }

    async fn config(pairs: &[(&'static str, &str)]) -> Result<Config> {
        let options = ConnectOptions {
            timeout: Duration::from_secs(5),
            concurrency: std::num::NonZeroUsize::MIN,
            on_invalid: Default::default(),
            salvage: false,
            waiter: crate::storage::SilentWaiter::shared(0),
        };
        Config::new(&values(pairs), &options).await
    }

    #[tokio::test]
    async fn a_location_names_every_host_and_no_password() {
        let uri = "mongodb://me:hunter%402@a:1,b:2,[::1]:3/prod?replicaSet=rs&authSource=admin";
        let config = config(&[("uri", uri), ("database", "LightRAG")]).await.unwrap();
        assert_eq!(config.location, "mongodb://me:***@a:1,b:2,::1:3/LightRAG");
        assert_eq!(config.password.unwrap().expose(), "hunter@2");
        assert_eq!(
            config.options.server_selection_timeout,
            Some(Duration::from_secs(4))
        );
    }

    #[test]
    fn the_database_in_a_named_address_counts_unless_it_is_where_logins_are() {
        let named = |uri| {
            let settings = parse_uri(uri).unwrap();
            let found = settings.iter().find(|(name, _)| *name == "database");
            found.map(|(_, value)| value.expose().to_owned())
        };
        assert_eq!(named("mongodb://h/prod").as_deref(), Some("prod"));
        assert_eq!(named("mongodb://h/admin"), None);
        assert_eq!(named("mongodb://h/?replicaSet=rs"), None);
        assert_eq!(named("mongodb://h"), None);
    }

    #[test]
    fn a_wrong_address_is_told_without_its_password() {
        for uri in [
            "mongodb://me:hun?ter2@h:1/",
            "mongodb://me:hun/ter2@h:1/",
            "mongodb://me:hun:ter2@h:1/",
            "mongodb://me:hun%ter2@h:1/",
            "mongodb://me:hun?ter2=1@h:1/",
            "mongodb://me:hunter2@h:port/",
            "mongodb://me:hunter2@/",
            "mongodb://me:hunter2@h/?tls=true&hunter2",
        ] {
            let error = parse_uri(uri).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            let text = format!("{error} {error:?} {}", error.remedy().unwrap());
            assert!(!text.contains("hun") && !text.contains("ter2"), "{text}");
        }
        let error = parse_uri("mongodb://h/?replicaSet=rs&readPreferenceTags=a:b").unwrap_err();
        assert!(error.message().contains("read preference"), "{error}");
    }

    #[test]
    fn a_write_is_always_acknowledged() {
        let asked = |w, journal| {
            let mut concern = WriteConcern::default();
            concern.w = w;
            concern.journal = journal;
            let concern = acknowledged(Some(concern));
            (concern.w.unwrap(), concern.journal)
        };
        assert_eq!(acknowledged(None).w, Some(Acknowledgment::Majority));
        assert_eq!(
            asked(Some(Acknowledgment::Nodes(0)), None),
            (Acknowledgment::Majority, None)
        );
        assert_eq!(
            asked(Some(Acknowledgment::Nodes(1)), None),
            (Acknowledgment::Nodes(1), Some(true))
        );
        assert_eq!(
            asked(Some(Acknowledgment::Nodes(2)), Some(false)),
            (Acknowledgment::Nodes(2), Some(false))
        );
    }

    #[tokio::test]
    async fn tls_settings_are_laid_over_the_address() {
        let of = async |uri, pairs: &[(&'static str, &str)]| {
            let mut all = vec![("uri", uri)];
            all.extend(pairs);
            config(&all).await.map(|config| config.options.tls)
        };
        assert_eq!(of("mongodb://h", &[]).await.unwrap(), None);
        let Some(Tls::Enabled(options)) = of("mongodb://h", &[("tls_ca_file", "/ca.pem")]).await.unwrap()
        else {
            panic!("a certificate authority turns TLS on");
        };
        assert_eq!(options.ca_file_path, Some(PathBuf::from("/ca.pem")));
        let off = of("mongodb://h/?tls=true", &[("tls", "no")]).await.unwrap();
        assert_eq!(off, Some(Tls::Disabled));
        let off = of("mongodb://h/?tls=false", &[("tls_ca_file", "/ca.pem")])
            .await
            .unwrap();
        assert_eq!(off, Some(Tls::Disabled));
        assert!(of("mongodb://h", &[("tls", "perhaps")]).await.is_err());
    }

    #[test]
    fn a_workspace_that_no_collection_can_be_named_by_is_refused() {
        let name = |workspace: &str| collection("LightRAG", &Workspace::new(workspace).unwrap());
        assert_eq!(name("").unwrap(), "llm_response_cache");
        assert_eq!(name("é *[x]").unwrap(), "é *[x]_llm_response_cache");
        assert!(name("a$b").is_err());
        assert!(name("system.x").is_err());
        assert!(name(&"x".repeat(230)).is_err());
    }
}

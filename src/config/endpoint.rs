//! Resolves the storage of each side and its settings.

use std::{net::IpAddr, path::Path};

use serde_yaml::{Mapping, Value as Yaml};

use super::{
    Environment, JobFile,
    options::Options,
    value::{StorageSpec, scalar_text},
};
use crate::{
    model::{Error, Field, Origin, Result, Secret, Side, Value, Values, nearest},
    storage::{self, Connector, Endpoint},
};

/// The storage that a text names, and the settings in its address.
struct Place {
    connector: &'static dyn Connector,
    settings: Vec<(&'static str, Secret)>,
}

impl Endpoint {
    /// The storage that a text names, as for `--source` and `--target`. All other settings have their defaults.
    ///
    /// # Errors
    /// The text does not name a storage.
    pub fn named(side: Side, text: &str) -> Result<Self> {
        Self::resolve(
            side,
            &Options::naming(side, text),
            &JobFile::default(),
            &Environment::default(),
        )
    }

    /// The kind of the storage that a text names. Errors name no flag.
    ///
    /// # Errors
    /// The text does not name a storage.
    pub(crate) fn kind_named(text: &str) -> Result<&'static dyn Connector> {
        Ok(read_place(text)?.connector)
    }

    /// Whether a flag or the job file names the storage of a side.
    pub fn is_named(side: Side, flags: &Options, job: &JobFile) -> bool {
        flags.storage(side).is_some() || job.options.storage(side).is_some()
    }

    /// Resolves the storage of a side and its settings.
    ///
    /// # Errors
    /// The side is not given, or an address or a setting is invalid.
    pub fn resolve(side: Side, flags: &Options, job: &JobFile, environment: &Environment) -> Result<Self> {
        let flag_name = side.flag();
        let flag = match flags.storage(side) {
            Some(StorageSpec::Text(text)) => {
                Some(read_place(text.expose()).map_err(|error| prefixed(flag_name, error))?)
            }
            // Only a job file has these.
            Some(StorageSpec::Settings(_)) | None => None,
        };
        let job_spec = job.options.storage(side);
        let job_place = job_spec.map(|spec| read_spec(side, spec, job)).transpose()?;
        let connector = match (&flag, &job_place) {
            (Some(place), _) => place.connector,
            (None, Some((connector, _))) => *connector,
            (None, None) => {
                return Err(Error::config(format!("no {side} given")).with_remedy(format!(
                    "use {flag_name}, or `{side}:` in a job file: a kind ({}) or an address",
                    storage::names()
                )));
            }
        };

        let mut given = Vec::new();
        if let Some((job_connector, settings)) = job_place
            && job_connector.kind() == connector.kind()
        {
            given = settings;
        }
        if let Some(place) = flag {
            given.extend(at_origin(place.settings, &Origin::Flag(flag_name)));
        }
        // The address of a side given by its kind comes from LightRAG's configuration, which must then be readable.
        let environment = Lookup {
            environment,
            must_be_readable: given.is_empty(),
        };
        let mut values = Values::of(side, connector.fields());
        // The flag's settings follow those of the job file and override them.
        for (name, value) in given {
            values.set(name, value);
        }
        for field in connector.fields() {
            if values.get(field.name).is_none()
                && let Some(value) = environment.configured(field, connector)?
            {
                values.set(field.name, value);
            }
        }
        Ok(Self { connector, values })
    }
}

fn read_spec(side: Side, spec: &StorageSpec, job: &JobFile) -> Result<JobEndpoint> {
    match spec {
        StorageSpec::Text(text) => {
            let path = side.to_string();
            let place = read_place(text.expose()).map_err(|error| in_job(job, &path, &error))?;
            Ok((place.connector, at_origin(place.settings, &job.origin(&path))))
        }
        StorageSpec::Settings(settings) => read_settings(side, settings, job),
    }
}

fn at_origin(settings: Vec<(&'static str, Secret)>, origin: &Origin) -> Vec<(&'static str, Value)> {
    let at = |(name, text)| {
        let origin = origin.clone();
        (name, Value { text, origin })
    };
    settings.into_iter().map(at).collect()
}

pub(super) fn prefixed(place: &str, error: Error) -> Error {
    let prefixed = Error::new(error.kind(), format!("{place}: {}", error.message()));
    with_remedy_of(&error, prefixed)
}

/// An error in the value of a field of the job file.
fn in_job(job: &JobFile, path: &str, error: &Error) -> Error {
    with_remedy_of(error, job.error(path, error.message()))
}

fn with_remedy_of(error: &Error, other: Error) -> Error {
    match error.remedy() {
        Some(remedy) => other.with_remedy(remedy),
        None => other,
    }
}

/// LightRAG's configuration, as one side needs it.
struct Lookup<'a> {
    environment: &'a Environment,
    /// Whether an unreadable file is an error. Otherwise the warning about it is enough.
    must_be_readable: bool,
}

impl Lookup<'_> {
    /// The value of a setting in LightRAG's configuration, or its default.
    ///
    /// # Errors
    /// A file that may set it cannot be read.
    fn configured(&self, field: &Field, connector: &dyn Connector) -> Result<Option<Value>> {
        let configured = match self.variable(field.variable)? {
            Some(value) => Some(value),
            None => self.by_ini(field, connector)?,
        };
        let as_lightrag = |Value { text, origin }| {
            let text = Secret::new((field.as_lightrag)(Secret::expose(&text))?);
            Some(Value { text, origin })
        };
        if let Some(value) = configured.and_then(as_lightrag) {
            return Ok(Some(value));
        }
        let client = self.variable(field.client_variable)?;
        let default = || {
            Some(Value {
                text: Secret::new(field.default?),
                origin: Origin::Default,
            })
        };
        Ok(client.or_else(default))
    }

    fn variable(&self, name: Option<&str>) -> Result<Option<Value>> {
        match name {
            Some(name) if self.must_be_readable => self.environment.variable(name),
            Some(name) => self.environment.readable_variable(name),
            None => Ok(None),
        }
    }

    fn by_ini(&self, field: &Field, connector: &dyn Connector) -> Result<Option<Value>> {
        match (connector.ini_section(), field.ini) {
            (Some(section), Some(key)) if self.must_be_readable => self.environment.ini(section, key),
            (Some(section), Some(key)) => self.environment.readable_ini(section, key),
            _ => Ok(None),
        }
    }
}

/// Reads a kind or an address.
fn read_place(text: &str) -> Result<Place> {
    if let Some(connector) = storage::find(text) {
        let settings = Vec::new();
        return Ok(Place { connector, settings });
    }
    if text.trim().is_empty() {
        return Err(
            Error::config("expected a kind or an address, found an empty text")
                .with_remedy("if it comes from a variable, check that the variable is set"),
        );
    }
    if let Some((scheme, _)) = text.split_once("://") {
        // A pasted address may end in a blank.
        let (text, scheme) = (text.trim(), scheme.trim());
        let connector = with_scheme(scheme).ok_or_else(|| unknown_scheme(scheme))?;
        let settings = connector.parse_uri(text)?;
        return Ok(Place { connector, settings });
    }
    let exists = Path::new(text).exists();
    check_no_address(text, exists)?;
    if !exists {
        check_new_path(text)?;
    }
    // Everything else is a path, if it looks like one.
    let looks_like_path = text.contains(['/', '\\', '.', '~']) || exists;
    let files = storage::of_path(text);
    match files {
        Some(connector) if looks_like_path => Ok(Place {
            connector,
            settings: connector.parse_uri(text)?,
        }),
        _ => Err(no_storage(text)),
    }
}

/// Refuses paths that mean something only to a shell, to another system or to another program. As those of a target, they
/// would be created literally.
fn check_new_path(text: &str) -> Result<()> {
    let inner = unquoted(text);
    if inner != text {
        return Err(Error::config(format!("{text}: the quotes are part of the path"))
            .with_remedy(format!("write {inner} without the inner quotes")));
    }
    if let Some(rest) = text.strip_prefix("~/") {
        return Err(Error::config(format!("`{text}`: `~` is not expanded"))
            .with_remedy(format!("write $HOME/{rest}, or ${{HOME}}/{rest} in a job file")));
    }
    if let Some((drive, rest)) = text.split_once(':').filter(is_on_drive) {
        let (drive, rest) = (drive.to_ascii_lowercase(), rest.replace('\\', "/"));
        return Err(
            Error::config(format!("`{text}` is a path of Windows")).with_remedy(format!(
                "write the path of this system; in WSL it is /mnt/{drive}{rest}"
            )),
        );
    }
    if let Some(stem) = packed_elsewhere(text) {
        return Err(
            Error::config(format!("`{text}`: archives are compressed with zstd")).with_remedy(format!(
                "write {stem}.jsonl.zst, or {stem}.jsonl and compress that"
            )),
        );
    }
    Ok(())
}

/// A text without the quotes around it.
pub(crate) fn unquoted(text: &str) -> &str {
    let inner = |quote| text.strip_prefix(quote)?.strip_suffix(quote);
    inner('"').or_else(|| inner('\'')).unwrap_or(text)
}

/// Whether a path begins with a drive's letter, on a system without drives.
fn is_on_drive((drive, rest): &(&str, &str)) -> bool {
    let is_letter = drive.len() == 1 && drive.starts_with(|c: char| c.is_ascii_alphabetic());
    cfg!(not(windows)) && is_letter && rest.starts_with(['\\', '/'])
}

/// The path without its endings, if they are those of JSON lines that another program compressed. As a path of a working
/// directory, it would be a folder.
fn packed_elsewhere(path: &str) -> Option<&str> {
    let (inner, ending) = path.rsplit_once('.')?;
    let is_packed = ["gz", "xz", "bz2", "zip"].contains(&ending);
    inner.strip_suffix(".jsonl").filter(|_| is_packed)
}

/// The storage whose addresses have this scheme.
fn with_scheme(scheme: &str) -> Option<&'static dyn Connector> {
    let has_scheme = |connector: &&'static dyn Connector| {
        let mut schemes = connector.schemes().iter();
        schemes.any(|known| known.eq_ignore_ascii_case(scheme))
    };
    storage::connectors().iter().copied().find(has_scheme)
}

/// Refuses mistyped addresses, which would be read as paths: they may contain a password, and paths are printed.
fn check_no_address(text: &str, exists: bool) -> Result<()> {
    let (scheme, _) = text.split_once(':').unwrap_or_default();
    if let Some(connector) = with_scheme(scheme) {
        let message = format!("addresses of {} start with {scheme}://", connector.title());
        return Err(Error::config(message).with_remedy(format!("write {scheme}://user:password@host")));
    }
    let port = text.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
    let is_host = text == "localhost" || text.parse::<IpAddr>().is_ok();
    if is_host && !exists {
        let message = format!("`{text}` is a host; an address also has a scheme");
        return Err(Error::config(message).with_remedy(format!(
            "write the scheme of the storage, as in redis://{text}:6379"
        )));
    }
    let looks_like_address = text.contains('@') || port.is_some_and(|port| port.is_ok());
    if looks_like_address && !exists {
        return Err(Error::config("this looks like an address without a scheme")
            .with_remedy("write scheme://user:password@host, or the path of an existing file"));
    }
    Ok(())
}

fn unknown_scheme(scheme: &str) -> Error {
    let connectors = storage::connectors().iter();
    let schemes = connectors.clone().flat_map(|connector| connector.schemes());
    let remedy = match nearest(scheme, schemes.copied()) {
        Some(near) => format!("did you mean {near}://?"),
        None => {
            let starts = connectors.filter_map(|connector| {
                let scheme = connector.schemes().first()?;
                Some(format!("{scheme}:// ({})", connector.title()))
            });
            let starts: Vec<String> = starts.collect();
            format!("use an address that starts with {}, or a path", starts.join(", "))
        }
    };
    Error::config(format!("unknown scheme {scheme}://")).with_remedy(remedy)
}

fn no_storage(text: &str) -> Error {
    let names = storage::connectors()
        .iter()
        .flat_map(|known| [known.kind()].into_iter().chain(known.aliases().iter().copied()));
    let hint = nearest(&text.to_ascii_lowercase(), names)
        .map(|near| format!("; did you mean {near}?"))
        .unwrap_or_default();
    Error::config(format!("`{text}` is not a kind of storage{hint}")).with_remedy(format!(
        "use one of {} (LIGHTRAG_KV_STORAGE names the one that LightRAG uses), or write a path with a slash: ./{text}",
        storage::names()
    ))
}

type JobEndpoint = (&'static dyn Connector, Vec<(&'static str, Value)>);

/// Reads the mapping of a storage in the job file and checks its names.
fn read_settings(side: Side, settings: &Mapping, job: &JobFile) -> Result<JobEndpoint> {
    let path = |name: &str| format!("{side}.{name}");
    let uri = settings
        .get("uri")
        .and_then(Yaml::as_str)
        .map(|uri| read_place(uri).map_err(|error| in_job(job, &path("uri"), &error)))
        .transpose()?;
    let connector =
        named_connector(settings, uri.as_ref()).map_err(|what| job.error(&path("kind"), &what))?;
    let mut found = Vec::new();
    if let Some(place) = uri {
        if place.connector.kind() != connector.kind() {
            let what = format!(
                "this is an address of {}, but `kind` is {}",
                place.connector.kind(),
                connector.kind()
            );
            return Err(job.error(&path("uri"), &what));
        }
        found = at_origin(place.settings, &job.origin(&path("uri")));
    }
    for (name, value) in settings {
        let name = name.as_str().unwrap_or_default();
        if name == "kind" || name == "uri" {
            continue;
        }
        let field = connector.fields().iter().find(|field| field.name == name);
        let field = field.ok_or_else(|| {
            job.error(&path(name), "unknown field")
                .with_remedy(known_field(connector, name))
        })?;
        let text = setting_text(value).ok_or_else(|| job.error(&path(name), "expected text or a number"))?;
        let (text, origin) = (Secret::new(text), job.origin(&path(name)));
        found.push((field.name, Value { text, origin }));
    }
    Ok((connector, found))
}

/// The storage that a mapping names by `kind`, or by its address.
///
/// # Errors
/// What is wrong with `kind`.
fn named_connector(settings: &Mapping, uri: Option<&Place>) -> Result<&'static dyn Connector, String> {
    let Some(kind) = settings.get("kind").and_then(Yaml::as_str) else {
        // `postgres:` with its fields below it.
        let nested = settings
            .keys()
            .filter_map(Yaml::as_str)
            .find(|name| storage::find(name).is_some());
        let hint = nested
            .map(|name| format!("; write `kind: {name}` next to its fields"))
            .unwrap_or_default();
        let missing = || format!("missing; expected one of {}{hint}", storage::names());
        return uri.map(|place| place.connector).ok_or_else(missing);
    };
    storage::find(kind).ok_or_else(|| {
        let hint = nearest(kind, storage::connectors().iter().map(|known| known.kind()))
            .map(|near| format!("; did you mean {near}?"))
            .unwrap_or_default();
        format!("expected one of {}, found `{kind}`{hint}", storage::names())
    })
}

/// What to write instead of an unknown field.
fn known_field(connector: &dyn Connector, name: &str) -> String {
    let fields = connector.fields().iter().map(|field| field.name);
    let known = ["kind", "uri"]
        .into_iter()
        .chain(fields.filter(|name| *name != "uri"));
    let known: Vec<&str> = known.collect();
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("the fields of {} are {}", connector.kind(), known.join(", ")),
    }
}

/// A scalar, or a list of scalars joined by commas, as LightRAG's variables write lists.
fn setting_text(value: &Yaml) -> Option<String> {
    match value {
        Yaml::Sequence(items) => {
            let texts: Option<Vec<String>> = items.iter().map(scalar_text).collect();
            texts.map(|texts| texts.join(","))
        }
        other => scalar_text(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_address_is_not_printed_as_a_path() {
        let error = Endpoint::named(Side::Target, "mongodb:/me:hunter2@host").unwrap_err();
        assert!(error.message().contains("start with mongodb://"), "{error}");
        assert!(!format!("{error:?}").contains("hunter2"));
        let error = Endpoint::named(Side::Target, "me:hunter2@host/rag").unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}

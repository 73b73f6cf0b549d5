//! The settings of a storage: their definitions, and the values that were found.

use std::{borrow::Cow, collections::BTreeMap, fmt, path::PathBuf, str::FromStr, time::Duration};

use super::{Error, Result, Secret, Side};

/// A setting of a storage. The job file, the environment and the documentation of a storage all derive from its table of
/// these.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// The name in the job file: `host`.
    pub name: &'static str,
    /// LightRAG's variable: `POSTGRES_HOST`.
    pub variable: Option<&'static str>,
    /// The variable that LightRAG's client library reads if LightRAG has no value: `PGPASSWORD`.
    pub client_variable: Option<&'static str>,
    /// The key in the storage's section of `config.ini`: `host`.
    pub ini: Option<&'static str>,
    /// The default, as the job file would write it.
    pub default: Option<&'static str>,
    /// Whether values may be printed, since they are never secret.
    pub is_plain: bool,
    /// Whether it is part of the address or the login, which connection errors mention.
    pub is_address: bool,
    /// How LightRAG reads the text of its variable or key, as the job file would write it; `None` if LightRAG treats the
    /// setting as unset.
    pub as_lightrag: fn(&str) -> Option<Cow<'_, str>>,
    /// The help text, a clause.
    pub help: &'static str,
}

/// The text is the value, even if it is empty.
fn as_it_is(text: &str) -> Option<Cow<'_, str>> {
    Some(Cow::Borrowed(text))
}

/// An empty text unsets the setting.
fn unless_empty(text: &str) -> Option<Cow<'_, str>> {
    (!text.is_empty()).then_some(Cow::Borrowed(text))
}

impl Field {
    /// A setting of this name that only the job file has.
    pub const fn new(name: &'static str, help: &'static str) -> Self {
        Self {
            name,
            variable: None,
            client_variable: None,
            ini: None,
            default: None,
            is_plain: false,
            is_address: false,
            as_lightrag: as_it_is,
            help,
        }
    }

    /// Sets LightRAG's variable.
    #[must_use]
    pub const fn variable(mut self, name: &'static str) -> Self {
        self.variable = Some(name);
        self
    }

    /// Sets the variable of LightRAG's client library.
    #[must_use]
    pub const fn client_variable(mut self, name: &'static str) -> Self {
        self.client_variable = Some(name);
        self
    }

    /// Sets the key in `config.ini`.
    #[must_use]
    pub const fn ini(mut self, key: &'static str) -> Self {
        self.ini = Some(key);
        self
    }

    /// Sets the default.
    #[must_use]
    pub const fn default(mut self, value: &'static str) -> Self {
        self.default = Some(value);
        self
    }

    /// Allows messages to print values.
    #[must_use]
    pub const fn plain(mut self) -> Self {
        self.is_plain = true;
        self
    }

    /// Marks a part of the address or the login.
    #[must_use]
    pub const fn address(mut self) -> Self {
        self.is_address = true;
        self
    }

    /// Treats an empty variable or key as unset, as LightRAG does.
    #[must_use]
    pub const fn unset_by_empty(self) -> Self {
        self.read_as(unless_empty)
    }

    /// Sets how LightRAG reads the text of its variable or key.
    #[must_use]
    pub const fn read_as(mut self, as_lightrag: fn(&str) -> Option<Cow<'_, str>>) -> Self {
        self.as_lightrag = as_lightrag;
        self
    }
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A command-line flag, with its dashes.
    Flag(&'static str),
    /// The job file.
    Job {
        /// As given with `--job`.
        file: PathBuf,
        /// The path in it: `target.host`.
        path: String,
        /// The line, from 1, where it is known.
        line: Option<usize>,
    },
    /// A variable of the process.
    Variable(String),
    /// A variable in a `.env` file.
    DotEnv {
        /// In the directory where the program was started.
        file: PathBuf,
        /// The variable.
        name: String,
        /// The line, from 1.
        line: usize,
    },
    /// A key in a `config.ini`.
    Ini {
        /// In the directory where the program was started.
        file: PathBuf,
        /// Section and key: `[redis] uri`.
        key: String,
        /// The line, from 1.
        line: usize,
    },
    /// Nothing sets it.
    Default,
}

impl Origin {
    /// Whether it is this variable, in the process or in `.env`.
    pub fn is_variable(&self, wanted: &str) -> bool {
        matches!(self, Self::Variable(name) | Self::DotEnv { name, .. } if name == wanted)
    }

    /// Whether it is LightRAG's configuration, whose invalid values are treated as LightRAG treats them.
    pub fn is_lightrags(&self) -> bool {
        matches!(self, Self::Variable(_) | Self::DotEnv { .. } | Self::Ini { .. })
    }

    /// An error in the value: `--timeout: expected …`, `job.yaml line 3: timeout: expected …`.
    pub fn error(&self, what: &str) -> Error {
        let Self::Job { file, path, line } = self else {
            return Error::config(format!("{self}: {what}"));
        };
        let line = line.map(|line| format!(" line {line}")).unwrap_or_default();
        let path = match path.as_str() {
            "" | "." => String::new(),
            path => format!(" {path}:"),
        };
        Error::config(format!("{}{line}:{path} {what}", file.display()))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => f.write_str(flag),
            Self::Job { file, path, line } => {
                write!(f, "{path} in {}", file.display())?;
                line.map_or(Ok(()), |line| write!(f, " line {line}"))
            }
            Self::Variable(name) => write!(f, "the variable {name}"),
            Self::DotEnv { file, name, line } => write!(f, "{name} in {} line {line}", file.display()),
            Self::Ini { file, key, line } => write!(f, "{key} in {} line {line}", file.display()),
            Self::Default => f.write_str("the default"),
        }
    }
}

/// A value and where it came from.
#[derive(Clone, Debug)]
pub struct Value {
    /// The text. It may be a secret, so its type cannot be printed by accident.
    pub text: Secret,
    /// Where it came from.
    pub origin: Origin,
}

/// The values of one storage's settings.
#[derive(Clone, Debug)]
pub struct Values {
    side: Side,
    fields: &'static [Field],
    values: BTreeMap<&'static str, Value>,
}

impl Values {
    /// No values, for a side without known settings.
    pub fn new(side: Side) -> Self {
        Self::of(side, &[])
    }

    /// No values, for these settings.
    pub fn of(side: Side, fields: &'static [Field]) -> Self {
        Self {
            side,
            fields,
            values: BTreeMap::new(),
        }
    }

    /// Sets or replaces a value.
    pub fn set(&mut self, name: &'static str, value: Value) {
        self.values.insert(name, value);
    }

    /// The side that these settings are for.
    pub fn side(&self) -> Side {
        self.side
    }

    /// A value with its origin.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    /// The values of known settings, in the order of the settings.
    pub fn iter(&self) -> impl Iterator<Item = (&'static Field, &Value)> {
        self.fields
            .iter()
            .filter_map(|field| Some((field, self.values.get(field.name)?)))
    }

    /// A value as text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).map(|value| value.text.expose())
    }

    /// The value of a setting with a default; empty if it has none.
    pub fn required_text(&self, name: &str) -> &str {
        self.text(name).unwrap_or_default()
    }

    /// A value that must not be printed.
    pub fn secret(&self, name: &str) -> Option<Secret> {
        self.get(name).map(|value| value.text.clone())
    }

    /// Parses a value; `expected` describes valid ones in the error.
    ///
    /// # Errors
    /// As [`Values::invalid`].
    pub fn parse<T: FromStr>(&self, name: &str, expected: &str) -> Result<Option<T>> {
        self.text(name)
            .map(|text| text.trim().parse().map_err(|_| self.invalid(name, expected)))
            .transpose()
    }

    /// Parses true or false, in the forms that Python programs accept.
    ///
    /// # Errors
    /// As [`Values::parse`].
    pub fn flag(&self, name: &str) -> Result<Option<bool>> {
        self.text(name)
            .map(|text| match text.trim().to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" | "t" | "y" => Ok(true),
                "false" | "0" | "no" | "off" | "f" | "n" => Ok(false),
                _ => Err(self.invalid(name, "true or false")),
            })
            .transpose()
    }

    /// Parses a duration: `30s`, or a number of seconds as in LightRAG's variables.
    ///
    /// # Errors
    /// As [`Values::parse`].
    pub fn duration(&self, name: &str) -> Result<Option<Duration>> {
        self.text(name)
            .map(|text| {
                let text = text.trim();
                let seconds = text.parse::<f64>().ok();
                seconds
                    .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
                    .or_else(|| humantime::parse_duration(text).ok())
                    .ok_or_else(|| self.invalid(name, "a duration such as 30s, or seconds"))
            })
            .transpose()
    }

    /// A configuration error that names the setting, its origin, what was expected and, unless it may be secret, the value.
    pub fn invalid(&self, name: &str, expected: &str) -> Error {
        let place = format!("{}.{name}", self.side);
        let value = self.get(name);
        let shown = value.and_then(|value| self.printable(name, value));
        let set_to = shown.map(|text| format!("={text}")).unwrap_or_default();
        let found = shown.map(|text| format!(", found `{text}`")).unwrap_or_default();
        let message = match value.map(|value| &value.origin) {
            Some(Origin::Variable(variable)) => format!("{variable}{set_to}: expected {expected}"),
            Some(Origin::DotEnv { file, name, line }) => {
                format!(
                    "{name}{set_to} in {} line {line}: expected {expected}",
                    file.display()
                )
            }
            Some(Origin::Ini { file, key, line }) => {
                format!(
                    "{key}{set_to} in {} line {line}: expected {expected}",
                    file.display()
                )
            }
            Some(Origin::Job { path, line, file }) if *path == place => {
                let line = line.map(|line| format!(" line {line}")).unwrap_or_default();
                format!("{place} ({}{line}): expected {expected}{found}", file.display())
            }
            Some(origin) => format!("{place} (from {origin}): expected {expected}{found}"),
            None => format!("{place}: expected {expected}"),
        };
        Error::config(message)
    }

    /// The text of a value for messages; `None` if it may be secret.
    pub fn printable<'a>(&self, name: &str, value: &'a Value) -> Option<&'a str> {
        let field = self.fields.iter().find(|field| field.name == name)?;
        field.is_plain.then(|| value.text.expose())
    }

    /// The origins of address and login: `host, port from --target; password from the variable POSTGRES_PASSWORD`.
    pub fn address_origins(&self) -> String {
        let mut by_origin: Vec<(&Origin, Vec<&str>)> = Vec::new();
        // With an address, all of its parts are set; those that it lacks are empty.
        let of_uri = self.get("uri").map(|uri| &uri.origin);
        let is_given = |value: &Value| Some(&value.origin) != of_uri || !value.text.expose().is_empty();
        let address = self
            .iter()
            .filter(|(field, value)| field.is_address && is_given(value));
        for (field, value) in address {
            match by_origin.iter_mut().find(|(origin, _)| **origin == value.origin) {
                Some((_, names)) => names.push(field.name),
                None => by_origin.push((&value.origin, vec![field.name])),
            }
        }
        let groups = by_origin
            .iter()
            .map(|(origin, names)| format!("{} from {origin}", names.join(", ")));
        groups.collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: &[Field] = &[
        Field::new("host", "").plain().address(),
        Field::new("port", "").plain().address(),
        Field::new("password", "").address(),
        Field::new("timeout", "").plain(),
    ];

    fn values(origin: &Origin) -> Values {
        let mut values = Values::of(Side::Target, FIELDS);
        for field in FIELDS {
            let (text, origin) = (Secret::new("hunter2"), origin.clone());
            values.set(field.name, Value { text, origin });
        }
        values
    }

    #[test]
    fn a_complaint_names_where_the_value_is_and_the_value_unless_it_is_a_secret() {
        let file = || PathBuf::from("./x");
        for (origin, port, password) in [
            (
                Origin::Variable("PG".into()),
                "PG=hunter2: expected 1",
                "PG: expected 1",
            ),
            (
                Origin::DotEnv {
                    file: file(),
                    name: "PG".into(),
                    line: 3,
                },
                "PG=hunter2 in ./x line 3: expected 1",
                "PG in ./x line 3: expected 1",
            ),
            (
                Origin::Ini {
                    file: file(),
                    key: "[pg] a".into(),
                    line: 3,
                },
                "[pg] a=hunter2 in ./x line 3: expected 1",
                "[pg] a in ./x line 3: expected 1",
            ),
            (
                Origin::Flag("--target"),
                "target.port (from --target): expected 1, found `hunter2`",
                "target.password (from --target): expected 1",
            ),
        ] {
            let values = values(&origin);
            assert_eq!(values.invalid("port", "1").message(), port);
            assert_eq!(values.invalid("password", "1").message(), password);
        }
    }

    #[test]
    fn origins_are_told_once_each() {
        let mut values = values(&Origin::Flag("--target"));
        let (text, origin) = (Secret::new("x"), Origin::Variable("PG".into()));
        values.set("port", Value { text, origin });
        assert_eq!(
            values.address_origins(),
            "host, password from --target; port from the variable PG"
        );
    }
}

//! The settings of a storage: a table of what there is, and the values that were found.

use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr, time::Duration};

use super::{Error, Result, Secret, Side};

/// One setting of a storage. The tables of these are the one description of a storage's settings: the job file is
/// checked against them, the environment is read by them, and the documentation is made from them.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// The name in the job file: `host`.
    pub name: &'static str,
    /// LightRAG's variable: `POSTGRES_HOST`.
    pub variable: Option<&'static str>,
    /// The key in the storage's section of `config.ini`: `host`.
    pub ini: Option<&'static str>,
    /// What holds where nobody says anything, as it would stand in the job file.
    pub default: Option<&'static str>,
    /// Whether there must be a value.
    pub required: bool,
    /// What it means, in a clause.
    pub help: &'static str,
}

impl Field {
    /// A setting of this name, known to the job file alone.
    pub const fn new(name: &'static str, help: &'static str) -> Self {
        Self {
            name,
            variable: None,
            ini: None,
            default: None,
            required: false,
            help,
        }
    }

    /// With LightRAG's variable.
    #[must_use]
    pub const fn variable(mut self, name: &'static str) -> Self {
        self.variable = Some(name);
        self
    }

    /// With a key in `config.ini`.
    #[must_use]
    pub const fn ini(mut self, key: &'static str) -> Self {
        self.ini = Some(key);
        self
    }

    /// With a default.
    #[must_use]
    pub const fn default(mut self, value: &'static str) -> Self {
        self.default = Some(value);
        self
    }

    /// Without which nothing works.
    #[must_use]
    pub const fn required(mut self) -> Self {
        self.required = true;
        self
    }
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A flag.
    Flag(&'static str),
    /// The job file.
    Job {
        /// The file.
        file: PathBuf,
        /// The path in it: `target.host`.
        path: String,
        /// The line, from 1, where it is known.
        line: Option<usize>,
    },
    /// A variable of the process.
    Variable(String),
    /// A variable in a `.env` file.
    DotEnv(PathBuf, String),
    /// A key in a `config.ini`.
    Ini(PathBuf, String),
    /// Nobody said anything.
    Default,
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
            Self::DotEnv(file, name) => write!(f, "{name} in {}", file.display()),
            Self::Ini(file, key) => write!(f, "{key} in {}", file.display()),
            Self::Default => f.write_str("the default"),
        }
    }
}

/// A value and where it came from.
#[derive(Clone, Debug)]
pub struct Value {
    /// The text. Any value may hold a secret, so none can be printed by accident.
    pub text: Secret,
    /// Where it came from.
    pub origin: Origin,
}

/// The values of one storage's settings.
#[derive(Clone, Debug)]
pub struct Values {
    side: Side,
    values: BTreeMap<&'static str, Value>,
}

impl Values {
    /// No values yet.
    pub fn new(side: Side) -> Self {
        Self {
            side,
            values: BTreeMap::new(),
        }
    }

    /// Sets a value; what was set before is replaced.
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

    /// A value as text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).map(|value| value.text.expose())
    }

    /// A value that was checked to be there (required or with a default); empty if the table says otherwise.
    pub fn required_text(&self, name: &str) -> &str {
        self.text(name).unwrap_or_default()
    }

    /// A value that must be kept from print.
    pub fn secret(&self, name: &str) -> Option<Secret> {
        self.get(name).map(|value| value.text.clone())
    }

    /// A value of any type that can be read from text; `expected` says what it should be, for the error.
    ///
    /// # Errors
    /// A configuration error that names the setting, where it came from and what was expected, not the value.
    pub fn parse<T: FromStr>(&self, name: &str, expected: &str) -> Result<Option<T>> {
        self.text(name)
            .map(|text| text.trim().parse().map_err(|_| self.invalid(name, expected)))
            .transpose()
    }

    /// A yes or no, in the words that Python programs take.
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

    /// A duration: `30s`, or a number of seconds as LightRAG writes it.
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

    /// The complaint about a value: names the setting and where it came from. The value is not repeated.
    pub fn invalid(&self, name: &str, expected: &str) -> Error {
        let place = format!("{}.{name}", self.side);
        let origin = match self.get(name).map(|value| &value.origin) {
            Some(Origin::Job { path, line, file }) if *path == place => {
                let line = line.map(|line| format!(" line {line}")).unwrap_or_default();
                format!(" ({}{line})", file.display())
            }
            Some(origin) => format!(" (from {origin})"),
            None => String::new(),
        };
        Error::config(format!("{place}{origin}: expected {expected}"))
    }
}

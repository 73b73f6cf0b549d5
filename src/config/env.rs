//! LightRAG's own configuration: the process environment, `.env` and `config.ini`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use ini::Ini;

use crate::model::{Error, Origin, Result, Secret, Value};

/// The variable that names the workspace for every storage that has no variable of its own.
pub(super) const WORKSPACE: &str = "WORKSPACE";

/// The file with variables that LightRAG reads from the directory it is started in.
const DOT_ENV: &str = ".env";

/// The file with settings that LightRAG reads from the directory it is started in.
const CONFIG_INI: &str = "config.ini";

type Variables = BTreeMap<String, Secret>;
/// Values by section and key.
type IniKeys = BTreeMap<(String, String), Secret>;

/// What LightRAG would find if it were started here.
///
/// An empty value counts as none.
#[derive(Debug, Default)]
pub struct Environment {
    process: Variables,
    dot_env: Option<(PathBuf, Variables)>,
    ini: Option<(PathBuf, IniKeys)>,
}

impl Environment {
    /// The environment of this process and the files in a directory.
    ///
    /// # Errors
    /// A file that is there and cannot be read. The message names file and line, not what stands there.
    pub fn read(directory: &Path) -> Result<Self> {
        let process = std::env::vars_os()
            .filter_map(|(name, value)| {
                Some((name.into_string().ok()?, Secret::new(value.into_string().ok()?)))
            })
            .collect();
        Ok(Self {
            process,
            dot_env: read_dot_env(&directory.join(DOT_ENV))?,
            ini: read_ini(&directory.join(CONFIG_INI))?,
        })
    }

    /// An environment of these variables alone.
    #[cfg(test)]
    pub(crate) fn with_process<const N: usize>(variables: [(&str, &str); N]) -> Self {
        Self {
            process: variables
                .map(|(name, text)| (name.to_owned(), Secret::new(text)))
                .into(),
            ..Self::default()
        }
    }

    /// A variable, from the process or from `.env`.
    pub fn variable(&self, name: &str) -> Option<Value> {
        let process = self.process.get(name).map(|text| Value {
            text: text.clone(),
            origin: Origin::Variable(name.to_owned()),
        });
        let dot_env = || {
            let (file, variables) = self.dot_env.as_ref()?;
            Some(Value {
                text: variables.get(name)?.clone(),
                origin: Origin::DotEnv(file.clone(), name.to_owned()),
            })
        };
        process.filter(is_said).or_else(|| dot_env().filter(is_said))
    }

    /// A variable of the process alone, empty or not: what `${NAME}` in a job file stands for.
    pub fn process_variable(&self, name: &str) -> Option<&Secret> {
        self.process.get(name)
    }

    /// A key in a section of `config.ini`.
    pub fn ini(&self, section: &str, key: &str) -> Option<Value> {
        let (file, keys) = self.ini.as_ref()?;
        let text = keys.get(&(section.to_owned(), key.to_owned()))?.clone();
        let origin = Origin::Ini(file.clone(), format!("[{section}] {key}"));
        Some(Value { text, origin }).filter(is_said)
    }
}

fn is_said(value: &Value) -> bool {
    !value.text.expose().trim().is_empty()
}

fn read_dot_env(path: &Path) -> Result<Option<(PathBuf, Variables)>> {
    let text = match read_if_there(path)? {
        Some(text) => text,
        None => return Ok(None),
    };
    let mut variables = BTreeMap::new();
    for item in dotenvy::from_read_iter(keep_dollars(&text).as_bytes()) {
        // The library's message repeats the line, which may hold a password.
        let (name, value) = item.map_err(|error| {
            let line = match &error {
                dotenvy::Error::LineParse(line, _) => text
                    .lines()
                    .position(|l| l.trim() == line.trim())
                    .map(|at| format!(" line {}", at + 1)),
                _ => None,
            };
            Error::config(format!(
                "{}{}: not of the form NAME=value",
                path.display(),
                line.unwrap_or_default()
            ))
            .with_remedy("quote values that hold spaces, quotes or `#`")
        })?;
        variables.insert(name, Secret::new(value));
    }
    Ok(Some((path.to_owned(), variables)))
}

/// LightRAG's reader replaces `${NAME}` and takes any other `$` as it is; the reader here would replace `$NAME`
/// too, and so change a password. Outside of single quotes such a `$` is therefore escaped first.
fn keep_dollars(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let mut quoted = false;
        let comment = line.trim_start().starts_with('#');
        let mut characters = line.chars().peekable();
        let mut escaped = false;
        while let Some(character) = characters.next() {
            if character == '$' && !quoted && !comment && !escaped && characters.peek() != Some(&'{') {
                kept.push('\\');
            }
            quoted ^= character == '\'' && !escaped;
            escaped = character == '\\' && !escaped && !quoted;
            kept.push(character);
        }
    }
    kept
}

fn read_ini(path: &Path) -> Result<Option<(PathBuf, IniKeys)>> {
    let text = match read_if_there(path)? {
        Some(text) => text,
        None => return Ok(None),
    };
    // Python's configparser takes backslashes as they are, and so must this.
    let options = ini::ParseOption {
        enabled_escape: false,
        enabled_quote: false,
        ..ini::ParseOption::default()
    };
    let ini = Ini::load_from_str_opt(&text, options)
        .map_err(|error| Error::config(format!("{} line {}: {}", path.display(), error.line, error.msg)))?;
    let mut keys = BTreeMap::new();
    for (section, properties) in &ini {
        for (key, value) in properties.iter() {
            let name = (section.unwrap_or_default().to_owned(), key.to_ascii_lowercase());
            keys.insert(name, Secret::new(value));
        }
    }
    Ok(Some((path.to_owned(), keys)))
}

fn read_if_there(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::config(format!("cannot read {}: {error}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        directory
    }

    #[test]
    fn the_files_are_read_and_empty_values_count_as_none() {
        let directory = directory(&[
            (
                ".env",
                "# don't\nexport POSTGRES_HOST=db\nPOSTGRES_USER=\nPOSTGRES_PASSWORD='a # b'\nMONGO_URI=a$b\n",
            ),
            ("config.ini", "[postgres]\nuser = rag\npassword = a\\b\n"),
        ]);
        let environment = Environment::read(directory.path()).unwrap();
        let text = |value: Option<Value>| value.map(|value| value.text.expose().to_owned());
        assert_eq!(text(environment.variable("POSTGRES_HOST")).as_deref(), Some("db"));
        assert_eq!(text(environment.variable("POSTGRES_USER")), None);
        assert_eq!(
            text(environment.variable("POSTGRES_PASSWORD")).as_deref(),
            Some("a # b")
        );
        assert_eq!(text(environment.variable("MONGO_URI")).as_deref(), Some("a$b"));
        assert_eq!(text(environment.ini("postgres", "user")).as_deref(), Some("rag"));
        assert_eq!(
            text(environment.ini("postgres", "password")).as_deref(),
            Some("a\\b")
        );
    }

    #[test]
    fn a_broken_line_is_named_by_number_and_not_repeated() {
        let directory = directory(&[(".env", "A=1\nPASSWORD hunter2 'x\n")]);
        let error = Environment::read(directory.path()).unwrap_err();
        assert!(error.message().contains(".env line 2"), "{error}");
        assert!(!error.to_string().contains("hunter2"));
    }
}

//! Reads LightRAG's configuration: the process environment, `.env` and `config.ini`.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    io::ErrorKind as IoErrorKind,
    path::{Path, PathBuf},
};

use super::{
    configparser::{ConfigIni, Problem},
    dotenv::DotEnv,
};
use crate::model::{Error, Origin, Result, Secret, Value};

/// The file with variables that LightRAG reads from its current directory.
pub(crate) const DOT_ENV: &str = ".env";

/// The file with settings that LightRAG reads from its current directory.
pub(crate) const CONFIG_INI: &str = "config.ini";

/// The variable that keeps python-dotenv from reading `.env`, and the values that do so.
const DOT_ENV_DISABLED: &str = "PYTHON_DOTENV_DISABLED";
const DISABLING: [&str; 5] = ["1", "true", "t", "yes", "y"];

/// How many line numbers a warning lists.
const MOST_LINES: usize = 10;

/// The configuration that LightRAG would read if it were started here.
///
/// An empty variable counts as set: it overrides `.env` and `config.ini`, as it does for LightRAG.
#[derive(Debug, Default)]
pub struct Environment {
    process: BTreeMap<String, Secret>,
    /// Variables of the process whose values are not UTF-8.
    unreadable_variables: BTreeSet<String>,
    dot_env: File<DotEnv>,
    ini: File<ConfigIni>,
    warnings: Vec<String>,
}

/// A file of LightRAG's configuration.
#[derive(Debug, Default)]
enum File<T> {
    /// The file does not exist, or LightRAG would not read it.
    #[default]
    Absent,
    Read(PathBuf, T),
    /// LightRAG does not start with it. The reason names the file.
    Unreadable(String),
}

impl Environment {
    /// Reads the environment of this process and the files in a directory. A broken file causes a warning here, and an
    /// error only when a setting is looked up in it.
    pub fn read(directory: &Path) -> Self {
        Self::with(std::env::vars_os(), directory)
    }

    /// As [`Environment::read`], with these variables as the environment of the process.
    pub fn with(process: impl IntoIterator<Item = (OsString, OsString)>, directory: &Path) -> Self {
        let mut environment = Self::default();
        for (name, value) in process {
            let Ok(name) = name.into_string() else { continue };
            match value.into_string() {
                Ok(text) => {
                    environment.process.insert(name, Secret::new(text));
                }
                Err(_) => {
                    environment.unreadable_variables.insert(name);
                }
            }
        }
        environment.read_dot_env(&directory.join(DOT_ENV));
        environment.read_ini(&directory.join(CONFIG_INI));
        environment
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

    /// Warnings about the files. They contain no values.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// A variable, from the process or from `.env`.
    ///
    /// # Errors
    /// Its value cannot be determined: it is not valid UTF-8, or `.env` cannot be read.
    pub fn variable(&self, name: &str) -> Result<Option<Value>> {
        let found = self.readable_variable(name)?;
        match (&found, &self.dot_env) {
            (None, File::Unreadable(reason)) => {
                Err(unreadable(reason, &format!("{name} is looked up there")))
            }
            _ => Ok(found),
        }
    }

    /// A variable, from the process or from a readable `.env`.
    ///
    /// # Errors
    /// Its value is not valid UTF-8.
    pub fn readable_variable(&self, name: &str) -> Result<Option<Value>> {
        if let Some(text) = self.process.get(name) {
            let (text, origin) = (text.clone(), Origin::Variable(name.to_owned()));
            return Ok(Some(Value { text, origin }));
        }
        if self.unreadable_variables.contains(name) {
            return Err(Error::config(format!("the variable {name} is not valid UTF-8")));
        }
        match &self.dot_env {
            File::Absent | File::Unreadable(_) => Ok(None),
            File::Read(file, variables) => Ok(variables.get(name).and_then(|variable| {
                let origin = Origin::DotEnv {
                    file: file.clone(),
                    name: name.to_owned(),
                    line: variable.line,
                };
                let text = variable.value.clone()?;
                Some(Value { text, origin })
            })),
        }
    }

    /// A variable of the process, as `${NAME}` in a job file uses it.
    pub fn process_variable(&self, name: &str) -> Option<&Secret> {
        self.process.get(name)
    }

    /// A key in a section of `config.ini`.
    ///
    /// # Errors
    /// The file cannot be read, or LightRAG's parser refuses the value.
    pub fn ini(&self, section: &str, key: &str) -> Result<Option<Value>> {
        match &self.ini {
            File::Unreadable(reason) => Err(unreadable(
                reason,
                &format!("[{section}] {key} is looked up there"),
            )),
            _ => self.readable_ini(section, key),
        }
    }

    /// A key in a section of a readable `config.ini`.
    ///
    /// # Errors
    /// LightRAG's parser refuses the value.
    pub fn readable_ini(&self, section: &str, key: &str) -> Result<Option<Value>> {
        let named = format!("[{section}] {key}");
        match &self.ini {
            File::Absent | File::Unreadable(_) => Ok(None),
            File::Read(file, ini) => {
                let value = ini
                    .get(section, key)
                    .map_err(|problem| refused(file, &problem, &named))?;
                Ok(value.map(|value| Value {
                    text: value.text,
                    origin: Origin::Ini {
                        file: file.clone(),
                        key: named,
                        line: value.line,
                    },
                }))
            }
        }
    }

    fn read_dot_env(&mut self, path: &Path) {
        let is_disabled = self
            .process
            .get(DOT_ENV_DISABLED)
            .is_some_and(|text| DISABLING.contains(&text.expose().to_lowercase().as_str()));
        if is_disabled {
            return;
        }
        // python-dotenv ignores everything that is neither a file nor a FIFO.
        match std::fs::metadata(path) {
            Ok(found) if found.is_dir() => {
                self.warnings.push(format!(
                    "{} is a folder, not a file, and is ignored, as LightRAG ignores it; Docker creates such a folder \
                     where it mounts a file that does not exist",
                    path.display()
                ));
                return;
            }
            Ok(_) => {}
            Err(error) => return self.ignore(path, &error),
        }
        let text = match std::fs::read(path) {
            Ok(bytes) => decode(path, bytes),
            Err(error) => Err(format!("cannot read {}: {error}", path.display())),
        };
        self.dot_env = match text {
            Ok(text) => {
                let process = |name: &str| self.process.get(name).map(Secret::expose);
                let read = DotEnv::parse(&text, process);
                let skipped = skipped_lines(path, read.unparsable_lines());
                self.warnings.extend(skipped);
                File::Read(path.to_owned(), read)
            }
            Err(reason) => self.give_up(reason),
        };
    }

    fn read_ini(&mut self, path: &Path) {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            // Python's configparser ignores a file that it cannot open.
            Err(error) => return self.ignore(path, &error),
        };
        self.ini = match decode(path, bytes) {
            Ok(text) => {
                let read = ConfigIni::parse(&text);
                if let Some(problem) = read.problems().first() {
                    self.warnings.push(format!(
                        "{} {problem}; LightRAG refuses the whole file",
                        path.display()
                    ));
                }
                File::Read(path.to_owned(), read)
            }
            Err(reason) => self.give_up(reason),
        };
    }

    /// Continues without a file, as LightRAG does; a missing one is not worth a warning.
    fn ignore(&mut self, path: &Path, error: &std::io::Error) {
        if error.kind() != IoErrorKind::NotFound {
            self.warnings.push(format!(
                "cannot read {}: {error}; it is ignored, as LightRAG ignores it",
                path.display()
            ));
        }
    }

    /// Continues without a file that LightRAG would not start with.
    fn give_up<T>(&mut self, reason: String) -> File<T> {
        self.warnings
            .push(format!("{reason}; LightRAG does not start with such a file"));
        File::Unreadable(reason)
    }
}

/// The text of a file.
///
/// # Errors
/// Why it is not UTF-8, with the file's name.
pub(super) fn decode(path: &Path, bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let bytes = error.as_bytes();
        if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
            return format!("{} is UTF-16, not UTF-8", path.display());
        }
        let line = bytes[..valid].iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("{} line {line} is not valid UTF-8", path.display())
    })
}

fn unreadable(reason: &str, needed: &str) -> Error {
    Error::config(format!("{reason}; {needed}"))
        .with_remedy("save it as UTF-8, or give both storages and --workspace with flags or in a job file")
}

fn refused(file: &Path, problem: &Problem, needed: &str) -> Error {
    Error::config(format!("{} {problem}; {needed} is read from it", file.display())).with_remedy(
        "fix the line (LightRAG does not start with it either), or set the value with a flag, the job file or a variable",
    )
}

/// A warning about skipped lines; `None` if there are none.
fn skipped_lines(path: &Path, lines: &[usize]) -> Option<String> {
    let path = path.display();
    let listed: Vec<String> = lines.iter().take(MOST_LINES).map(usize::to_string).collect();
    let more = lines.len().saturating_sub(MOST_LINES);
    Some(match (listed.as_slice(), more) {
        ([], _) => return None,
        ([line], _) => format!("{path} line {line} is not of the form NAME=value and is skipped"),
        (lines, 0) => format!(
            "{path} lines {} are not of the form NAME=value and are skipped",
            lines.join(", ")
        ),
        (lines, more) => format!(
            "{path} lines {} and {more} more are not of the form NAME=value and are skipped",
            lines.join(", ")
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            std::fs::write(directory.path().join(name), bytes).unwrap();
        }
        directory
    }

    fn environment(process: &[(&str, &str)], directory: &tempfile::TempDir) -> Environment {
        let process = process.iter().map(|(name, value)| (name.into(), value.into()));
        Environment::with(process, directory.path())
    }

    fn text(value: Result<Option<Value>>) -> Option<String> {
        value.unwrap().map(|value| value.text.expose().to_owned())
    }

    #[test]
    fn the_process_comes_before_the_file_even_where_it_says_nothing() {
        let directory = directory(&[
            (
                ".env",
                b"POSTGRES_HOST=file\nPOSTGRES_USER=file\nMONGO_URI=${POSTGRES_HOST}\nBARE\n",
            ),
            ("config.ini", b"[postgres]\nuser = ini\n"),
        ]);
        let environment = environment(&[("POSTGRES_HOST", "process"), ("POSTGRES_USER", "")], &directory);
        assert_eq!(
            text(environment.variable("POSTGRES_HOST")).as_deref(),
            Some("process")
        );
        assert_eq!(text(environment.variable("POSTGRES_USER")).as_deref(), Some(""));
        assert_eq!(
            text(environment.variable("MONGO_URI")).as_deref(),
            Some("process")
        );
        assert_eq!(text(environment.variable("BARE")), None);
        assert_eq!(text(environment.ini("postgres", "user")).as_deref(), Some("ini"));
        assert_eq!(environment.warnings(), [""; 0]);
    }

    #[test]
    fn an_origin_names_file_and_line() {
        let directory = directory(&[
            (".env", b"\n# note\nPOSTGRES_HOST=db\n"),
            ("config.ini", b"[postgres]\n\nuser = rag\n"),
        ]);
        let environment = environment(&[], &directory);
        let origin = |value: Result<Option<Value>>| value.unwrap().unwrap().origin.to_string();
        let folder = directory.path().display();
        assert_eq!(
            origin(environment.variable("POSTGRES_HOST")),
            format!("POSTGRES_HOST in {folder}/.env line 3")
        );
        assert_eq!(
            origin(environment.ini("postgres", "user")),
            format!("[postgres] user in {folder}/config.ini line 3")
        );
    }

    #[test]
    fn skipped_lines_are_named_by_number_and_not_repeated() {
        let directory = directory(&[(
            ".env",
            b"A=1\nPASSWORD hunter2 'x\nB=2\n\"hunter2\nX=a\"b\n='hunter2\n",
        )]);
        let environment = environment(&[], &directory);
        let warnings = environment.warnings().join("\n");
        assert!(warnings.contains(".env lines 2, 6 are not"), "{warnings}");
        assert!(!warnings.contains("hunter2"), "{warnings}");
        assert_eq!(text(environment.variable("B")).as_deref(), Some("2"));
    }

    #[test]
    fn a_file_that_cannot_be_read_concerns_only_who_needs_it() {
        for (bytes, reason) in [
            (&b"A=1\nB=\xe9\n"[..], "line 2 is not valid UTF-8"),
            (b"\xff\xfeA\0", "is UTF-16, not UTF-8"),
        ] {
            let directory = directory(&[(".env", bytes), ("config.ini", bytes)]);
            let environment = environment(&[("A", "process")], &directory);
            assert_eq!(environment.warnings().len(), 2);
            assert!(
                environment
                    .warnings()
                    .iter()
                    .all(|warning| warning.contains(reason))
            );
            assert_eq!(text(environment.variable("A")).as_deref(), Some("process"));
            for error in [
                environment.variable("B").unwrap_err(),
                environment.ini("postgres", "user").unwrap_err(),
            ] {
                assert!(error.message().contains(reason), "{error}");
            }
        }
    }

    #[test]
    fn a_folder_in_place_of_a_file_is_ignored_with_a_warning() {
        let directory = directory(&[]);
        for name in [DOT_ENV, CONFIG_INI] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        let environment = environment(&[], &directory);
        assert_eq!(environment.warnings().len(), 2, "{:?}", environment.warnings());
        assert_eq!(text(environment.variable("A")), None);
        assert_eq!(text(environment.ini("postgres", "user")), None);
    }

    #[test]
    fn a_file_that_is_switched_off_is_not_read() {
        let directory = directory(&[(".env", b"A=1\n")]);
        assert_eq!(
            text(environment(&[(DOT_ENV_DISABLED, "True")], &directory).variable("A")),
            None
        );
        let environment = environment(&[(DOT_ENV_DISABLED, "0")], &directory);
        assert_eq!(text(environment.variable("A")).as_deref(), Some("1"));
    }
}

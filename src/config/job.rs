//! The job file: YAML, strict.

use std::path::{Path, PathBuf};

use serde_yaml::{Mapping, Value as Yaml};

use super::{env::Environment, options::Options, value::scalar_text};
use crate::model::{Error, Origin, Result, Secret, nearest};

/// A job file, as it was written.
#[derive(Debug, Default)]
pub struct JobFile {
    /// What it says.
    pub options: Options,
    /// Where the file is, and its text, for errors.
    source: JobText,
}

/// The file's path and text.
#[derive(Debug, Default)]
struct JobText {
    file: PathBuf,
    text: Secret,
}

impl JobFile {
    /// Reads a job file. `${NAME}` and `${NAME:-default}` take their values from the process environment.
    ///
    /// # Errors
    /// The file is missing, is no YAML, has an unknown or a wrong field, or names an unset variable. The message
    /// names file, path and line.
    pub fn read(file: &Path, environment: &Environment) -> Result<Self> {
        let text = std::fs::read_to_string(file).map_err(|error| {
            Error::config(format!("cannot read the job file {}: {error}", file.display()))
        })?;
        Self::parse(file, text, environment)
    }

    fn parse(file: &Path, text: String, environment: &Environment) -> Result<Self> {
        let source = JobText {
            file: file.to_owned(),
            text: Secret::new(text),
        };
        let mut tree: Yaml = serde_yaml::from_str(source.text.expose()).map_err(|error| {
            let line = error
                .location()
                .map(|at| format!(" line {}", at.line()))
                .unwrap_or_default();
            // What the parser says may repeat a secret, but for the name of a field that stands there twice.
            let text = error.to_string();
            if let Some((_, name)) = text.split_once("duplicate entry with key ") {
                let name = name.trim_matches('"');
                return Error::config(format!("{}{line}: `{name}` stands there twice", file.display()));
            }
            Error::config(format!("{}{line}: this is no YAML", file.display()))
                .with_remedy("check indentation (by spaces, not tabs), and quote values that hold `:`, `#`, `{` or `$`")
                .caused_by(error)
        })?;
        if tree.is_null() {
            tree = Yaml::Mapping(Mapping::new());
        }
        interpolate(&mut tree, environment, &mut Vec::new(), &source)?;
        let mut options: Options = serde_path_to_error::deserialize(tree).map_err(|error| {
            let path = error.path().to_string();
            source.error(&path, &expectation(&error.into_inner().to_string()))
        })?;
        options.set_origins(&|path| source.origin(path));
        Ok(Self { options, source })
    }

    /// Where the value of a path such as `target.host` is.
    pub fn origin(&self, path: &str) -> Origin {
        self.source.origin(path)
    }

    /// A complaint about a field.
    pub fn error(&self, path: &str, what: &str) -> Error {
        self.source.error(path, what)
    }
}

/// An unknown field's message, with the nearest known one.
fn expectation(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    if message.starts_with("unknown field") || message.starts_with("unknown variant") {
        let unknown = quoted.next().unwrap_or_default();
        let known: Vec<&str> = quoted.collect();
        let hint = nearest(unknown, known.iter().copied())
            .map_or_else(|| ".".to_owned(), |name| format!("; did you mean `{name}`?"));
        let what = if message.starts_with("unknown field") {
            "field"
        } else {
            "value"
        };
        format!("unknown {what} `{unknown}`{hint} Known: {}", known.join(", "))
    } else if let Some((_, expected)) = message.rsplit_once(", expected ") {
        // What was found may be a secret at the wrong place.
        format!("expected {expected}")
    } else {
        message.to_owned()
    }
}

impl JobText {
    fn origin(&self, path: &str) -> Origin {
        Origin::Job {
            file: self.file.clone(),
            line: self.line(path),
            path: path.to_owned(),
        }
    }

    fn error(&self, path: &str, what: &str) -> Error {
        self.origin(path).error(what)
    }

    /// The line, from 1, on which a path such as `target.host` is, as far as it can be said.
    ///
    /// Looks for the path's names one after the other, each as a key behind the one before.
    fn line(&self, path: &str) -> Option<usize> {
        let text = self.text.expose();
        let mut at = 0;
        for name in path.split('.') {
            let name = name.split('[').next().unwrap_or(name);
            if name.is_empty() {
                continue;
            }
            let found = text[at..].match_indices(name).find(|(start, _)| {
                let before = text[..at + start].chars().next_back();
                let after = text[at + start + name.len()..]
                    .trim_start_matches(['"', '\''])
                    .trim_start();
                before.is_none_or(|c| c.is_whitespace() || "{,\"'".contains(c)) && after.starts_with(':')
            })?;
            at += found.0;
        }
        Some(text[..at].matches('\n').count() + 1)
    }
}

/// Replaces `${NAME}` in every text of the tree. Keys stay as they are.
fn interpolate(
    tree: &mut Yaml,
    environment: &Environment,
    path: &mut Vec<String>,
    origin: &JobText,
) -> Result<()> {
    match tree {
        Yaml::String(text) => {
            *text = replace(text, environment).map_err(|what| origin.error(&path.join("."), &what))?;
        }
        Yaml::Sequence(items) => {
            for (at, item) in items.iter_mut().enumerate() {
                path.push(format!("[{at}]"));
                interpolate(item, environment, path, origin)?;
                path.pop();
            }
        }
        Yaml::Mapping(fields) => {
            for (name, value) in fields {
                path.push(scalar_text(name).unwrap_or_default());
                interpolate(value, environment, path, origin)?;
                path.pop();
            }
        }
        _ => {}
    }
    Ok(())
}

fn replace(text: &str, environment: &Environment) -> Result<String, String> {
    let mut replaced = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        replaced.push_str(&rest[..start]);
        let end = rest[start..].find('}').ok_or("`${` without `}`")? + start;
        let inner = &rest[start + 2..end];
        let (name, default) = match inner.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inner, None),
        };
        let value = environment.process_variable(name).map(Secret::expose);
        // As in a shell, `:-` also replaces an empty value.
        match (value, default) {
            (Some(""), Some(default)) | (None, Some(default)) => replaced.push_str(default),
            (Some(value), _) => replaced.push_str(value),
            (None, None) => {
                return Err(format!(
                    "the variable {name} is not set; set it, or give a default with ${{{name}:-…}}"
                ));
            }
        }
        rest = &rest[end + 1..];
    }
    replaced.push_str(rest);
    Ok(replaced)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::value::{StorageSpec, WorkspacesSpec};

    fn parse(text: &str) -> Result<JobFile> {
        let environment = Environment::with_process([("PORT", "5433"), ("EMPTY", ""), ("PW", "a: #b")]);
        JobFile::parse(Path::new("job.yaml"), text.to_owned(), &environment)
    }

    #[test]
    fn variables_are_replaced_in_values_and_cannot_change_the_structure() {
        let job = parse(
            "target: { kind: postgres, port: \"${PORT}\", password: \"x${PW}y\", user: \"${NO:-me}${EMPTY:-!}\" }",
        );
        let Some(StorageSpec::Settings(settings)) = job.unwrap().options.target else {
            panic!("no settings");
        };
        let text = |name: &str| settings.get(name).and_then(scalar_text);
        assert_eq!(text("port").as_deref(), Some("5433"));
        assert_eq!(text("password").as_deref(), Some("xa: #by"));
        assert_eq!(text("user").as_deref(), Some("me!"));
    }

    #[test]
    fn an_unset_variable_is_named_with_its_place() {
        let error = parse("source: json\ntarget:\n  kind: postgres\n  password: ${NOT_SET}\n").unwrap_err();
        assert!(
            error
                .message()
                .contains("job.yaml line 4: target.password: the variable NOT_SET is not set"),
            "{error}"
        );
    }

    #[test]
    fn an_unknown_field_is_named_with_line_and_the_nearest_known_one() {
        let error = parse("source: json\nbatch:\n  recods: 5\n").unwrap_err();
        assert!(
            error.message().starts_with(
                "job.yaml line 3: batch.recods: unknown field `recods`; did you mean `records`?"
            ),
            "{error}"
        );
    }

    #[test]
    fn workspaces_are_one_many_pairs_or_all() {
        let pairs = |text: &str| match parse(text).unwrap().options.workspaces.unwrap() {
            WorkspacesSpec::Pairs(pairs) => pairs,
            WorkspacesSpec::All => panic!("all"),
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(pairs("workspaces: space1"), [pair("space1", "space1")]);
        assert_eq!(
            pairs("workspaces: [a, { from: b, to: c }]"),
            [pair("a", "a"), pair("b", "c")]
        );
        assert!(matches!(
            parse("workspaces: all").unwrap().options.workspaces,
            Some(WorkspacesSpec::All)
        ));
        assert!(parse("workspaces: []").is_err());
        assert!(parse("workspaces: 7").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in any::<String>()) {
            let _ = parse(&text);
        }

        #[test]
        fn any_shape_of_yaml_is_read_or_refused(
            name in "source|target|workspaces|types|batch|timeout|yes|on_conflict|verify|nonsense",
            value in r"(\$\{[A-Z:-]{0,6}\}|[\[{]?[a-z0-9: ,-]{0,20}[\]}]?|\n  [a-z]{0,6}: .{0,12})",
        ) {
            let _ = parse(&format!("{name}: {value}\n"));
        }
    }

    #[test]
    fn what_is_no_yaml_is_told_by_line_and_not_repeated() {
        let error = parse("target:\n  password: hunter2\n bad: [\n").unwrap_err();
        assert!(error.message().starts_with("job.yaml line "), "{error}");
        assert!(!error.to_string().contains("hunter2"));
    }
}

//! The job file: YAML, parsed strictly.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use serde_yaml::{Mapping, Value as Yaml};

use super::{
    env::{Environment, decode},
    options::{Options, field_of_flag},
    value::scalar_text,
};
use crate::{
    model::{Error, Origin, Result, Secret, nearest},
    report::TOOL,
};

/// The most fields that an error lists.
const MOST_LISTED: usize = 12;

/// A parsed job file.
#[derive(Debug, Default)]
pub struct JobFile {
    /// The options that it sets.
    pub options: Options,
    /// Path and text of the file, for errors.
    source: JobText,
}

/// The file's path and text.
#[derive(Debug, Default)]
struct JobText {
    file: PathBuf,
    text: Secret,
}

impl JobFile {
    /// Reads a job file. `${NAME}` and `${NAME:-default}` are replaced by variables of the process.
    ///
    /// # Errors
    /// The file is missing, is not valid YAML, has an unknown or invalid field, or names an unset variable. The message
    /// names file, path and line.
    pub fn read(file: &Path, environment: &Environment) -> Result<Self> {
        let bytes = std::fs::read(file).map_err(|error| {
            let remedy = match error.kind() {
                ErrorKind::NotFound => "check the path; `--generate job` writes a job file from flags",
                ErrorKind::IsADirectory => "name the YAML file itself",
                _ => "run as a user who can read it",
            };
            Error::config(format!("cannot read the job file {}: {error}", file.display())).with_remedy(remedy)
        })?;
        let text =
            decode(file, bytes).map_err(|reason| Error::config(reason).with_remedy("save it as UTF-8"))?;
        Self::parse(file, &text, environment)
    }

    fn parse(file: &Path, text: &str, environment: &Environment) -> Result<Self> {
        // Editors on Windows write a byte order mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let source = JobText {
            file: file.to_owned(),
            text: Secret::new(text),
        };
        let mut tree: Yaml = serde_yaml::from_str(source.text.expose()).map_err(|error| {
            let line = error
                .location()
                .map(|at| format!(" line {}", at.line()))
                .unwrap_or_default();
            // The parser's message may repeat a secret, except for the name of a duplicate field.
            let message = error.to_string();
            if let Some((_, name)) = message.split_once("duplicate entry with key ") {
                let name = name.split('"').nth(1).unwrap_or(name);
                return Error::config(match duplicate_lines(text, name) {
                    Some((first, second)) => format!(
                        "{} line {second}: `{name}` is already defined on line {first}",
                        file.display()
                    ),
                    None => format!("{}{line}: `{name}` is defined twice", file.display()),
                });
            }
            Error::config(format!("{}{line}: not valid YAML", file.display()))
                .with_remedy(
                    "check the indentation (spaces, no tabs), and quote values that contain `:`, `#` or `{`",
                )
                .caused_by(error)
        })?;
        if tree.is_null() {
            tree = Yaml::Mapping(Mapping::new());
        }
        interpolate(&mut tree, environment, &mut Vec::new(), &source)?;
        let mut options: Options = serde_path_to_error::deserialize(tree).map_err(|error| {
            let path = error.path().to_string();
            let (what, remedy) = expectation(&error.into_inner().to_string());
            let error = source.error(&path, &what);
            match remedy {
                Some(remedy) => error.with_remedy(remedy),
                None => error,
            }
        })?;
        options.set_origins(&|path| source.origin(path));
        Ok(Self { options, source })
    }

    /// The position of a value, by a path such as `target.host`.
    pub fn origin(&self, path: &str) -> Origin {
        self.source.origin(path)
    }

    /// An error in the field at a path.
    pub fn error(&self, path: &str, what: &str) -> Error {
        self.source.error(path, what)
    }
}

/// Serde's message, and what to write instead if it is known.
fn expectation(message: &str) -> (String, Option<String>) {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let mut names = || {
        let unknown = quoted.next().unwrap_or_default();
        (unknown, quoted.by_ref().collect::<Vec<&str>>())
    };
    if message.starts_with("unknown field") {
        let (unknown, known) = names();
        let remedy = match (field_of_flag(unknown), nearest(unknown, known.iter().copied())) {
            (Some(field), _) => format!("write `{field}`"),
            (None, Some(near)) => format!("did you mean `{near}`?"),
            // The list of the whole file's fields would fill the terminal.
            (None, None) if known.len() > MOST_LISTED => {
                format!("`{TOOL} --generate job` writes a job file with every field")
            }
            (None, None) => format!("the fields here are {}", known.join(", ")),
        };
        ("unknown field".to_owned(), Some(remedy))
    } else if message.starts_with("unknown variant") {
        let (unknown, known) = names();
        let near = nearest(unknown, known.iter().copied());
        let what = format!("expected one of {}, found `{unknown}`", known.join(", "));
        (what, near.map(|near| format!("did you mean `{near}`?")))
    } else if let Some((_, expected)) = message.rsplit_once(", expected ") {
        // The value itself may be a misplaced secret.
        (format!("expected {expected}"), None)
    } else {
        (message.to_owned(), None)
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

    /// The line, from 1, of a path such as `target.host`, if it can be found.
    ///
    /// Searches for the names of the path in order, each as a key after the previous one.
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

/// The lines, from 1, of the first two entries of this name in one mapping. `None` if the mapping is not in block style.
fn duplicate_lines(text: &str, name: &str) -> Option<(usize, usize)> {
    const QUOTES: [char; 2] = ['"', '\''];
    // The entry of this name in each open mapping, by indentation.
    let mut open = BTreeMap::new();
    for (at, line) in text.lines().enumerate() {
        let content = line.trim_start();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let indentation = line.len() - content.len();
        open.retain(|known, _| *known <= indentation);
        let after_name = content.trim_start_matches(QUOTES).strip_prefix(name);
        let after_name = after_name.map(|rest| rest.trim_start_matches(QUOTES).trim_start());
        if after_name.is_some_and(|rest| rest.starts_with(':'))
            && let Some(first) = open.insert(indentation, at + 1)
        {
            return Some((first, at + 1));
        }
    }
    None
}

/// Replaces `${NAME}` in every text of the tree, but not in keys.
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
        check_plain(&rest[..start], environment)?;
        replaced.push_str(&rest[..start]);
        let end = rest[start..].find('}').ok_or("`${` without `}`")? + start;
        let inner = &rest[start + 2..end];
        let (name, default) = match inner.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inner, None),
        };
        let value = environment.process_variable(name).map(Secret::expose);
        // As in a shell, `:-` replaces an empty value too.
        match (value, default) {
            (Some(""), Some(default)) | (None, Some(default)) => replaced.push_str(default),
            (Some(value), _) => replaced.push_str(value),
            (None, None) => {
                return Err(format!(
                    "the variable {name} is not set; set it, or add a default: ${{{name}:-…}}"
                ));
            }
        }
        rest = &rest[end + 1..];
    }
    check_plain(rest, environment)?;
    replaced.push_str(rest);
    Ok(replaced)
}

/// Refuses `$NAME` for a variable that is set: it is not replaced, and as a password it would fail at the server.
fn check_plain(text: &str, environment: &Environment) -> Result<(), String> {
    for after in text.split('$').skip(1) {
        let end = after.find(|c: char| c != '_' && !c.is_ascii_alphanumeric());
        let name = &after[..end.unwrap_or(after.len())];
        if !name.is_empty() && environment.process_variable(name).is_some() {
            return Err(format!("`${name}` is not expanded; write `${{{name}}}`"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::value::{StorageSpec, WorkspacesSpec};

    fn parse(text: &str) -> Result<JobFile> {
        let environment = Environment::with_process([("PORT", "5433"), ("EMPTY", ""), ("PW", "a: #b")]);
        JobFile::parse(Path::new("job.yaml"), text, &environment)
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
    fn an_unset_variable_is_reported_with_path_and_line() {
        let error = parse("source: json\ntarget:\n  kind: postgres\n  password: ${NOT_SET}\n").unwrap_err();
        assert!(
            error
                .message()
                .contains("job.yaml line 4: target.password: the variable NOT_SET is not set"),
            "{error}"
        );
    }

    #[test]
    fn an_unknown_field_is_reported_with_its_line_and_the_nearest_known_one() {
        let error = parse("source: json\nbatch:\n  recods: 5\n").unwrap_err();
        assert!(
            error
                .message()
                .starts_with("job.yaml line 3: batch.recods: unknown field"),
            "{error}"
        );
        assert_eq!(error.remedy(), Some("did you mean `records`?"));
    }

    #[test]
    fn a_duplicate_field_is_reported_with_both_lines() {
        let message = |text: &str| parse(text).unwrap_err().message().to_owned();
        assert_eq!(
            message("source: json\ntarget:\n  host: a\n  # host: x\n  user: b\n  'host': c\n"),
            "job.yaml line 6: `host` is already defined on line 3"
        );
        // The same name in two mappings is no duplicate.
        assert_eq!(
            message("source: { kind: json }\nbatch:\n  yes: 1\nyes: true\nbatch: 3\n"),
            "job.yaml line 5: `batch` is already defined on line 2"
        );
        assert_eq!(
            message("source: json\nbatch: { records: 1, records: 2 }\n"),
            "job.yaml line 2: `records` is defined twice"
        );
    }

    #[test]
    fn a_variable_without_braces_is_refused_if_it_is_set() {
        let error = parse("target:\n  kind: postgres\n  password: $PW\n").unwrap_err();
        assert!(
            error.message().ends_with("`$PW` is not expanded; write `${PW}`"),
            "{error}"
        );
        assert!(parse("target: { kind: postgres, password: \"$x$NOT_SET${PW}\" }").is_ok());
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
    fn invalid_yaml_is_reported_with_its_line_and_not_repeated() {
        let error = parse("target:\n  password: hunter2\n bad: [\n").unwrap_err();
        assert!(error.message().starts_with("job.yaml line "), "{error}");
        assert!(!error.to_string().contains("hunter2"));
    }
}

//! The job file: YAML, strict.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, de::Error as _};
use serde_yaml::{Mapping, Value as Yaml};

use super::{Color, OutputFormat, env::Environment};
use crate::{
    model::{Error, OnConflict, Rekey, Result, Secret, VerifyLevel, nearest, record::OnInvalid},
    report::logging::LogFormat,
};

/// A job file, as it was written: every flag has its field.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobFile {
    /// Where to read.
    pub source: Option<StorageSpec>,
    /// Where to write.
    pub target: Option<StorageSpec>,
    /// Which workspaces.
    pub workspaces: Option<WorkspacesSpec>,
    /// Cache types to move.
    pub types: Option<ListSpec>,
    /// Report which records LightRAG will find.
    pub hits: Option<Scalar<bool>>,
    /// Which records to copy under the keys that LightRAG asks for.
    pub rekey: Option<Rekey>,
    /// The LightRAG that will read the cache.
    pub lightrag: Option<LightRagSpec>,
    /// Count and write nothing.
    pub dry_run: Option<Scalar<bool>>,
    /// Write without being asked.
    pub yes: Option<Scalar<bool>>,
    /// Ask at the terminal for what is left open.
    pub interactive: Option<Scalar<bool>>,
    /// What to do with keys that are there.
    pub on_conflict: Option<OnConflict>,
    /// What to do with records that the target could hold if a character went.
    pub on_invalid: Option<OnInvalid>,
    /// Limits of a batch.
    pub batch: Option<BatchSpec>,
    /// Batches under way at once.
    pub concurrency: Option<Text>,
    /// How long each request may take.
    pub timeout: Option<Text>,
    /// How often a request is tried again.
    pub retries: Option<Text>,
    /// How long the whole run may take.
    pub max_duration: Option<Text>,
    /// How many rejected records end it.
    pub max_errors: Option<Text>,
    /// How thoroughly the target is compared with the source.
    pub verify: Option<VerifyLevel>,
    /// Compare and write nothing.
    pub verify_only: Option<Scalar<bool>>,
    /// Where to keep how far it came.
    pub checkpoint: Option<PathBuf>,
    /// Go on where an earlier run stopped.
    pub resume: Option<Scalar<bool>>,
    /// Where to keep rejected records.
    pub rejects: Option<PathBuf>,
    /// Where to list what differs between source and target.
    pub differences: Option<PathBuf>,
    /// Take what stands before the damage of a damaged file.
    pub salvage: Option<Scalar<bool>>,
    /// End with 9 where there is nothing.
    pub fail_on_empty: Option<Scalar<bool>>,
    /// Accept a workspace that the source does not have.
    pub allow_missing: Option<Scalar<bool>>,
    /// What to print.
    pub output: Option<OutputFormat>,
    /// File for the report.
    pub report: Option<PathBuf>,
    /// File for the metrics.
    pub metrics: Option<PathBuf>,
    /// Log filter.
    pub log_level: Option<String>,
    /// How to write the log.
    pub log_format: Option<LogFormat>,
    /// Print nothing but errors.
    pub quiet: Option<Scalar<bool>>,
    /// When colours are used.
    pub color: Option<Color>,
    /// Where the file is, and its text, for errors.
    #[serde(skip)]
    origin: JobText,
}

/// The LightRAG that will read the cache.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LightRagSpec {
    /// Its release.
    pub version: Option<Text>,
    /// The binding that it extracts with; `library` without LightRAG's server.
    pub binding: Option<Text>,
    /// The model that it extracts with.
    pub model: Option<Text>,
    /// The address of that model.
    pub host: Option<Text>,
    /// Whether it asks for entities in JSON.
    pub json_extraction: Option<Scalar<bool>>,
    /// Models that the keys of the cache may have been made for, beside what is configured.
    #[serde(default)]
    pub made_for: Vec<IdentitySpec>,
}

/// A model that keys were made for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentitySpec {
    /// The binding.
    pub binding: Option<Text>,
    /// The model.
    pub model: Option<Text>,
    /// The address.
    pub host: Option<Text>,
}

/// The limits of a batch.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchSpec {
    /// Records.
    pub records: Option<Text>,
    /// Bytes.
    pub bytes: Option<Text>,
}

/// A storage: a kind or place as text, or a mapping of settings.
#[derive(Debug)]
pub enum StorageSpec {
    /// As the flag takes it.
    Text(Secret),
    /// `kind` or `uri`, and settings. The storage checks their names.
    Settings(Mapping),
}

impl<'de> Deserialize<'de> for StorageSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Yaml::deserialize(deserializer)? {
            Yaml::String(text) => Ok(Self::Text(Secret::new(text))),
            Yaml::Mapping(settings) => Ok(Self::Settings(settings)),
            _ => Err(D::Error::custom(
                "expected a kind, a place, or a mapping with `kind`",
            )),
        }
    }
}

/// One workspace, a list of them, or all.
#[derive(Debug)]
pub enum WorkspacesSpec {
    /// Whatever the source has.
    All,
    /// These, `(from, to)`.
    Pairs(Vec<(String, String)>),
}

impl<'de> Deserialize<'de> for WorkspacesSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Pair {
            from: String,
            to: String,
        }
        let expected =
            || D::Error::custom("expected a name, `all`, or a list of names and `{ from: a, to: b }`");
        let pair = |item: Yaml| match item {
            Yaml::String(name) => Ok((name.clone(), name)),
            item @ Yaml::Mapping(_) => serde_yaml::from_value::<Pair>(item)
                .map(|pair| (pair.from, pair.to))
                .map_err(D::Error::custom),
            _ => Err(expected()),
        };
        match Yaml::deserialize(deserializer)? {
            Yaml::String(name) if name == "all" => Ok(Self::All),
            Yaml::Sequence(items) if items.is_empty() => Err(expected()),
            Yaml::Sequence(items) => items
                .into_iter()
                .map(pair)
                .collect::<Result<_, _>>()
                .map(Self::Pairs),
            item => Ok(Self::Pairs(vec![pair(item)?])),
        }
    }
}

/// A list of words, or one text with commas.
#[derive(Debug)]
pub struct ListSpec(pub Vec<String>);

impl<'de> Deserialize<'de> for ListSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Yaml::deserialize(deserializer)? {
            Yaml::String(text) => Ok(Self(text.split(',').map(str::to_owned).collect())),
            Yaml::Sequence(items) => items
                .into_iter()
                .map(|item| item.as_str().map(str::to_owned))
                .collect::<Option<_>>()
                .map(Self)
                .ok_or_else(|| D::Error::custom("expected a list of words")),
            _ => Err(D::Error::custom("expected a list of words")),
        }
    }
}

/// A text or a number, kept as text: `1000`, `8MiB`, `30s`.
#[derive(Debug, Clone)]
pub struct Text(pub String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        scalar_text(&Yaml::deserialize(deserializer)?)
            .map(Self)
            .ok_or_else(|| D::Error::custom("expected a number or a text"))
    }
}

/// A value that may come out of `${NAME}` as text.
#[derive(Debug, Clone, Copy)]
pub struct Scalar<T>(pub T);

impl<'de> Deserialize<'de> for Scalar<bool> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Yaml::deserialize(deserializer)?;
        let text = scalar_text(&value).unwrap_or_default();
        text.parse()
            .map(Self)
            .map_err(|_| D::Error::custom("expected true or false"))
    }
}

/// A scalar as text; `None` for lists, mappings and nothing.
pub(super) fn scalar_text(value: &Yaml) -> Option<String> {
    match value {
        Yaml::String(text) => Some(text.clone()),
        Yaml::Number(number) => Some(number.to_string()),
        Yaml::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
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
        let origin = JobText {
            file: file.to_owned(),
            text: Secret::new(text),
        };
        let mut tree: Yaml = serde_yaml::from_str(origin.text.expose()).map_err(|error| {
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
        interpolate(&mut tree, environment, &mut Vec::new(), &origin)?;
        let mut job: Self = serde_path_to_error::deserialize(tree).map_err(|error| {
            let path = error.path().to_string();
            origin.error(&path, &expectation(&error.into_inner().to_string()))
        })?;
        job.origin = origin;
        Ok(job)
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.origin.file
    }

    /// The line (from 1) on which a path such as `target.host` stands, as far as it can be told.
    pub fn line(&self, path: &str) -> Option<usize> {
        self.origin.line(path)
    }

    /// A complaint about a field.
    pub fn error(&self, path: &str, what: &str) -> Error {
        self.origin.error(path, what)
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
    fn error(&self, path: &str, what: &str) -> Error {
        let line = self
            .line(path)
            .map(|line| format!(" line {line}"))
            .unwrap_or_default();
        let path = if path.is_empty() || path == "." {
            String::new()
        } else {
            format!(" {path}:")
        };
        Error::config(format!("{}{line}:{path} {what}", self.file.display()))
    }

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

    fn parse(text: &str) -> Result<JobFile> {
        let environment = Environment::with_process([("PORT", "5433"), ("EMPTY", ""), ("PW", "a: #b")]);
        JobFile::parse(Path::new("job.yaml"), text.to_owned(), &environment)
    }

    #[test]
    fn variables_are_replaced_in_values_and_cannot_change_the_structure() {
        let job = parse(
            "target: { kind: postgres, port: \"${PORT}\", password: \"x${PW}y\", user: \"${NO:-me}${EMPTY:-!}\" }",
        );
        let Some(StorageSpec::Settings(settings)) = job.unwrap().target else {
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
        let pairs = |text: &str| match parse(text).unwrap().workspaces.unwrap() {
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
            parse("workspaces: all").unwrap().workspaces,
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

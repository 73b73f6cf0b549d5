//! Writes settings that flags gave as a job file, and as a command line.

use std::fmt::Write as _;

use serde_yaml::{Mapping, Value as Yaml};

use super::{
    Environment, JobFile,
    options::{
        Entry,
        JobField::{As, DefaultsTo, FlagOnly, Group, Sample, Shown},
        Options, entries, flag_of,
    },
    value::{Given, scalar_text},
};
use crate::{
    model::{Error, Result, Settings, Side, WorkspaceChoice, replace_secrets},
    report::{TOOL, style::wrap},
    storage::{Endpoint, Route},
};

/// The width of comments.
const WIDTH: usize = 100;
/// The column of the comments after fields that are not set.
const COMMENT_COLUMN: usize = 32;

/// Writes a job file with the settings that flags gave; all other fields follow as comments.
///
/// Passwords are not written: `${SOURCE_PASSWORD}` and `${TARGET_PASSWORD}` stand for them.
///
/// # Errors
/// A flag is not valid, or has no field in a job file.
pub fn job_text(flags: &Options, environment: &Environment) -> Result<String> {
    let mut given = fields(flags, environment)?;
    let mut variables = Vec::new();
    for (entry, value) in &mut given {
        hide_secrets(entry, value, &mut variables);
    }
    let mut text = format!("# Job file of {TOOL}. To run it: {TOOL} --job FILE --yes\n");
    for variable in &variables {
        let line = format!(
            "Set the variable {variable} to the password, percent-encoded as in an address, before the run."
        );
        text.push_str(&comment(&line, ""));
    }
    let mut rest = String::new();
    for entry in entries().iter().filter(|entry| entry.group().is_none()) {
        match entry.job {
            As(_) | FlagOnly => {}
            Group => match group(entry, &given) {
                (true, fields) => {
                    let _ = write!(
                        text,
                        "\n{}{}:\n{fields}",
                        comment(&entry.summary(), ""),
                        entry.path
                    );
                }
                (false, fields) => {
                    let _ = write!(rest, "#{}:\n{fields}", entry.path);
                }
            },
            _ => match value_of(entry, &given) {
                Some(value) => {
                    let _ = write!(text, "\n{}", comment(&entry.summary(), ""));
                    text.push_str(&set(entry, value, ""));
                }
                None => rest.push_str(&unset(entry, "#")),
            },
        }
    }
    let _ = write!(
        text,
        "\n# All other fields, with their defaults or an example:\n{rest}"
    );
    Ok(text)
}

/// The fields that flags gave, with their values.
fn fields(flags: &Options, environment: &Environment) -> Result<Vec<Given>> {
    let mut given = flags.given();
    given.retain(|(entry, _)| entry.path != "generate" && !matches!(entry.job, As(_)));
    if let Some((entry, _)) = given.iter().find(|(entry, _)| matches!(entry.job, FlagOnly)) {
        let flag = flag_of(entry).unwrap_or_default();
        return Err(Error::config(format!("{flag} has no field in a job file"))
            .with_remedy(format!("leave out {flag}")));
    }
    check(flags, environment)?;
    let workspaces = workspaces(flags, environment)?;
    if let Some(entry) = entries().into_iter().find(|entry| entry.path == "workspaces") {
        given.extend(workspaces.map(|value| (entry, value)));
    }
    Ok(given)
}

fn value_of<'a>(entry: &Entry, given: &'a [Given]) -> Option<&'a Yaml> {
    let found = given.iter().find(|(known, _)| known.path == entry.path);
    found.map(|(_, value)| value)
}

/// The fields of a group, and whether one of them was given.
fn group(group: &Entry, given: &[Given]) -> (bool, String) {
    let fields = entries();
    let fields = fields.iter().filter(|field| field.group() == Some(group.path));
    let is_given = fields.clone().any(|field| value_of(field, given).is_some());
    let mark = if is_given { "  #" } else { "#  " };
    let texts = fields.map(|field| match value_of(field, given) {
        Some(value) => comment(&field.summary(), "  ") + &set(field, value, "  "),
        None => unset(field, mark),
    });
    (is_given, texts.collect())
}

/// The command line with the settings that flags gave, for a shell: the program, then each flag with its value. Passwords are
/// replaced as in a job file.
pub fn command_line(flags: &Options) -> Vec<String> {
    let mut line = vec![TOOL.to_owned()];
    for (entry, mut value) in flags.given() {
        hide_secrets(entry, &mut value, &mut Vec::new());
        let Some(flag) = flag_of(entry) else { continue };
        let texts = match &value {
            Yaml::Bool(_) => vec![None],
            Yaml::Sequence(items) if entry.path == "types" => {
                let words: Vec<String> = items.iter().filter_map(scalar_text).collect();
                vec![Some(words.join(","))]
            }
            Yaml::Sequence(items) => items.iter().map(scalar_text).collect(),
            value => vec![scalar_text(value)],
        };
        for text in texts {
            line.push(match text {
                Some(text) => format!("{flag} {}", in_shell(&text)),
                None => flag.to_owned(),
            });
        }
    }
    line
}

/// A word of a command line, quoted if the shell would read it differently. `${NAME}` is left to the shell.
fn in_shell(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+,=".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.to_owned()
    } else if text.contains("${") && !text.contains(['"', '\\', '`', '!']) {
        format!("\"{text}\"")
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Checks what a run would check before it connects.
fn check(flags: &Options, environment: &Environment) -> Result<()> {
    for side in [Side::Source, Side::Target] {
        if flags.storage(side).is_some() {
            Endpoint::resolve(side, flags, &JobFile::default(), &Environment::default())?;
        }
    }
    let mut flags = flags.clone();
    // Which shard `auto` is, only the task knows.
    flags.shard = flags.shard.filter(|shard| shard.text != "auto");
    Settings::resolve(&flags, &JobFile::default(), environment).map(drop)
}

/// The workspaces that flags name, as the job file writes them.
fn workspaces(flags: &Options, environment: &Environment) -> Result<Option<Yaml>> {
    let job = JobFile::default();
    if !WorkspaceChoice::is_named(flags, &job) {
        return Ok(None);
    }
    // The workspace of a side that no flag names depends on the storage of that side.
    let one_side =
        flags.workspace.is_none() && flags.source_workspace.is_some() != flags.target_workspace.is_some();
    let choice = if one_side {
        Route::resolve(flags, &job, environment)?.workspaces
    } else {
        let any = Endpoint::kind_named("json")?;
        WorkspaceChoice::resolve(flags, &job, environment, any, any)?
    };
    let pairs = match choice {
        WorkspaceChoice::All => return Ok(Some("all".into())),
        WorkspaceChoice::Pairs(pairs) => pairs,
    };
    let pairs = pairs.iter().map(|pair| {
        let (from, to) = (pair.from.workspace.name(), pair.to.workspace.name());
        if from == to {
            return from.into();
        }
        let fields = [("from", from), ("to", to)].map(|(name, value)| (name.into(), value.into()));
        Yaml::Mapping(Mapping::from_iter(fields))
    });
    Ok(Some(Yaml::Sequence(pairs.collect())))
}

/// Replaces the passwords in an address by variables.
fn hide_secrets(entry: &Entry, value: &mut Yaml, variables: &mut Vec<String>) {
    let Yaml::String(text) = value else { return };
    let prefix = entry.path.replace('.', "_").to_uppercase();
    let mut number = 0;
    *text = replace_secrets(text, |secret| {
        if secret.is_empty() {
            return String::new();
        }
        number += 1;
        let name = match number {
            1 => format!("{prefix}_PASSWORD"),
            number => format!("{prefix}_PASSWORD_{number}"),
        };
        let reference = format!("${{{name}}}");
        variables.push(name);
        reference
    });
}

/// A field with its value.
fn set(entry: &Entry, value: &Yaml, indentation: &str) -> String {
    let field = Mapping::from_iter([(Yaml::from(entry.name()), value.clone())]);
    // Writing to memory does not fail.
    let yaml = serde_yaml::to_string(&field).unwrap_or_default();
    yaml.lines()
        .map(|line| format!("{indentation}{line}\n"))
        .collect()
}

/// A field that is not set, as a comment on one line.
fn unset(entry: &Entry, mark: &str) -> String {
    let value = match entry.job {
        DefaultsTo(value) | Sample(value) => value,
        Shown { value, .. } if !value.contains('\n') => value,
        _ => "",
    };
    let field = format!("{mark}{}: {value}", entry.name());
    let summary = entry.summary();
    let summary = summary.trim_end_matches('.');
    format!("{:<COMMENT_COLUMN$} # {summary}\n", field.trim_end())
}

/// A text as lines of a comment.
fn comment(text: &str, indentation: &str) -> String {
    let lines = wrap(text, WIDTH - indentation.len() - 2, "");
    lines
        .lines()
        .map(|line| format!("{indentation}# {line}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::{Arg, CommandFactory};

    use super::*;
    use crate::config::{Parsed, parse_args};

    /// The options of a command line.
    fn flags(arguments: &[String]) -> Options {
        let name = [TOOL.to_owned()];
        match parse_args(name.iter().chain(arguments).map(Into::into)).unwrap() {
            Parsed::Flags(flags) => *flags,
            Parsed::Text(text) => panic!("{text}"),
        }
    }

    /// A flag of every kind, with a value that is not its default, as far as it has a field of its own.
    fn all_flags() -> Vec<String> {
        let command = Options::command();
        let argument =
            |entry: &Entry| -> Option<&Arg> { command.get_arguments().find(|a| a.get_id() == entry.path) };
        let mut all = Vec::new();
        for entry in entries() {
            let Some(argument) = argument(entry) else { continue };
            let value = match entry.job {
                // The one excludes the other.
                _ if entry.path == "verify_only" => continue,
                DefaultsTo(_) | Sample(_) if !argument.get_action().takes_values() => None,
                DefaultsTo(_) | Sample(_) if !argument.get_possible_values().is_empty() => argument
                    .get_possible_values()
                    .last()
                    .map(|value| value.get_name().to_owned()),
                DefaultsTo("[default]") => Some("extract,summary".to_owned()),
                DefaultsTo(number) => Some(format!("7{number}")),
                Sample(text) => Some(text.trim_matches('"').to_owned()),
                _ => continue,
            };
            all.extend(flag_of(entry).map(str::to_owned));
            all.extend(value);
        }
        all
    }

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    /// What a run with these options does, without the origins of the settings.
    fn resolved(flags: &Options, job: &JobFile, environment: &Environment) -> String {
        let route = Route::resolve(flags, job, environment).unwrap();
        let mut settings = Settings::resolve(flags, job, environment).unwrap();
        let lightrag = settings.lightrag.take();
        let mut text = format!("{settings:?} {:?}\n", lightrag.map(|lightrag| lightrag.named));
        for endpoint in [route.source, route.target] {
            let values = endpoint.values.iter();
            let values = values.map(|(field, value)| (field.name, value.text.expose().to_owned()));
            let _ = writeln!(
                text,
                "{} {:?}",
                endpoint.connector.kind(),
                values.collect::<Vec<_>>()
            );
        }
        match route.workspaces {
            WorkspaceChoice::All => text.push_str("all"),
            WorkspaceChoice::Pairs(pairs) => {
                for pair in pairs {
                    let _ = write!(text, "{}={} ", pair.from.workspace, pair.to.workspace);
                }
            }
        }
        text
    }

    #[test]
    fn the_job_file_of_a_command_line_has_the_same_settings() {
        let environment = Environment::with_process([
            ("TARGET_PASSWORD", "hunter2"),
            ("POSTGRES_WORKSPACE", "configured"),
        ]);
        let target = "--target postgres://rag:hunter2@db/rag";
        for (line, secrets) in [
            (format!("--source ./rag_storage {target}"), 1),
            (format!("--source json {target} --workspace space1"), 1),
            (format!("--source json {target} --source-workspace a"), 1),
            (
                format!("--source json {target} --workspace all --target-workspace b"),
                1,
            ),
            (
                format!("--source json {target} --workspace-map a=b --workspace-map c=c"),
                1,
            ),
            (
                "--source json --target redis://h:1/0 --all-workspaces".to_owned(),
                0,
            ),
            (
                "--source ./odd:#1/x --target mongodb://u:hunter2@h/?w=1".to_owned(),
                1,
            ),
        ] {
            for more in [Vec::new(), all_flags()] {
                let flags = flags(&[words(&line), more].concat());
                let text = job_text(&flags, &environment).unwrap();
                assert!(!text.contains("hunter"), "{text}");
                assert_eq!(text.matches("# Set the variable ").count(), secrets, "{text}");
                let folder = tempfile::tempdir().unwrap();
                let file = folder.path().join("job.yaml");
                std::fs::write(&file, &text).unwrap();
                let job =
                    JobFile::read(&file, &environment).unwrap_or_else(|error| panic!("{error}\n{text}"));
                assert_eq!(
                    resolved(&Options::default(), &job, &environment),
                    resolved(&flags, &JobFile::default(), &environment),
                    "{text}"
                );
                // Every field that a flag gave is there.
                for (entry, _) in flags
                    .given()
                    .iter()
                    .filter(|(entry, _)| !matches!(entry.job, As(_)))
                {
                    let line = format!("{}:", entry.name());
                    assert!(
                        text.lines().any(|l| l.trim_start().starts_with(&line)),
                        "{line} {text}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_fields_that_are_not_set_can_be_uncommented() {
        let text = job_text(&Options::default(), &Environment::default()).unwrap();
        let (_, rest) = text.split_once("All other fields").unwrap();
        let uncommented: String = rest
            .lines()
            .skip(1)
            .filter(|line| !line.starts_with("#workspaces"))
            .map(|line| line[1..].to_owned() + "\n")
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("job.yaml");
        std::fs::write(&file, &uncommented).unwrap();
        let read = JobFile::read(&file, &Environment::default());
        read.unwrap_or_else(|error| panic!("{error}\n{uncommented}"));
        for entry in entries()
            .iter()
            .filter(|entry| !matches!(entry.job, As(_) | FlagOnly))
        {
            let field = format!("#{}", if entry.group().is_some() { "  " } else { "" });
            let line = rest
                .lines()
                .find(|line| line.starts_with(&format!("{field}{}:", entry.name())));
            let has_comment = line.is_some_and(|line| line.contains(" # ") || matches!(entry.job, Group));
            assert!(has_comment, "{}: {line:?}", entry.path);
        }
    }

    #[test]
    fn a_command_line_can_be_typed_again() {
        let line = "--source ./rag_storage --target redis://:hunter2@h/0 --workspace-map a=b --workspace-map c=d \
                    --types extract,summary --dry-run";
        let mut options = flags(&words(line));
        options.report = Some("it's here.json".into());
        assert_eq!(
            command_line(&options).join(" "),
            "migrate-llm-cache --source ./rag_storage --target \"redis://:${TARGET_PASSWORD}@h/0\" --workspace-map a=b \
             --workspace-map c=d --types extract,summary --dry-run --report 'it'\\''s here.json'"
        );
    }
}

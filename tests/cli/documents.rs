//! Checks README and example against the code, which their tables are generated from: `UPDATE_DOCS=1 cargo test --test cli
//! documents`.

use std::{collections::BTreeSet, fmt::Write as _};

use clap::{Arg, CommandFactory, builder::PossibleValue};
use migrate_llm_cache::{
    config::{Entry, JobField, Options, entries, parse_args},
    model::Field,
    report::event_schema,
    storage::{Connector, connectors},
};
use serde_json::{Value, json};

use crate::{
    scene::{CACHE, SAMPLE, Scene, value},
    support::place::copy_folder,
};

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
const OPERATION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/examples/README.md");
const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/examples");
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/migrate.example.yaml");

/// The line after which the example is made from the code.
const MADE: &str = "# (from here on made from the code: UPDATE_DOCS=1 cargo test --test cli documents)\n";

/// The introduction to the storages in the example.
const STORAGES: &str = "\
# All storages with all their fields, for use under `source:` and `target:`. A field that is left out is read from
# LightRAG's variable, if it has one. A field with two `#` has no fixed default: remove both and give it a value.";

#[test]
fn the_tables_of_the_documents_are_those_of_the_code() {
    let readme = vec![
        ("flags", flags()),
        ("storages", storages()),
        ("exit codes", exit_codes()),
    ];
    let operation = vec![
        ("events", events()),
        ("rejects", rejects()),
        ("metrics", metrics()),
    ];
    for (path, tables) in [(README, readme), (OPERATION, operation)] {
        let kept = std::fs::read_to_string(path).unwrap();
        let made = tables.iter().fold(kept.clone(), |text, (name, table)| {
            with_section(&text, name, table)
        });
        hold(path, &kept, &made);
    }
}

#[test]
fn the_readme_can_be_read_in_one_sitting() {
    let lines = std::fs::read_to_string(README).unwrap().lines().count();
    assert!(lines < 400, "README.md has {lines} lines");
}

#[test]
fn the_example_is_that_of_the_code() {
    let kept = std::fs::read_to_string(EXAMPLE).unwrap();
    let (head, _) = kept.split_once(MADE).expect("the mark");
    let mut made = format!("{head}{MADE}\n{}\n{STORAGES}\n", fields());
    for connector in connectors() {
        made.push_str(&example_of(*connector));
    }
    hold(EXAMPLE, &kept, &made);
}

#[test]
fn the_example_has_every_field_with_its_default() {
    let text = std::fs::read_to_string(EXAMPLE).unwrap();
    let (head, storages) = text.split_once(STORAGES).unwrap();
    let as_it_stands = parsed(head);
    // Text is `# like this`, a field `#like: this`.
    let uncommented: String = head
        .lines()
        .filter(|line| !line.starts_with("workspaces:"))
        .map(|line| match line.strip_prefix('#') {
            Some(field) if field.starts_with(|c: char| c.is_ascii_lowercase()) => field,
            _ => line,
        })
        .fold(String::new(), |text, line| text + line + "\n");
    let defaults = parsed(&uncommented);
    let named: BTreeSet<String> = uncommented
        .lines()
        .filter_map(|line| Some(line.split_once(':')?.0.to_owned()))
        .filter(|name| !name.starts_with(['#', ' ']))
        .collect();
    assert_eq!(named, job_fields(""), "the fields of the example");
    for key in ["source", "target", "types"] {
        assert_eq!(
            defaults[key], as_it_stands[key],
            "a default of the example is no default"
        );
    }
    for (name, default) in as_it_stands["options"].as_object().unwrap() {
        // What is not there by default stands there as an example.
        if !default.is_null() {
            assert_eq!(&defaults["options"][name], default, "the default of {name}");
        }
    }
    // Every field of every storage is taken, also those without a default.
    for block in storages.split("\n#target:").skip(1) {
        let block = block.lines().skip(1).take_while(|line| line.starts_with("#  "));
        let fields = block.map(|line| line.replacen("#  # ", "#  ", 1)[1..].to_owned() + "\n");
        let job = format!("source: json\ntarget:\n{}", fields.collect::<String>());
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), &job).unwrap();
        let scene = Scene::new();
        scene.file("job.yaml", &job);
        // What cannot be right in every value must not be wrong in any name.
        let run = variables(&job)
            .iter()
            .fold(
                scene.tool("--job job.yaml --dry-run --timeout 1s"),
                |tool, name| tool.env(name, "1"),
            )
            .run();
        assert!(!run.stdout.contains("unknown field"), "{job}\n{}", run.stdout);
    }
}

/// The plan of a job that is run dry in the repository's folder.
fn parsed(job: &str) -> Value {
    let scene = Scene::new();
    copy_folder(SAMPLE.as_ref(), &scene.path("tests/fixtures/sample/rag_storage"));
    scene.file("job.yaml", job);
    let run = scene
        .run("--job job.yaml --dry-run --allow-missing --output jsonl")
        .expect(0);
    run.events_of("plan").next().unwrap().clone()
}

/// The names in `${NAME}`.
fn variables(text: &str) -> Vec<&str> {
    text.split("${")
        .skip(1)
        .filter_map(|rest| rest.split('}').next())
        .collect()
}

#[test]
fn the_example_runs_as_it_stands() {
    let scene = Scene::new();
    copy_folder(SAMPLE.as_ref(), &scene.path("tests/fixtures/sample/rag_storage"));
    std::fs::copy(EXAMPLE, scene.path("migrate.example.yaml")).unwrap();
    let run = scene.run("--job migrate.example.yaml --yes").expect(0);
    let mut written = 0;
    for workspace in ["", "space1/", "space2/"] {
        let file = |folder: &str| scene.read(&format!("{folder}/rag_storage/{workspace}{CACHE}"));
        let (from, to) = (file("tests/fixtures/sample"), file("target/example"));
        for (key, value) in to.as_object().unwrap() {
            assert_eq!(value["return"], from[key]["return"], "{key}");
            written += 1;
        }
    }
    assert_eq!(run.total("written"), written);
}

/// Compares a document with what the code makes of it, or brings it up to date.
fn hold(path: &str, kept: &str, made: &str) {
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, made).unwrap();
        return;
    }
    let differs = kept.lines().zip(made.lines()).find(|(kept, made)| kept != made);
    assert!(
        kept == made,
        "{path} is not what the code says; run `UPDATE_DOCS=1 cargo test --test cli documents`. {differs:?}"
    );
}

/// Puts a table between its marks.
fn with_section(text: &str, name: &str, table: &str) -> String {
    let begin =
        format!("<!-- {name}: made from the code, UPDATE_DOCS=1 cargo test --test cli documents -->\n");
    let end = format!("<!-- /{name} -->");
    let (before, rest) = text
        .split_once(&begin)
        .unwrap_or_else(|| panic!("no mark for {name}"));
    let (_, after) = rest.split_once(&end).expect("its end");
    format!("{before}{begin}\n{}\n\n{end}{after}", table.trim())
}

/// A cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn code(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!("`{}`", cell(text))
    }
}

/// Every flag with its field of the job file.
fn flags() -> String {
    let command = Options::command();
    let mut text = "| flag | job file | meaning |\n|---|---|---|\n".to_owned();
    let mut heading = None;
    let mut fields = BTreeSet::new();
    for argument in command.get_arguments() {
        let Some(long) = argument.get_long() else { continue };
        if argument.get_help_heading() != heading {
            heading = argument.get_help_heading();
            let _ = writeln!(text, "| **{}** | | |", heading.unwrap_or_default());
        }
        let value = argument
            .get_value_names()
            .filter(|_| argument.get_action().takes_values())
            .map(|names| format!(" {}", names.join(" ")))
            .unwrap_or_default();
        let short = argument
            .get_short()
            .map(|short| format!("`-{short}` "))
            .unwrap_or_default();
        let field = job_field(argument.get_id().as_str());
        fields.insert(field.split(':').next().unwrap().to_owned());
        let choices: Vec<String> = choices(argument)
            .iter()
            .map(|value| {
                let help = value.get_help().map(ToString::to_string).unwrap_or_default();
                format!("`{}`: {}", value.get_name(), lower_first(&help))
            })
            .collect();
        let choices = if choices.is_empty() {
            String::new()
        } else {
            format!(": {}", choices.join("; "))
        };
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(
            text,
            "| {short}`--{long}{}` | {} | {}{} |",
            cell(&value),
            code(&field),
            cell(&help),
            cell(&choices)
        );
    }
    fields.remove("");
    let mut known = job_fields("");
    for group in ["batch", "lightrag"] {
        known.remove(group);
        known.extend(
            job_fields(group)
                .into_iter()
                .map(|name| format!("{group}.{name}")),
        );
    }
    // Fields that no flag sets.
    for name in ["lightrag.json_extraction", "lightrag.made_for"] {
        assert!(known.remove(name), "{name} is no field");
    }
    assert_eq!(fields, known, "fields of the job file, by flags and by the file");
    text
}

fn choices(argument: &Arg) -> Vec<PossibleValue> {
    if argument.get_action().takes_values() {
        argument.get_possible_values()
    } else {
        Vec::new()
    }
}

/// The field of the job file that does what a flag does.
fn job_field(argument: &str) -> String {
    let entry = entries().into_iter().find(|entry| entry.path == argument);
    let Some(entry) = entry else {
        panic!("{argument} is no entry of the table");
    };
    match entry.job {
        JobField::As(field) => field.to_owned(),
        JobField::FlagOnly => String::new(),
        _ => entry.path.to_owned(),
    }
}

/// The fields that the job file accepts, which serde lists for an unknown one.
fn job_fields(of: &str) -> BTreeSet<String> {
    let unknown = if of.is_empty() {
        "zzz: 1\n".to_owned()
    } else {
        format!("{of}: {{ zzz: 1 }}\n")
    };
    let error = serde_yaml::from_str::<Options>(&unknown).unwrap_err().to_string();
    let (_, known) = error.split_once("`zzz`").expect("an unknown field");
    known.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn storages() -> String {
    let mut text =
        "| job file | variable | `config.ini` | default | meaning |\n|---|---|---|---|---|\n".to_owned();
    for connector in connectors() {
        let schemes: Vec<String> = connector
            .schemes()
            .iter()
            .map(|scheme| format!("`{scheme}://`"))
            .collect();
        let places = if schemes.is_empty() {
            "a path".to_owned()
        } else {
            schemes.join(", ")
        };
        let _ = write!(text, "| **{}**: `kind: {}`", connector.title(), connector.kind());
        if let Some(class) = connector.info().class_name {
            let _ = write!(text, " or `{class}`");
        }
        let _ = write!(text, "; {places}");
        if let Some(variable) = connector.workspace_variable() {
            let _ = write!(text, "; workspace: `{variable}`");
        }
        let section = connector
            .ini_section()
            .map(|section| format!("`[{section}]`"))
            .unwrap_or_default();
        let _ = writeln!(text, " | | {section} | | |");
        for field in connector.fields() {
            let default = field.default.map(code).unwrap_or_default();
            let _ = writeln!(
                text,
                "| `{}` | {} | {} | {default} | {} |",
                field.name,
                variables_of(field),
                code(field.ini.unwrap_or_default()),
                cell(field.help)
            );
        }
    }
    text
}

/// The part of the example that shows the options.
fn fields() -> String {
    let mut text = String::new();
    let entries = entries();
    for entry in entries.iter().filter(|entry| !entry.path.contains('.')) {
        let (value, more) = match entry.job {
            JobField::DefaultsTo(value) | JobField::Sample(value) => (format!(" {value}"), ""),
            JobField::Shown { value, more } if value.starts_with('\n') => (value.to_owned(), more),
            JobField::Shown { value, more } => (format!(" {value}"), more),
            JobField::Group => (format!(" {{ {} }}", group(entry.path, &entries)), ""),
            JobField::As(_) | JobField::FlagOnly => continue,
        };
        let mark = match entry.job {
            JobField::Shown { .. } => "",
            _ => "#",
        };
        let comment = wrapped(&entry.description());
        let _ = write!(text, "{comment}{mark}{}:{value}\n{more}\n", entry.path);
    }
    text.trim_end().to_owned() + "\n"
}

/// The fields of a group, on one line.
fn group(path: &str, entries: &[&Entry]) -> String {
    let fields = entries.iter().filter_map(|entry| {
        let name = entry.path.strip_prefix(path)?.strip_prefix('.')?;
        match entry.job {
            JobField::DefaultsTo(value) | JobField::Sample(value) => Some(format!("{name}: {value}")),
            _ => None,
        }
    });
    fields.collect::<Vec<_>>().join(", ")
}

/// Text as lines of a comment.
fn wrapped(text: &str) -> String {
    const WIDTH: usize = 120;
    let mut lines = vec!["#".to_owned()];
    for word in text.split_whitespace() {
        if lines[lines.len() - 1].chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push("#".to_owned());
        }
        let line = lines.last_mut().unwrap();
        line.push(' ');
        line.push_str(word);
    }
    lines.join("\n") + "\n"
}

/// LightRAG's variable of a setting, and its client's.
fn variables_of(field: &Field) -> String {
    let names = [field.variable, field.client_variable];
    let names: Vec<String> = names.into_iter().flatten().map(code).collect();
    names.join(", else ")
}

/// The part of the example that shows a storage.
fn example_of(connector: &dyn Connector) -> String {
    let mut text = format!(
        "\n# {}\n#target:\n#  kind: {}\n",
        connector.title(),
        connector.kind()
    );
    for field in connector.fields() {
        let line = format!("{}{}: {}", mark(field), field.name, example_value(field));
        let variable = field.variable.map(|name| format!("{name}: ")).unwrap_or_default();
        let _ = writeln!(text, "#  {line:<40} # {variable}{}", field.help);
    }
    text
}

fn mark(field: &Field) -> &'static str {
    if field.default.is_some() { "" } else { "# " }
}

fn example_value(field: &Field) -> String {
    match (field.default, field.variable) {
        (Some(default), _) => yaml(default),
        (None, Some(variable)) => format!("\"${{{variable}}}\""),
        (None, None) => "…".to_owned(),
    }
}

/// A text that YAML reads as it is.
fn yaml(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "./_-".contains(c);
    if text.chars().all(plain) && !text.is_empty() {
        text.to_owned()
    } else {
        format!("\"{text}\"")
    }
}

/// The codes with what the code says of them.
fn exit_codes() -> String {
    let source = include_str!("../../src/model/exit_code.rs");
    let mut text = String::from("| code | meaning |\n|---|---|\n");
    let mut meaning = String::new();
    for line in source.lines().map(str::trim) {
        if let Some(comment) = line.strip_prefix("/// ") {
            meaning.push_str(comment);
        } else if let Some((_, number)) = line.trim_end_matches(',').split_once(" = ")
            && number.parse::<u8>().is_ok()
        {
            let _ = writeln!(text, "| {number} | {} |", cell(meaning.trim_end_matches('.')));
            meaning.clear();
        } else {
            meaning.clear();
        }
    }
    text
}

fn events() -> String {
    let schema = event_schema();
    let schema = schema.as_value();
    let common: BTreeSet<&String> = schema["properties"].as_object().unwrap().keys().collect();
    let mut text = String::from("| event | meaning | fields |\n|---|---|---|\n");
    for event in schema["oneOf"].as_array().unwrap() {
        let of = event["$ref"].as_str().unwrap().rsplit('/').next().unwrap();
        // An event may have none of its own.
        let fields: Vec<String> = schema["$defs"][of]["properties"]
            .as_object()
            .into_iter()
            .flat_map(|properties| properties.keys())
            .filter(|name| !common.contains(name))
            .map(|name| code(name))
            .collect();
        let _ = writeln!(
            text,
            "| {} | {} | {} |",
            code(event["properties"]["event"]["const"].as_str().unwrap()),
            cell(event["description"].as_str().unwrap().trim_end_matches('.')),
            fields.join(" ")
        );
    }
    text
}

fn rejects() -> String {
    let schema = event_schema();
    let kinds = schema.as_value()["$defs"]["RejectKind"]["oneOf"]
        .as_array()
        .unwrap()
        .clone();
    let mut text = String::from("| kind | meaning |\n|---|---|\n");
    for kind in kinds {
        let _ = writeln!(
            text,
            "| {} | {} |",
            code(kind["const"].as_str().unwrap()),
            cell(kind["description"].as_str().unwrap().trim_end_matches('.'))
        );
    }
    text
}

/// Name, labels and help of every metric, from the file of a run that has them all.
fn metrics() -> String {
    let scene = Scene::new();
    scene.cache(
        "odd",
        &json!({"default:extract:1": value("x"), "default:extract:2": 7}),
    );
    // The file of a run also says when one last succeeded.
    scene
        .run("--source ./rag_storage --target ./new --yes --metrics m.prom")
        .expect(0);
    scene
        .run("--source ./odd --target ./new --shard 0/1 --yes --verify full --metrics m.prom")
        .expect(3);
    let file = std::fs::read_to_string(scene.path("m.prom")).unwrap();
    let mut text = String::from("| metric | labels besides `migration` | meaning |\n|---|---|---|\n");
    let mut help = "";
    let mut told = "";
    for line in file.lines() {
        if let Some((_, rest)) = line.strip_prefix("# HELP ").and_then(|line| line.split_once(' ')) {
            help = rest;
        } else if let Some((name, labels)) = line.split_once('{')
            && name != told
        {
            told = name;
            // Every value is followed by the next name.
            let labels: Vec<String> = labels
                .split("=\"")
                .filter_map(|part| part.rsplit([',', '{']).next())
                .filter(|name| *name != "migration" && !name.contains('"'))
                .map(code)
                .collect();
            let _ = writeln!(
                text,
                "| {} | {} | {} |",
                code(name),
                labels.join(" "),
                cell(help.trim_end_matches('.'))
            );
        }
    }
    text
}

fn lower_first(text: &str) -> String {
    let mut characters = text.chars();
    let Some(first) = characters.next() else {
        return String::new();
    };
    let rest = characters.as_str();
    // `JSON` stays as it is.
    if rest.starts_with(char::is_uppercase) {
        return text.to_owned();
    }
    first.to_lowercase().chain(rest.chars()).collect()
}

/// Every command that the README tells to type can be read.
#[test]
fn the_commands_of_the_readme_and_of_the_examples_are_understood() {
    let mut text = std::fs::read_to_string(README).unwrap();
    for file in std::fs::read_dir(EXAMPLES).unwrap() {
        text.push_str(&std::fs::read_to_string(file.unwrap().path()).unwrap());
    }
    let commands = text.lines().filter_map(|line| {
        let (_, command) = line
            .trim_start_matches("run() { ")
            .split_once("migrate-llm-cache --")?;
        let end = command.find([';', '|', '>', '#']).unwrap_or(command.len());
        let end = command
            .find(" 2>")
            .map_or(end, |redirection| redirection.min(end));
        Some(format!("migrate-llm-cache --{}", &command[..end]))
    });
    let mut number = 0;
    for command in commands {
        let arguments = command.split_whitespace().map(Into::into);
        if let Err(error) = parse_args(arguments) {
            panic!("{command}: {error}");
        }
        number += 1;
    }
    assert!(number > 15, "{number} commands");
}

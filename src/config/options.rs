//! The table of all options: each a flag, a field of the job file, or both.
//!
//! # Adding a flag
//! 1. Add an entry to the table below, where `--help` should list it. Its doc comment is the help text, also in the
//!    README and in migrate.example.yaml; end it with `[default: …]` if there is a default. `#[arg]` is clap's, the other
//!    attributes are serde's, as on any struct. The part after `=` says what migrate.example.yaml shows ([`JobField`]).
//!
//!    ```text
//!    /// Time limit for connecting and for each request [default: 60s]
//!    #[arg(long, value_name = "DUR", help_heading = HOW)]
//!    pub timeout: Option<Text<Duration>> = DefaultsTo("60s");
//!    ```
//!
//!    The type says how the value is read ([`Text`] if the error message quotes the text, an enum with `ValueEnum` and
//!    `Deserialize`, a path). A flag without a value is a `bool` with `#[serde(deserialize_with = "switch")]`.
//!    An entry of a group (`batch.records`) names its flag and its path: `#[arg(long = "batch-size", id = "batch.records")]`.
//! 2. Use the value: usually one line in `Settings::resolve`.
//! 3. Run `UPDATE_DOCS=1 cargo test --test cli -- documents` and `INSTA_UPDATE=always cargo test --test cli`, and read the
//!    diff of README, example, help and man page.
//!
//! Parsing, merging (flag > job file > default), the origin in errors, the strictness of the job file and the documents follow
//! from the entry.

use std::{collections::BTreeMap, num::NonZeroUsize, path::PathBuf, sync::LazyLock, time::Duration};

use clap::{Arg, CommandFactory, Parser, ValueHint};
use serde::Deserialize;
use serde_json::Value as Json;
use serde_yaml::Mapping;

use self::JobField::{As, DefaultsTo, FlagOnly, Group, Sample, Shown};
use super::{
    Color, OutputFormat,
    cli::{EXAMPLES, EXIT_CODES, STORAGES},
    generate::Generate,
    schema,
    value::{
        BatchBytes, Given, ListSpec, Scalar, Setting, ShardSpec, StorageSpec, Text, Visitor, WorkspacesSpec,
        or_default, switch,
    },
};
use crate::{
    model::{
        Error, ErrorKind, MaxErrors, OnConflict, Origin, PushUrl, RateLimit, Rekey, Result, Side,
        VerifyLevel, record::OnInvalid,
    },
    report::logging::LogFormat,
};

const WHAT: &str = "What";
const HITS: &str = "Hits";
const HOW: &str = "How";
const OUTPUT: &str = "Output";

/// The job file's field for an entry of the table, and how migrate.example.yaml shows it. Texts are YAML.
#[derive(Clone, Copy, Debug)]
pub enum JobField {
    /// A field with this default; shown as a comment.
    DefaultsTo(&'static str),
    /// A field without a fixed default; this value is shown as a comment.
    Sample(&'static str),
    /// A field that the example sets, and more lines after it.
    Shown {
        /// What the example sets it to.
        value: &'static str,
        /// Lines that follow.
        more: &'static str,
    },
    /// A field with fields of its own.
    Group,
    /// No field of this name: another field, written like this, has the same effect.
    As(&'static str),
    /// No field: only the command line has it.
    FlagOnly,
}

/// An entry of the table.
#[derive(Debug)]
pub struct Entry {
    /// The path in the job file, also the identifier of clap's argument: `batch.records`.
    pub path: &'static str,
    /// Its field in the job file.
    pub job: JobField,
    /// Sentences that the example adds to the help text; the only text of an entry without a flag.
    pub note: &'static str,
    /// Makes the JSON Schema of the field, without description.
    pub(super) schema: fn() -> Json,
}

impl Entry {
    /// The name in its group: `records` for `batch.records`.
    pub(super) fn name(&self) -> &'static str {
        self.path.rsplit_once('.').map_or(self.path, |(_, name)| name)
    }

    /// The group that it belongs to: `batch` for `batch.records`.
    pub(super) fn group(&self) -> Option<&'static str> {
        self.path.split_once('.').map(|(group, _)| group)
    }

    /// What the field is for and what it can be: the help text without its default, and the possible values; the note if it
    /// has no help text.
    pub(super) fn summary(&self) -> String {
        let Some(flag) = FLAGS.get(self.path) else {
            return self.note.to_owned();
        };
        match flag.choices.join(", ").as_str() {
            "" => format!("{}.", flag.help),
            choices => format!("{}. One of {choices}.", flag.help),
        }
    }

    /// The summary and the note.
    pub fn description(&self) -> String {
        let summary = self.summary();
        if self.note.is_empty() || self.note == summary {
            return summary;
        }
        format!("{summary} {}", self.note)
    }
}

macro_rules! options {
    ($(
        $(#[$outer:meta])*
        pub struct $name:ident under $prefix:literal {
            $(
                $(#[$meta:meta])*
                pub $field:ident: $type:ty = $job:expr $(, note $note:literal)?;
            )*
        }
    )*) => {$(
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        $(#[$outer])*
        pub struct $name { $( $(#[$meta])* pub $field: $type, )* }

        impl $name {
            const TABLE: &'static [Entry] = &[$(
                Entry {
                    path: concat!($prefix, stringify!($field)),
                    job: $job,
                    note: concat!($($note)?),
                    schema: <$type as Setting>::schema,
                },
            )*];
        }

        impl Setting for $name {
            fn over(self, lower: Self) -> Self {
                Self { $( $field: self.$field.over(lower.$field), )* }
            }

            fn visit(&mut self, own: &'static Entry, visitor: &mut Visitor<'_>) {
                if matches!(own.job, Group) {
                    visitor(own, None);
                }
                let mut table = Self::TABLE.iter();
                $( table.next().map(|entry| self.$field.visit(entry, visitor)); )*
            }

            fn collect(&self, _: &'static Entry, given: &mut Vec<Given>) {
                let mut table = Self::TABLE.iter();
                $( table.next().map(|entry| self.$field.collect(entry, given)); )*
            }

            fn schema() -> Json {
                schema::group(Self::TABLE)
            }
        }
    )*};
}

options! {
    /// The options given by flags or by the job file. An option that was not given is `None` or `false`.
    #[derive(Parser)]
    #[serde(expecting = "fields such as `source:` and `target:`")]
    #[command(
        name = "migrate-llm-cache",
        version,
        about = "Copies LightRAG's LLM response cache between JSON files, Redis, PostgreSQL, MongoDB, OpenSearch and archives",
        long_about = "Copies LightRAG's LLM response cache between JSON files, Redis, PostgreSQL, MongoDB, OpenSearch and \
                      archive files. Never changes the source, never prompts unless --interactive is given, and writes to \
                      the target only with --yes.",
        after_help = "Add --help for examples and exit codes.",
        after_long_help = format!("Examples:\n{EXAMPLES}\n\n{STORAGES}\n\nExit codes:\n{EXIT_CODES}"),
        max_term_width = 110
    )]
    pub struct Options under "" {
        /// Job file (YAML) with any of these settings; flags override it
        #[serde(skip)]
        #[arg(long, value_name = "FILE", help_heading = WHAT, value_hint = ValueHint::FilePath)]
        pub job: Option<PathBuf> = FlagOnly;

        /// Storage to read: a kind or an address
        #[arg(long, value_name = "STORAGE", help_heading = WHAT, value_hint = ValueHint::AnyPath)]
        pub source: Option<StorageSpec> = Shown {
            value: "\n  kind: json\n  working_dir: ./tests/fixtures/sample/rag_storage",
            more: "",
        }, note "As text, or as a mapping with `kind` or `uri` and the storage's own fields, which are listed at the end \
                 of migrate.example.yaml. Fields that are left out are read from LightRAG's environment, .env or config.ini.";

        /// Storage to write: a kind or an address
        #[arg(long, value_name = "STORAGE", help_heading = WHAT, value_hint = ValueHint::AnyPath)]
        pub target: Option<StorageSpec> = Shown {
            value: "\n  kind: json\n  working_dir: ./target/example/rag_storage",
            more: "",
        };

        /// Workspace on both sides
        #[serde(skip)]
        #[arg(long, value_name = "NAME", help_heading = WHAT, conflicts_with_all = ["workspace_map", "all_workspaces"])]
        pub workspace: Option<String> = As("workspaces: NAME");

        /// Workspace to read; overrides --workspace
        #[serde(skip)]
        #[arg(long, value_name = "NAME", help_heading = WHAT, conflicts_with_all = ["workspace_map", "all_workspaces"])]
        pub source_workspace: Option<String> = As("workspaces: [{ from: A, to: B }]");

        /// Workspace to write; overrides --workspace
        #[serde(skip)]
        #[arg(long, value_name = "NAME", help_heading = WHAT, conflicts_with_all = ["workspace_map", "all_workspaces"])]
        pub target_workspace: Option<String> = As("workspaces: [{ from: A, to: B }]");

        /// Move workspace FROM to workspace TO; can be repeated
        #[serde(skip)]
        #[arg(long, value_name = "FROM=TO", help_heading = WHAT, conflicts_with = "all_workspaces")]
        pub workspace_map: Vec<String> = As("workspaces: [{ from: A, to: B }]");

        /// Move every workspace of the source, under the same name
        #[serde(skip)]
        #[arg(long, help_heading = WHAT)]
        pub all_workspaces: bool = As("workspaces: all");

        /// Which workspaces, as the job file says it.
        #[arg(skip)]
        pub workspaces: Option<WorkspacesSpec> = Shown {
            value: "all",
            more: "#workspaces: [space1, { from: staging, to: production }]\n",
        }, note "Workspaces to move: a name, a list of names and of { from: …, to: … }, or `all`. By default the one that \
                 LightRAG's environment names, or else the unnamed workspace.";

        /// Cache types to move, separated by commas: `default` (everything made from documents), `all` (every record), or
        /// names such as extract, summary, query [default: default]
        #[arg(long, value_name = "LIST", help_heading = WHAT)]
        pub types: Option<ListSpec> = DefaultsTo("[default]"),
            note "`default` includes types that later versions of LightRAG add, but not answers to queries (query, keywords).";

        /// Move only shard I of N (numbered from 0), or `auto`: the shard of this Kubernetes, Slurm or AWS Batch task
        #[arg(long, value_name = "I/N|auto", help_heading = WHAT, allow_negative_numbers = true)]
        pub shard: Option<Text<ShardSpec>> = Sample("0/1"), note "N runs, each with a different I, move everything. Everything by default.";

        /// Add up the reports (--report) of all shards instead of moving anything
        #[serde(skip)]
        #[arg(long, value_name = "FILE", help_heading = WHAT, num_args = 1.., value_hint = ValueHint::FilePath,
              conflicts_with_all = ["source", "target", "shard", "job"])]
        pub merge_reports: Vec<PathBuf> = FlagOnly;

        /// Count the records that LightRAG will use, and show which models the others were made for
        #[serde(deserialize_with = "switch")]
        #[arg(long, help_heading = HITS)]
        pub hits: bool = DefaultsTo("false");

        /// Add copies of records under the keys that LightRAG will look up [default: off]
        #[arg(long, value_name = "WHAT", help_heading = HITS)]
        pub rekey: Option<Rekey> = DefaultsTo("off"),
            note "A copy never replaces an existing record, whatever `on_conflict` says, and the original stays.";

        /// The LightRAG that will read the cache.
        #[serde(deserialize_with = "or_default")]
        #[command(flatten)]
        pub lightrag: LightRagOptions = Group,
            note "The LightRAG that will read the cache, for `hits` and `rekey`. Fields that are left out are read from \
                  LightRAG's environment or .env. Use `binding: library` for a program that uses LightRAG without its \
                  server. `json_extraction` says whether it extracts entities as JSON. `made_for` lists other models and \
                  hosts that the cache may have been made for.";

        /// Connect, check and count both sides without writing anything
        #[serde(deserialize_with = "switch")]
        #[arg(long, help_heading = HOW)]
        pub dry_run: bool = DefaultsTo("false");

        /// Write to the target. Without it, a move ends with exit code 2 before it writes; --interactive asks instead
        #[serde(deserialize_with = "switch")]
        #[arg(long, help_heading = HOW)]
        pub yes: bool = DefaultsTo("false");

        /// Guided mode: ask for the source, the target and a confirmation unless they are given
        #[serde(deserialize_with = "switch")]
        #[arg(long, help_heading = HOW)]
        pub interactive: bool = DefaultsTo("false"), note "Needs a terminal, so it is not for cron.";

        /// What to do with a record whose key already exists on the target [default: overwrite]
        #[arg(long, value_name = "POLICY", help_heading = HOW)]
        pub on_conflict: Option<OnConflict> = DefaultsTo("overwrite");

        /// What to do with a record that the target can store only without certain characters (NUL, lone surrogates)
        /// [default: reject]
        #[arg(long, value_name = "POLICY", help_heading = HOW)]
        pub on_invalid: Option<OnInvalid> = DefaultsTo("reject");

        /// The limits of a batch.
        #[serde(deserialize_with = "or_default")]
        #[command(flatten)]
        pub batch: BatchOptions = Group,
            note "A batch is full when it reaches either limit. The default for `bytes` is what the target writes fastest: \
                  384KiB for Redis, 512KiB for JSON, 1MiB for PostgreSQL and MongoDB, 2MiB for OpenSearch. Larger \
                  batches need more memory.";

        /// Maximum number of batches written at the same time; fewer are used if the target is fast enough [default: 16]
        #[arg(long, value_name = "N", help_heading = HOW, allow_negative_numbers = true)]
        pub concurrency: Option<Text<NonZeroUsize>> = DefaultsTo("16");

        /// Maximum rate of writing: records per second (1000/s) or bytes per second (20MiB/s); counts and verification are
        /// not limited
        #[arg(long, value_name = "RATE", help_heading = HOW, allow_negative_numbers = true)]
        pub rate_limit: Option<Text<RateLimit>> = Sample("20MiB/s"), note "No limit by default.";

        /// Time limit for connecting and for each request [default: 60s]
        #[arg(long, value_name = "DUR", help_heading = HOW, allow_negative_numbers = true)]
        pub timeout: Option<Text<Duration>> = DefaultsTo("60s");

        /// How often to retry a request that failed temporarily [default: 5]
        #[arg(long, value_name = "N", help_heading = HOW, allow_negative_numbers = true)]
        pub retries: Option<Text<usize>> = DefaultsTo("5");

        /// Stop after this time (exit code 8); can be resumed
        #[arg(long, value_name = "DUR", help_heading = HOW, allow_negative_numbers = true)]
        pub max_duration: Option<Text<Duration>> = Sample("2h"), note "No limit by default.";

        /// Stop (exit code 7) when more than N records, or more than N% of the selected records, are rejected
        #[arg(long, value_name = "N|N%", help_heading = HOW, allow_negative_numbers = true)]
        pub max_errors: Option<Text<MaxErrors>> = Sample("5%"), note "No limit by default.";

        /// Compare the target with the source after the move, field by field [default: read-back]
        #[arg(long, value_name = "LEVEL", help_heading = HOW)]
        pub verify: Option<VerifyLevel> = DefaultsTo("read-back");

        /// Compare the target with the source without writing anything
        #[serde(deserialize_with = "switch")]
        #[arg(long, help_heading = HOW, conflicts_with = "dry_run")]
        pub verify_only: bool = DefaultsTo("false");

        /// File in which progress is saved
        #[arg(long, value_name = "FILE", help_heading = HOW, value_hint = ValueHint::FilePath)]
        pub checkpoint: Option<PathBuf> = Sample("./migrate.checkpoint"), note "None by default.";

        /// Resume from the checkpoint
        #[serde(deserialize_with = "switch")]
        #[arg(long, help_heading = HOW)]
        pub resume: bool = DefaultsTo("false");

        /// File for rejected records (JSON lines); a later run can read it as --source
        #[arg(long, value_name = "FILE", help_heading = HOW, value_hint = ValueHint::FilePath)]
        pub rejects: Option<PathBuf> = Sample("./migrate.rejects.jsonl"), note "None by default.";

        /// File for the differences between source and target (JSON lines): each key with the fields that differ
        #[arg(long, value_name = "FILE", help_heading = HOW, value_hint = ValueHint::FilePath)]
        pub differences: Option<PathBuf> = Sample("./migrate.differences.jsonl"), note "None by default.";

        /// Move the intact records of a damaged JSON file or archive; what is damaged is skipped and reported
        #[serde(deserialize_with = "switch")]
        #[arg(long, help_heading = HOW)]
        pub salvage: bool = DefaultsTo("false");

        /// Exit with code 9 if there is nothing to migrate
        #[serde(deserialize_with = "switch")]
        #[arg(long, help_heading = HOW)]
        pub fail_on_empty: bool = DefaultsTo("false");

        /// Accept a workspace that does not exist in the source instead of exiting with code 9
        #[serde(deserialize_with = "switch")]
        #[arg(long, help_heading = HOW)]
        pub allow_missing: bool = DefaultsTo("false");

        /// What to print [default: auto]
        #[arg(long, value_name = "FORMAT", help_heading = OUTPUT)]
        pub output: Option<OutputFormat> = DefaultsTo("auto");

        /// File for the final report (JSON), replaced atomically
        #[arg(long, value_name = "FILE", help_heading = OUTPUT, value_hint = ValueHint::FilePath)]
        pub report: Option<PathBuf> = Sample("./migrate.report.json"), note "None by default.";

        /// File for metrics of the run (Prometheus text format), replaced atomically
        #[arg(long, value_name = "FILE", help_heading = OUTPUT, value_hint = ValueHint::FilePath)]
        pub metrics: Option<PathBuf> = Sample("./migrate.prom"), note "None by default.";

        /// Prometheus Pushgateway to send these metrics to
        #[arg(long, value_name = "URL", help_heading = OUTPUT, value_hint = ValueHint::Url)]
        pub metrics_push: Option<Text<PushUrl>> = Sample("\"http://pushgateway:9091\""),
            note "None by default. The metrics replace those of the group `job/migrate-llm-cache`, and with `shard` \
                  `job/migrate-llm-cache/shard/I-N`. Another path names another group: `…/metrics/job/NAME/LABEL/VALUE`.";

        /// What to log to standard error: off, error, warn, info, debug, trace, or a filter as in RUST_LOG [default: warn]
        #[arg(long, value_name = "LEVEL", help_heading = OUTPUT)]
        pub log_level: Option<String> = Sample("warn");

        /// Format of the log; `json` logs errors too [default: text]
        #[arg(long, value_name = "FORMAT", help_heading = OUTPUT)]
        pub log_format: Option<LogFormat> = DefaultsTo("text");

        /// Print only errors on standard error; JSON lines on standard output are not affected
        #[serde(deserialize_with = "switch")]
        #[arg(long, short, help_heading = OUTPUT)]
        pub quiet: bool = DefaultsTo("false");

        /// When to use color [default: auto]
        #[arg(long, value_name = "WHEN", help_heading = OUTPUT)]
        pub color: Option<Color> = DefaultsTo("auto");

        /// Print shell completions, the man page, a job file or its schema and exit
        #[serde(skip)]
        #[arg(long, value_name = "WHAT", help_heading = OUTPUT)]
        pub generate: Option<Generate> = FlagOnly;
    }

    /// The limits of a batch.
    #[derive(clap::Args)]
    pub struct BatchOptions under "batch." {
        /// Records per batch [default: 1000]
        #[arg(long = "batch-size", id = "batch.records", value_name = "N", help_heading = HOW, allow_negative_numbers = true)]
        pub records: Option<Text<NonZeroUsize>> = DefaultsTo("1000");

        /// Bytes per batch, from 1KiB to 1GiB [default: what the target writes fastest, 384KiB to 2MiB]
        #[arg(long = "batch-bytes", id = "batch.bytes", value_name = "SIZE", help_heading = HOW, allow_negative_numbers = true)]
        pub bytes: Option<Text<BatchBytes>> = Sample("512KiB");
    }

    /// The LightRAG that will read the cache.
    #[derive(clap::Args)]
    pub struct LightRagOptions under "lightrag." {
        /// Binding that LightRAG extracts with, such as openai or ollama; `library` for a program that uses LightRAG without
        /// its server [default: LightRAG's own configuration]
        #[arg(long = "llm-binding", id = "lightrag.binding", value_name = "NAME", help_heading = HITS)]
        pub binding: Option<Text<String>> = Sample("ollama");

        /// Model that LightRAG extracts with [default: LightRAG's own configuration]
        #[arg(long = "llm-model", id = "lightrag.model", value_name = "NAME", help_heading = HITS)]
        pub model: Option<Text<String>> = Sample("\"mistral-nemo:latest\"");

        /// Address of that model, as in LightRAG's configuration [default: LightRAG's own configuration]
        #[arg(long = "llm-host", id = "lightrag.host", value_name = "URL", help_heading = HITS)]
        pub host: Option<Text<String>> = Sample("\"http://localhost:11434\"");

        /// LightRAG release that will read the cache [default: the newest known]
        #[arg(long = "lightrag-version", id = "lightrag.version", value_name = "RELEASE", help_heading = HITS)]
        pub version: Option<Text<String>> = Sample("1.5.7");

        /// Whether this LightRAG extracts entities as JSON.
        #[arg(skip)]
        pub json_extraction: Option<Scalar<bool>> = Sample("false"), note "Whether this LightRAG extracts entities as JSON.";

        /// Models that the keys of the cache may have been made for, in addition to the configured one.
        #[arg(skip)]
        pub made_for: Vec<IdentitySpec> = Sample("[{ host: \"http://ollama:11434\" }]"),
            note "Further models that the cache may have been made for.";
    }

    /// A model that keys may have been made for.
    pub struct IdentitySpec under "lightrag.made_for." {
        /// Such as `openai` or `ollama`; any if absent.
        pub binding: Option<Text<String>> = Sample("ollama"), note "Binding that LightRAG extracted with.";

        /// The name that LightRAG passes to the binding; any if absent.
        pub model: Option<Text<String>> = Sample("\"mistral-nemo:latest\""), note "Model that LightRAG extracted with.";

        /// As in LightRAG's configuration; any if absent.
        pub host: Option<Text<String>> = Sample("\"http://ollama:11434\""), note "Address of that model.";
    }
}

/// The flag of an entry.
struct Flag {
    /// `--batch-size`.
    name: String,
    /// The help text, without its default.
    help: String,
    /// The values that it can have, if they can be listed.
    choices: Vec<String>,
}

impl Flag {
    fn of(argument: &Arg) -> Option<Self> {
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        let choices = match argument.get_action().takes_values() {
            true => argument.get_possible_values(),
            false => Vec::new(),
        };
        Some(Self {
            name: format!("--{}", argument.get_long()?),
            help: help.split(" [default: ").next().unwrap_or_default().to_owned(),
            choices: choices.iter().map(|value| value.get_name().to_owned()).collect(),
        })
    }
}

/// The flag of each entry that has one, by the entry's path.
static FLAGS: LazyLock<BTreeMap<String, Flag>> = LazyLock::new(|| {
    let command = Options::command();
    let flags = command
        .get_arguments()
        .filter_map(|argument| Some((argument.get_id().to_string(), Flag::of(argument)?)));
    flags.collect()
});

/// Every flag: `--source`, `--target`, …
pub(super) fn flag_names() -> impl Iterator<Item = &'static str> {
    FLAGS.values().map(|flag| flag.name.as_str())
}

/// The flag of an entry, if it has one.
pub(super) fn flag_of(entry: &Entry) -> Option<&'static str> {
    FLAGS.get(entry.path).map(|flag| flag.name.as_str())
}

/// How the job file writes the setting of a flag, by the flag's name with `-` or `_`: `batch: { records: … }` for
/// `batch_size`. `None` if there is no such flag, or no field for it.
pub(super) fn field_of_flag(name: &str) -> Option<String> {
    let flag = format!("--{}", name.replace('_', "-"));
    let (path, _) = FLAGS.iter().find(|(_, known)| known.name == flag)?;
    let entry = entries().into_iter().find(|entry| entry.path == path)?;
    Some(match (entry.job, path.split_once('.')) {
        (FlagOnly, _) => return None,
        (As(field), _) => field.to_owned(),
        (_, Some((group, field))) => format!("{group}: {{ {field}: … }}"),
        (_, None) => format!("{path}: …"),
    })
}

/// The flag of a job file's field that was written as a flag: `--batch-size` for `--batch-records`.
pub(super) fn flag_of_field(argument: &str) -> Option<&'static str> {
    let path = argument.strip_prefix("--")?.replace(['-', '_'], ".");
    let is_meant = |known: &str| known.replace('_', ".") == path;
    let (_, flag) = FLAGS.iter().find(|(known, _)| is_meant(known))?;
    Some(flag.name.as_str())
}

/// The whole table, in the order of `--help`.
pub fn entries() -> Vec<&'static Entry> {
    let mut entries = Vec::new();
    Options::default().each(&mut |entry, _| entries.push(entry));
    entries
}

/// The entry of the table itself.
const ROOT: &Entry = &Entry {
    path: "",
    job: FlagOnly,
    note: "",
    schema: <Options as Setting>::schema,
};

impl Options {
    /// The options of a command line with nothing but `--source` or `--target`.
    pub fn naming(side: Side, text: &str) -> Self {
        let spec = Some(StorageSpec::from(text.to_owned()));
        match side {
            Side::Source => Self {
                source: spec,
                ..Self::default()
            },
            Side::Target => Self {
                target: spec,
                ..Self::default()
            },
        }
    }

    /// The storage given for a side, if any.
    pub fn storage(&self, side: Side) -> Option<&StorageSpec> {
        match side {
            Side::Source => self.source.as_ref(),
            Side::Target => self.target.as_ref(),
        }
    }

    /// Records that all values came from flags.
    pub(super) fn given_by_flags(mut self) -> Self {
        self.set_origins(&|path| Origin::Flag(FLAGS.get(path).map_or("", |flag| flag.name.as_str())));
        self
    }

    /// Records where each value came from, by its path.
    pub(super) fn set_origins(&mut self, of: &dyn Fn(&'static str) -> Origin) {
        self.each(&mut |entry, origin| {
            if let Some(origin) = origin {
                *origin = of(entry.path);
            }
        });
    }

    /// The defaults of the table.
    ///
    /// # Errors
    /// A default is not valid for its field: a bug, which a test finds.
    pub(super) fn defaults() -> Result<Self> {
        let wrong =
            |error| Error::new(ErrorKind::Internal, "a default in the table of options").caused_by(error);
        let mut tree = Mapping::new();
        for entry in entries() {
            if let DefaultsTo(text) = entry.job {
                let value: serde_yaml::Value = serde_yaml::from_str(text).map_err(wrong)?;
                let (group, name) = entry.path.split_once('.').unwrap_or(("", entry.path));
                let fields = match group {
                    "" => &mut tree,
                    group => match tree.entry(group.into()).or_insert_with(|| Mapping::new().into()) {
                        serde_yaml::Value::Mapping(fields) => fields,
                        _ => continue,
                    },
                };
                fields.insert(name.into(), value);
            }
        }
        serde_yaml::from_value(tree.into()).map_err(wrong)
    }

    fn each(&mut self, visitor: &mut Visitor<'_>) {
        self.visit(ROOT, visitor);
    }

    /// The values that are set, in the order of the table, as the job file writes them. Those of the job file that no flag
    /// can give are left out.
    pub(super) fn given(&self) -> Vec<Given> {
        let mut given = Vec::new();
        self.collect(ROOT, &mut given);
        given
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::value::parsed;

    #[test]
    fn every_flag_is_in_the_table() {
        let paths: BTreeSet<&str> = entries().iter().map(|entry| entry.path).collect();
        for path in FLAGS.keys() {
            assert!(paths.contains(path.as_str()), "{path}");
        }
    }

    #[test]
    fn every_default_is_valid_and_matches_the_help() {
        Options::defaults().unwrap();
        let command = Options::command();
        for entry in entries() {
            let argument = command
                .get_arguments()
                .find(|argument| argument.get_id() == entry.path);
            let help = argument
                .and_then(|argument| argument.get_help())
                .map(ToString::to_string);
            let stated = help.as_deref().and_then(|help| help.split_once(" [default: "));
            if let (DefaultsTo(default), Some((_, stated))) = (entry.job, stated) {
                assert_eq!(
                    default.trim_matches(['[', ']']),
                    stated.trim_end_matches(']'),
                    "{}",
                    entry.path
                );
            }
        }
    }

    #[test]
    fn a_flag_overrides_the_job_file_and_the_job_file_the_default() {
        fn text<T>(text: &str) -> Option<Text<T>> {
            Some(Text::from(text.to_owned()))
        }
        let flags = Options {
            retries: text("1"),
            ..Options::default()
        };
        let job = Options {
            retries: text("2"),
            concurrency: text("3"),
            salvage: true,
            ..Options::default()
        };
        let options = flags.over(job).over(Options::defaults().unwrap());
        assert_eq!(parsed(options.retries).unwrap().unwrap(), 1);
        assert_eq!(parsed(options.concurrency).unwrap().unwrap().get(), 3);
        assert_eq!(parsed(options.timeout).unwrap().unwrap(), Duration::from_secs(60));
        assert!(options.salvage);
    }
}

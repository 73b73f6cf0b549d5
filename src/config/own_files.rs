//! The files that a run writes beside the target, and a check that none of them is another file that the run uses.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use serde_yaml::Value as Yaml;

use super::{CONFIG_INI, DOT_ENV, Environment, JobFile, Options, StorageSpec, resolve::given};
use crate::{
    model::{Error, ErrorKind, Result, Side},
    report::Reporter,
    storage::Endpoint,
    system::{FileIdentity, atomic_file},
};

const REPORT: &str = "--report";
const METRICS: &str = "--metrics";
const CHECKPOINT: &str = "--checkpoint";

/// The files that a run writes beside the target, and the other files that it uses.
#[derive(Debug, Default)]
pub struct OwnFiles {
    written: Vec<UsedFile>,
    others: Vec<UsedFile>,
}

/// A file that a run uses.
#[derive(Debug)]
struct UsedFile {
    /// What names it in messages: a flag, or a noun phrase.
    name: &'static str,
    /// The flag to change.
    flag: &'static str,
    path: PathBuf,
    identity: FileIdentity,
}

impl UsedFile {
    /// A file that a flag names; `None` if it is not a regular file, which may have any number of writers.
    fn new(flag: &'static str, path: PathBuf) -> Option<Self> {
        let identity = FileIdentity::of(&path)?;
        Some(Self {
            name: flag,
            flag,
            path,
            identity,
        })
    }

    /// The error of a file that would replace another one.
    fn collides_with(&self, other: &Self) -> Error {
        let path = self.path.display();
        let message = format!("{} and {} use the same file: {path}", self.name, other.name);
        Error::new(ErrorKind::Refused, message).with_remedy(format!("name another file with {}", self.flag))
    }
}

impl OwnFiles {
    /// The files of a run, and those of its storages as far as flags and job file name them.
    pub fn of(flags: &Options, job: &JobFile, environment: &Environment) -> Self {
        let options = given(flags, job);
        let lock = options.checkpoint.as_deref().map(atomic_file::lock_of);
        let lock = lock.and_then(|path| UsedFile::new(CHECKPOINT, path));
        let lock = lock.map(|lock| UsedFile {
            name: "the lock of --checkpoint",
            ..lock
        });
        let written = [
            (REPORT, options.report),
            (METRICS, options.metrics),
            (CHECKPOINT, options.checkpoint),
            ("--rejects", options.rejects),
            ("--differences", options.differences),
        ];
        let written: Vec<UsedFile> = used(written).chain(lock).collect();
        if written.is_empty() {
            // A working directory is not listed for nothing.
            return Self::default();
        }
        let mut others = read_files(flags);
        for side in [Side::Source, Side::Target] {
            others.extend(stored(side, files_named(side, flags, job, environment)));
        }
        Self { written, others }
    }

    /// The files of a run whose command line or job file cannot be understood. It writes report and metrics alone, and any
    /// other value may name a file that it should have used.
    pub fn of_misunderstood(flags: &Options, arguments: &[OsString]) -> Self {
        let written = [(REPORT, flags.report.clone()), (METRICS, flags.metrics.clone())];
        let written: Vec<UsedFile> = used(written).collect();
        if written.is_empty() {
            return Self::default();
        }
        let mut others = read_files(flags);
        let mut texts = other_values(arguments);
        texts.extend(flags.job.as_deref().map(texts_of_job).unwrap_or_default());
        let files = texts.iter().flat_map(|text| possible_files(text));
        others.extend(files.filter_map(|path| UsedFile::new("another setting", path)));
        Self { written, others }
    }

    /// Checks that no two files are the same if the run writes one of them. A report or metrics that would replace another
    /// file are withheld.
    ///
    /// # Errors
    /// Two of them are the same file. The message names both, the path and the flag to change.
    pub fn check(&self, reporter: &Reporter) -> Result<()> {
        self.check_with(&[], reporter)
    }

    /// The same for a storage that was named later.
    ///
    /// # Errors
    /// As [`OwnFiles::check`].
    pub fn check_storage(&self, endpoint: &Endpoint, reporter: &Reporter) -> Result<()> {
        if self.written.is_empty() {
            return Ok(());
        }
        let files: Vec<UsedFile> = stored(endpoint.values.side(), endpoint.files()).collect();
        self.check_with(&files, reporter)
    }

    fn check_with(&self, more: &[UsedFile], reporter: &Reporter) -> Result<()> {
        let mut refused = None;
        for (number, own) in self.written.iter().enumerate() {
            let others = self.written.iter().skip(number + 1);
            let others = others.chain(&self.others).chain(more);
            for other in others.filter(|other| other.identity == own.identity) {
                reporter.withhold(&own.path);
                reporter.withhold(&other.path);
                refused.get_or_insert_with(|| own.collides_with(other));
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// The flag that names a file for the run to write, if any does.
    pub fn flag_of(&self, path: &Path) -> Option<&'static str> {
        let identity = FileIdentity::of(path)?;
        let mut written = self.written.iter();
        let own = written.find(|own| own.identity == identity)?;
        Some(own.flag)
    }
}

/// Those of the files that are given.
fn used(files: impl IntoIterator<Item = (&'static str, Option<PathBuf>)>) -> impl Iterator<Item = UsedFile> {
    let files = files.into_iter();
    files.filter_map(|(flag, path)| UsedFile::new(flag, path?))
}

/// The files that a run reads beside the source.
fn read_files(flags: &Options) -> Vec<UsedFile> {
    let merged = flags.merge_reports.iter();
    let merged = merged.map(|path| ("--merge-reports", Some(path.clone())));
    let configured = [DOT_ENV, CONFIG_INI].map(|name| ("LightRAG's configuration", Some(name.into())));
    let named = [("--job", flags.job.clone())].into_iter().chain(merged);
    used(named.chain(configured)).collect()
}

/// The files of a storage.
fn stored(side: Side, files: Vec<PathBuf>) -> impl Iterator<Item = UsedFile> {
    let files = files.into_iter();
    files.filter_map(move |path| UsedFile::new(side.flag(), path))
}

/// The local files of a side. If its settings are wrong, each of them may name one.
fn files_named(side: Side, flags: &Options, job: &JobFile, environment: &Environment) -> Vec<PathBuf> {
    if let Ok(endpoint) = Endpoint::resolve(side, flags, job, environment) {
        return endpoint.files();
    }
    let named = [flags.storage(side), job.options.storage(side)];
    let texts = named.into_iter().flatten().flat_map(|spec| match spec {
        StorageSpec::Text(text) => vec![text.expose().to_owned()],
        StorageSpec::Settings(settings) => settings.values().flat_map(texts_in).collect(),
    });
    texts.flat_map(|text| possible_files(&text)).collect()
}

/// The local files that a text names as a storage, or else the one that it is the path of.
fn possible_files(text: &str) -> Vec<PathBuf> {
    match Endpoint::named(Side::Source, text) {
        Ok(endpoint) => endpoint.files(),
        Err(_) => vec![text.into()],
    }
}

/// The values on a command line, except those of `--report` and `--metrics`.
fn other_values(arguments: &[OsString]) -> Vec<String> {
    let mut values = Vec::new();
    let mut rest = arguments
        .iter()
        .skip(1)
        .map(|argument| argument.to_string_lossy());
    while let Some(argument) = rest.next() {
        match argument.split_once('=') {
            Some((REPORT | METRICS, _)) => {}
            Some((flag, value)) if flag.starts_with('-') => values.push(value.to_owned()),
            _ if argument == REPORT || argument == METRICS => drop(rest.next()),
            _ => values.push(argument.into_owned()),
        }
    }
    values
}

/// The values in a job file that is valid YAML, except those of `report` and `metrics`.
fn texts_of_job(file: &Path) -> Vec<String> {
    let content = match file.is_file() {
        true => std::fs::read(file).unwrap_or_default(),
        // A pipe cannot be read twice.
        false => Vec::new(),
    };
    let Ok(Yaml::Mapping(fields)) = serde_yaml::from_slice(&content) else {
        return Vec::new();
    };
    let is_output = |name: &Yaml| matches!(name.as_str(), Some("report" | "metrics"));
    let others = fields.iter().filter(|(name, _)| !is_output(name));
    others.flat_map(|(_, value)| texts_in(value)).collect()
}

/// Every text in a YAML value, except names of fields.
fn texts_in(value: &Yaml) -> Vec<String> {
    match value {
        Yaml::String(text) => vec![text.clone()],
        Yaml::Sequence(items) => items.iter().flat_map(texts_in).collect(),
        Yaml::Mapping(fields) => fields.values().flat_map(texts_in).collect(),
        _ => Vec::new(),
    }
}

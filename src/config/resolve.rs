//! What holds in the end: the one place that knows flag > job file > process environment > `.env` > `config.ini` >
//! default.

use std::{num::NonZeroUsize, path::PathBuf, str::FromStr, time::Duration};

use bytesize::ByteSize;
use serde_yaml::Mapping;

use super::{Args, Color, Environment, JobFile, OutputFormat, job, lightrag};
use crate::{
    model::{
        Error, Field, MaxErrors, Mode, NamedPair, NamedWorkspace, OnConflict, Origin, Result, Secret,
        Selection, Settings, Side, Value, Values, VerifyLevel, WORKSPACE_VARIABLE, Workspace,
        WorkspaceChoice, nearest,
    },
    report::logging::LogFormat,
    storage::{self, Connector, Endpoint, Route},
    system::atomic_file,
};

impl Endpoint {
    /// The storage that a text names, as `--source` and `--target` take it, and nothing else but defaults.
    ///
    /// # Errors
    /// The text names no storage, or not enough of it.
    pub fn named(side: Side, text: &str) -> Result<Self> {
        let args = match side {
            Side::Source => Args {
                source: Some(text.to_owned()),
                ..Args::default()
            },
            Side::Target => Args {
                target: Some(text.to_owned()),
                ..Args::default()
            },
        };
        Self::resolve(side, &args, &JobFile::default(), &Environment::default())
    }

    /// Whether a flag or the job file names the storage of a side.
    pub fn is_named(side: Side, args: &Args, job: &JobFile) -> bool {
        match side {
            Side::Source => args.source.is_some() || job.source.is_some(),
            Side::Target => args.target.is_some() || job.target.is_some(),
        }
    }
}

/// How a run tells what it does.
#[derive(Clone, Debug, Default)]
pub struct OutputSettings {
    /// What stands on standard output.
    pub format: OutputFormat,
    /// File for the final report.
    pub report: Option<PathBuf>,
    /// File for the metrics.
    pub metrics: Option<PathBuf>,
    /// Log filter, in `RUST_LOG`'s words.
    pub log_level: Option<String>,
    /// How logs are written.
    pub log_format: LogFormat,
    /// Whether standard error holds errors alone.
    pub quiet: bool,
    /// Whether colours are used.
    pub color: Color,
    /// Whether a person is asked for what flags and job file leave open.
    pub interactive: bool,
}

const DEFAULT_BATCH_RECORDS: NonZeroUsize = NonZeroUsize::new(1000).unwrap();
const DEFAULT_CONCURRENCY: NonZeroUsize = NonZeroUsize::new(16).unwrap();
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
const DEFAULT_RETRIES: usize = 5;

impl OutputSettings {
    /// Forgets a file that cannot be written, so that it is told now, and not once more at the end of the run.
    ///
    /// # Errors
    /// Such a file.
    pub fn check_files(&mut self) -> Result<()> {
        let checked =
            [("--report", &mut self.report), ("--metrics", &mut self.metrics)].map(|(flag, file)| {
                let checked = file.as_deref().map_or(Ok(()), atomic_file::check);
                checked.map_err(|error| {
                    let path = file.take().unwrap_or_default();
                    Error::config(format!("{flag}: cannot write {}: {error}", path.display()))
                        .with_remedy("name a file in a folder that is there and can be written")
                })
            });
        checked.into_iter().collect()
    }

    /// From flags and job file.
    pub fn resolve(args: &Args, job: &JobFile) -> Self {
        Self {
            format: args.output.or(job.output).unwrap_or_default(),
            report: args.report.clone().or_else(|| job.report.clone()),
            metrics: args.metrics.clone().or_else(|| job.metrics.clone()),
            log_level: args.log_level.clone().or_else(|| job.log_level.clone()),
            log_format: args.log_format.or(job.log_format).unwrap_or_default(),
            quiet: args.quiet || said(job.quiet),
            color: args.color.or(job.color).unwrap_or_default(),
            interactive: args.interactive || said(job.interactive),
        }
    }
}

/// Whether the job file says yes.
pub(super) fn said(flag: Option<job::Scalar<bool>>) -> bool {
    flag.is_some_and(|flag| flag.0)
}

impl Mode {
    /// From flags and job file.
    pub fn resolve(args: &Args, job: &JobFile) -> Self {
        if args.dry_run || said(job.dry_run) {
            Self::DryRun
        } else if args.verify_only || said(job.verify_only) {
            Self::Verify
        } else {
            Self::Migrate
        }
    }
}

impl Settings {
    /// Decides what holds.
    ///
    /// # Errors
    /// A setting that is missing or wrong. The message says which, where it came from and what was expected.
    pub fn resolve(args: &Args, job: &JobFile, environment: &Environment) -> Result<Self> {
        let batch = job.batch.as_ref();
        let number = |flag: Option<&String>, name, job_text: Option<&job::Text>, path| {
            positive(
                flag.map(String::as_str),
                name,
                job_text,
                path,
                job,
                "a whole number above 0",
            )
        };
        let mode = Mode::resolve(args, job);
        let checkpoint = args.checkpoint.clone().or_else(|| job.checkpoint.clone());
        Ok(Self {
            mode,
            selection: resolve_selection(args, job)?,
            on_conflict: args
                .on_conflict
                .or(job.on_conflict)
                .unwrap_or(OnConflict::Overwrite),
            on_invalid: args.on_invalid.or(job.on_invalid).unwrap_or_default(),
            batch_records: number(
                args.batch_size.as_ref(),
                "--batch-size",
                batch.and_then(|batch| batch.records.as_ref()),
                "batch.records",
            )?
            .unwrap_or(DEFAULT_BATCH_RECORDS),
            batch_bytes: parse_setting(
                args.batch_bytes.as_deref(),
                "--batch-bytes",
                batch.and_then(|batch| batch.bytes.as_ref()),
                "batch.bytes",
                job,
                "a size above 0 such as 8MiB",
                |text| NonZeroUsize::new(usize::try_from(ByteSize::from_str(text).ok()?.as_u64()).ok()?),
            )?,
            concurrency: number(
                args.concurrency.as_ref(),
                "--concurrency",
                job.concurrency.as_ref(),
                "concurrency",
            )?
            .unwrap_or(DEFAULT_CONCURRENCY),
            timeout: parse_setting(
                args.timeout.as_deref(),
                "--timeout",
                job.timeout.as_ref(),
                "timeout",
                job,
                DURATION,
                duration,
            )?
            .unwrap_or(DEFAULT_TIMEOUT),
            retries: parse_setting(
                args.retries.as_deref(),
                "--retries",
                job.retries.as_ref(),
                "retries",
                job,
                "a whole number",
                |text| text.parse().ok(),
            )?
            .unwrap_or(DEFAULT_RETRIES),
            max_duration: parse_setting(
                args.max_duration.as_deref(),
                "--max-duration",
                job.max_duration.as_ref(),
                "max_duration",
                job,
                DURATION,
                duration,
            )?,
            max_errors: parse_setting(
                args.max_errors.as_deref(),
                "--max-errors",
                job.max_errors.as_ref(),
                "max_errors",
                job,
                "a number of records, or a share such as 1%",
                MaxErrors::parse,
            )?,
            verify: match (args.verify.or(job.verify), mode) {
                // Who asks for nothing but a verification wants all of it.
                (None, Mode::Verify) => VerifyLevel::Full,
                (Some(VerifyLevel::Off), Mode::Verify) => {
                    return Err(Error::config("--verify-only and --verify off exclude each other"));
                }
                (level, _) => level.unwrap_or(VerifyLevel::Off),
            },
            resume: resolve_resume(args, job, checkpoint.is_some())?,
            checkpoint,
            rejects: args.rejects.clone().or_else(|| job.rejects.clone()),
            lightrag: lightrag::resolve(args, job, environment)?,
            rekey: args.rekey.or(job.rekey).unwrap_or_default(),
            salvage: args.salvage || said(job.salvage),
            yes: args.yes || said(job.yes),
            fail_on_empty: args.fail_on_empty || said(job.fail_on_empty),
            allow_missing: args.allow_missing || said(job.allow_missing),
        })
    }
}

impl Route {
    /// Decides from where to where.
    ///
    /// # Errors
    /// A side or a setting that is missing or wrong. The message says which, where it came from and what was expected.
    pub fn resolve(args: &Args, job: &JobFile, environment: &Environment) -> Result<Self> {
        let source = Endpoint::resolve(Side::Source, args, job, environment)?;
        let target = Endpoint::resolve(Side::Target, args, job, environment)?;
        let workspaces =
            WorkspaceChoice::resolve(args, job, environment, source.connector, target.connector)?;
        Ok(Self {
            source,
            target,
            workspaces,
        })
    }
}

const DURATION: &str = "a duration above 0 such as 30s";

fn duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text)
        .ok()
        .filter(|duration| !duration.is_zero())
}

fn resolve_resume(args: &Args, job: &JobFile, has_checkpoint: bool) -> Result<bool> {
    let resume = args.resume || said(job.resume);
    if resume && !has_checkpoint {
        return Err(Error::config(
            "--resume needs --checkpoint, the file that says where to go on",
        ));
    }
    Ok(resume)
}

/// A setting that a flag or the job file gives as text.
fn parse_setting<T>(
    flag: Option<&str>,
    flag_name: &str,
    job_text: Option<&job::Text>,
    job_path: &str,
    job: &JobFile,
    expected: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>> {
    if let Some(text) = flag {
        return parse(text.trim())
            .map(Some)
            .ok_or_else(|| Error::config(format!("{flag_name}: expected {expected}, found `{text}`")));
    }
    job_text
        .map(|job::Text(text)| {
            parse(text.trim())
                .ok_or_else(|| job.error(job_path, &format!("expected {expected}, found `{text}`")))
        })
        .transpose()
}

fn positive(
    flag: Option<&str>,
    flag_name: &str,
    job_text: Option<&job::Text>,
    job_path: &str,
    job: &JobFile,
    expected: &str,
) -> Result<Option<NonZeroUsize>> {
    parse_setting(flag, flag_name, job_text, job_path, job, expected, |text| {
        text.parse().ok()
    })
}

fn resolve_selection(args: &Args, job: &JobFile) -> Result<Selection> {
    if let Some(list) = &args.types {
        return Selection::parse(list.split(',')).map_err(|what| Error::config(format!("--types: {what}")));
    }
    match &job.types {
        Some(list) => {
            Selection::parse(list.0.iter().map(String::as_str)).map_err(|what| job.error("types", &what))
        }
        None => Ok(Selection::default()),
    }
}

impl WorkspaceChoice {
    /// Decides which workspaces. What is read does not depend on the target, nor what is written on the source.
    ///
    /// # Errors
    /// A name that no workspace can have, or a pair that is none.
    pub fn resolve(
        args: &Args,
        job: &JobFile,
        environment: &Environment,
        source: &dyn Connector,
        target: &dyn Connector,
    ) -> Result<Self> {
        if args.all_workspaces {
            return Ok(Self::All);
        }
        if !args.workspace_map.is_empty() {
            let pairs = args.workspace_map.iter().map(|text| mapped_pair(text));
            return Ok(Self::Pairs(pairs.collect::<Result<_>>()?));
        }
        let mut from = flag_workspace(Side::Source, args)?;
        let mut to = flag_workspace(Side::Target, args)?;
        match job_workspaces(job)? {
            Some(choice) if from.is_none() && to.is_none() => return Ok(choice),
            Some(Self::Pairs(pairs)) if pairs.len() == 1 => {
                // A flag wins on its side alone.
                for pair in pairs {
                    from = from.or(Some(pair.from));
                    to = to.or(Some(pair.to));
                }
            }
            Some(_) if from.is_none() || to.is_none() => {
                return Err(Error::config(
                    "a flag names the workspace of one side, and the job file several workspaces",
                )
                .with_remedy(
                    "name the workspace of the other side with a flag too, or use --workspace-map",
                ));
            }
            _ => {}
        }
        // Where nothing names one side, it takes the name that a flag or the job file gives the other.
        let source = match &from {
            Some(_) => None,
            None => configured_workspace(source, environment)?,
        };
        let target = match &to {
            Some(_) => None,
            None => configured_workspace(target, environment)?,
        };
        let chosen = |own: &Option<NamedWorkspace>, configured, other: &Option<NamedWorkspace>| {
            own.clone()
                .or(configured)
                .or_else(|| other.clone())
                .unwrap_or_default()
        };
        Ok(Self::Pairs(vec![NamedPair {
            from: chosen(&from, source, &to),
            to: chosen(&to, target, &from),
        }]))
    }

    /// Whether flags or the job file name workspaces.
    pub fn is_named(args: &Args, job: &JobFile) -> bool {
        args.all_workspaces
            || args.workspace.is_some()
            || !args.workspace_map.is_empty()
            || args.source_workspace.is_some()
            || args.target_workspace.is_some()
            || job.workspaces.is_some()
    }
}

/// The workspace that a flag names for a side.
fn flag_workspace(side: Side, args: &Args) -> Result<Option<NamedWorkspace>> {
    let own = match side {
        Side::Source => ("--source-workspace", &args.source_workspace),
        Side::Target => ("--target-workspace", &args.target_workspace),
    };
    let flags = [own, ("--workspace", &args.workspace)];
    let given = flags
        .into_iter()
        .find_map(|(flag, name)| name.as_ref().map(|name| (flag, name)));
    given
        .map(|(flag, name)| named_workspace(name, Origin::Flag(flag)))
        .transpose()
}

/// `FROM=TO`.
fn mapped_pair(text: &str) -> Result<NamedPair> {
    const FLAG: &str = "--workspace-map";
    let (from, to) = text
        .split_once('=')
        .ok_or_else(|| Error::config(format!("{FLAG}: expected FROM=TO, found `{text}`")))?;
    Ok(NamedPair {
        from: named_workspace(from, Origin::Flag(FLAG))?,
        to: named_workspace(to, Origin::Flag(FLAG))?,
    })
}

/// The workspaces that the job file names.
fn job_workspaces(job: &JobFile) -> Result<Option<WorkspaceChoice>> {
    let pairs = match &job.workspaces {
        None => return Ok(None),
        Some(job::WorkspacesSpec::All) => return Ok(Some(WorkspaceChoice::All)),
        Some(job::WorkspacesSpec::Pairs(pairs)) => pairs,
    };
    let pairs = pairs.iter().enumerate().map(|(at, (from, to))| {
        let path = format!("workspaces[{at}]");
        let named = |name: &str| {
            let workspace = Workspace::new(name).map_err(|error| job.error(&path, error.message()))?;
            let origin = Origin::Job {
                file: job.file().to_owned(),
                line: job.line(&path),
                path: "workspaces".to_owned(),
            };
            Ok(NamedWorkspace { workspace, origin })
        };
        Ok(NamedPair {
            from: named(from)?,
            to: named(to)?,
        })
    });
    Ok(Some(WorkspaceChoice::Pairs(pairs.collect::<Result<_>>()?)))
}

fn named_workspace(name: &str, origin: Origin) -> Result<NamedWorkspace> {
    match Workspace::new(name) {
        Ok(workspace) => Ok(NamedWorkspace { workspace, origin }),
        Err(error) => Err(prefixed(&origin.to_string(), error)),
    }
}

/// The workspace that LightRAG's configuration names for this storage: its own variable, its key in `config.ini`, or
/// `WORKSPACE`. `None` where none of them does; LightRAG then uses the empty one.
///
/// # Errors
/// A name that no workspace can have, or a file that cannot be read.
pub fn configured_workspace(
    connector: &dyn Connector,
    environment: &Environment,
) -> Result<Option<NamedWorkspace>> {
    let own = match connector.workspace_variable() {
        Some(variable) => environment.variable(variable)?,
        None => None,
    };
    let own = match (own, connector.ini_section(), connector.workspace_ini_key()) {
        // An empty variable hides the key, and is then no name.
        (None, Some(section), Some(key)) => environment.ini(section, key)?,
        (own, ..) => own,
    };
    let own = own.filter(|value| !connector.workspace_name(value.text.expose()).is_empty());
    if let Some(Value { text, origin }) = own {
        return named_workspace(connector.workspace_name(text.expose()), origin).map(Some);
    }
    match environment.variable(WORKSPACE_VARIABLE)? {
        Some(Value { text, origin }) if !text.expose().is_empty() => {
            named_workspace(text.expose(), origin).map(Some)
        }
        _ => Ok(None),
    }
}

/// Which storage a text names, and the settings that its place tells.
struct Place {
    connector: &'static dyn Connector,
    settings: Vec<(&'static str, Secret)>,
}

impl Endpoint {
    /// Decides which storage a side is, and its settings.
    ///
    /// # Errors
    /// A side that nobody names, or a place or a setting that cannot be read.
    pub fn resolve(side: Side, args: &Args, job: &JobFile, environment: &Environment) -> Result<Self> {
        let (flag_name, flag, spec) = match side {
            Side::Source => ("--source", &args.source, &job.source),
            Side::Target => ("--target", &args.target, &job.target),
        };
        let flag = flag
            .as_deref()
            .map(|text| read_place(text).map_err(|error| prefixed(flag_name, error)))
            .transpose()?;
        let job_place = spec.as_ref().map(|spec| read_spec(side, spec, job)).transpose()?;
        let connector = match (&flag, &job_place) {
            (Some(place), _) => place.connector,
            (None, Some((connector, _))) => *connector,
            (None, None) => {
                return Err(Error::config(format!("no {side} is named")).with_remedy(format!(
                    "give {flag_name} or `{side}:` in a job file: a kind ({}) or a place",
                    storage::names()
                )));
            }
        };

        let mut given = Vec::new();
        if let Some((job_connector, settings)) = job_place
            && job_connector.kind() == connector.kind()
        {
            given = settings;
        }
        if let Some(place) = flag {
            given.extend(at_origin(place.settings, &Origin::Flag(flag_name)));
        }
        // A side that is named by its kind alone is where LightRAG's configuration says, which must then be readable.
        let environment = Lookup {
            environment,
            must_be_readable: given.is_empty(),
        };
        let mut values = Values::of(side, connector.fields());
        // From the job file's to the flag's: each replaces what the one before said.
        for (name, value) in given {
            values.set(name, value);
        }
        for field in connector.fields() {
            if values.get(field.name).is_none()
                && let Some(value) = environment.configured(field, connector)?
            {
                values.set(field.name, value);
            }
        }
        Ok(Self { connector, values })
    }
}

/// Reads what the job file says of a side.
fn read_spec(side: Side, spec: &job::StorageSpec, job: &JobFile) -> Result<JobEndpoint> {
    let origin = |path: String| Origin::Job {
        file: job.file().to_owned(),
        line: job.line(&path),
        path,
    };
    match spec {
        job::StorageSpec::Text(text) => {
            let path = side.to_string();
            let place = read_place(text.expose()).map_err(|error| job.error(&path, error.message()))?;
            Ok((place.connector, at_origin(place.settings, &origin(path))))
        }
        job::StorageSpec::Settings(settings) => read_settings(side, settings, job, &origin),
    }
}

fn at_origin(settings: Vec<(&'static str, Secret)>, origin: &Origin) -> Vec<(&'static str, Value)> {
    let at = |(name, text)| {
        let origin = origin.clone();
        (name, Value { text, origin })
    };
    settings.into_iter().map(at).collect()
}

fn prefixed(place: &str, error: Error) -> Error {
    let prefixed = Error::new(error.kind(), format!("{place}: {}", error.message()));
    match error.remedy() {
        Some(remedy) => prefixed.with_remedy(remedy),
        None => prefixed,
    }
}

/// LightRAG's configuration, as one side needs it.
struct Lookup<'a> {
    environment: &'a Environment,
    /// Whether a file that cannot be read is an error. Otherwise the warning about it is enough.
    must_be_readable: bool,
}

impl Lookup<'_> {
    /// What LightRAG's configuration or the table says of a setting.
    ///
    /// # Errors
    /// It cannot be known.
    fn configured(&self, field: &Field, connector: &dyn Connector) -> Result<Option<Value>> {
        let configured = match self.by_variable(field)? {
            Some(value) => Some(value),
            None => self.by_ini(field, connector)?,
        };
        let as_lightrag = |Value { text, origin }| {
            let text = Secret::new((field.as_lightrag)(Secret::expose(&text))?);
            Some(Value { text, origin })
        };
        let default = || {
            Some(Value {
                text: Secret::new(field.default?),
                origin: Origin::Default,
            })
        };
        Ok(configured.and_then(as_lightrag).or_else(default))
    }

    fn by_variable(&self, field: &Field) -> Result<Option<Value>> {
        match field.variable {
            Some(name) if self.must_be_readable => self.environment.variable(name),
            Some(name) => self.environment.readable_variable(name),
            None => Ok(None),
        }
    }

    fn by_ini(&self, field: &Field, connector: &dyn Connector) -> Result<Option<Value>> {
        match (connector.ini_section(), field.ini) {
            (Some(section), Some(key)) if self.must_be_readable => self.environment.ini(section, key),
            (Some(section), Some(key)) => self.environment.readable_ini(section, key),
            _ => Ok(None),
        }
    }
}

/// Reads what a flag or a plain text in the job file names.
fn read_place(text: &str) -> Result<Place> {
    if let Some(connector) = storage::find(text) {
        let settings = Vec::new();
        return Ok(Place { connector, settings });
    }
    if let Some((scheme, _)) = text.split_once("://") {
        let known = || storage::connectors().iter().copied();
        let connector = known().find(|b| b.schemes().iter().any(|s| s.eq_ignore_ascii_case(scheme)));
        let connector = connector.ok_or_else(|| {
            let schemes: Vec<&str> = known().flat_map(|b| b.schemes()).copied().collect();
            let hint = nearest(scheme, schemes.iter().copied())
                .map(|near| format!("; did you mean {near}://?"))
                .unwrap_or_default();
            Error::config(format!("no storage has addresses with {scheme}://{hint}"))
                .with_remedy(format!("known: {}", schemes.join(", ")))
        })?;
        let settings = connector.parse_uri(text)?;
        return Ok(Place { connector, settings });
    }
    // A mistyped address is no path: it may hold a password, and paths are printed.
    if let Some((scheme, _)) = text.split_once(':')
        && let Some(connector) = storage::connectors().iter().find(|connector| {
            connector
                .schemes()
                .iter()
                .any(|known| known.eq_ignore_ascii_case(scheme))
        })
    {
        let message = format!("an address of {} begins with {scheme}://", connector.title());
        return Err(Error::config(message).with_remedy(format!("write {scheme}://user:password@host")));
    }
    let names_a_port = |text: &str| {
        text.rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok())
    };
    if (text.contains('@') || names_a_port(text)) && !std::path::Path::new(text).exists() {
        return Err(Error::config("this looks like an address without a scheme")
            .with_remedy("write scheme://user:password@host, or the name of a file that is there"));
    }
    // What is neither a name nor an address is a path, if it looks like one.
    let looks_like_path = text.contains(['/', '\\', '.', '~']) || std::path::Path::new(text).exists();
    let files = storage::connectors()
        .iter()
        .copied()
        .find(|b| b.info().takes_paths);
    match files {
        Some(connector) if looks_like_path => Ok(Place {
            connector,
            settings: connector.parse_uri(text)?,
        }),
        _ => {
            let names = storage::connectors()
                .iter()
                .flat_map(|b| [b.kind()].into_iter().chain(b.aliases().iter().copied()));
            let hint = nearest(&text.to_ascii_lowercase(), names)
                .map(|near| format!("; did you mean {near}?"))
                .unwrap_or_default();
            Err(
                Error::config(format!("`{text}` is no kind of storage{hint}")).with_remedy(format!(
                    "known: {}; LIGHTRAG_KV_STORAGE says which one LightRAG uses; a path is written with a slash: ./{text}",
                    storage::names()
                )),
            )
        }
    }
}

type JobEndpoint = (&'static dyn Connector, Vec<(&'static str, Value)>);

/// Reads the mapping of a storage in the job file, and checks every name in it.
fn read_settings(
    side: Side,
    settings: &Mapping,
    job: &JobFile,
    origin: &dyn Fn(String) -> Origin,
) -> Result<JobEndpoint> {
    let text = |name: &str| settings.get(name).and_then(serde_yaml::Value::as_str);
    let path = |name: &str| format!("{side}.{name}");
    let uri = text("uri")
        .map(|uri| read_place(uri).map_err(|error| job.error(&path("uri"), error.message())))
        .transpose()?;
    let connector = match (text("kind"), &uri) {
        (Some(kind), _) => storage::find(kind).ok_or_else(|| {
            let hint = nearest(kind, storage::connectors().iter().map(|b| b.kind()))
                .map(|near| format!("; did you mean {near}?"))
                .unwrap_or_default();
            job.error(
                &path("kind"),
                &format!("expected one of {}, found `{kind}`{hint}", storage::names()),
            )
        })?,
        (None, Some(place)) => place.connector,
        (None, None) => {
            // One who thinks of `postgres:` with its fields below it.
            let nested = settings
                .keys()
                .filter_map(serde_yaml::Value::as_str)
                .find(|name| storage::find(name).is_some());
            let hint = nested
                .map(|name| format!("; write `kind: {name}` beside its fields"))
                .unwrap_or_default();
            let what = format!("missing; expected one of {}{hint}", storage::names());
            return Err(job.error(&path("kind"), &what));
        }
    };
    let mut found = Vec::new();
    if let Some(place) = uri {
        if place.connector.kind() != connector.kind() {
            let what = format!(
                "this is an address of {}, and kind is {}",
                place.connector.kind(),
                connector.kind()
            );
            return Err(job.error(&path("uri"), &what));
        }
        found = at_origin(place.settings, &origin(path("uri")));
    }
    for (name, value) in settings {
        let name = name.as_str().unwrap_or_default();
        if name == "kind" || name == "uri" {
            continue;
        }
        let Some(field) = connector.fields().iter().find(|field| field.name == name) else {
            let known = || {
                ["kind", "uri"].into_iter().chain(
                    connector
                        .fields()
                        .iter()
                        .map(|f| f.name)
                        .filter(|name| *name != "uri"),
                )
            };
            let hint = nearest(name, known())
                .map_or_else(|| ".".to_owned(), |near| format!("; did you mean `{near}`?"));
            let list = known().collect::<Vec<_>>().join(", ");
            return Err(job.error(
                &path(name),
                &format!("unknown field{hint} Known for {}: {list}", connector.kind()),
            ));
        };
        let text =
            setting_text(value).ok_or_else(|| job.error(&path(name), "expected a text or a number"))?;
        let origin = origin(path(name));
        found.push((
            field.name,
            Value {
                text: Secret::new(text),
                origin,
            },
        ));
    }
    Ok((connector, found))
}

/// A scalar, or a list of scalars joined by commas, as LightRAG's variables write lists.
fn setting_text(value: &serde_yaml::Value) -> Option<String> {
    match value {
        serde_yaml::Value::Sequence(items) => {
            let texts: Option<Vec<String>> = items.iter().map(job::scalar_text).collect();
            texts.map(|texts| texts.join(","))
        }
        other => job::scalar_text(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_address_is_no_path_that_would_be_printed() {
        let error = Endpoint::named(Side::Target, "mongodb:/me:hunter2@host").unwrap_err();
        assert!(error.message().contains("begins with mongodb://"), "{error}");
        assert!(!format!("{error:?}").contains("hunter2"));
        let error = Endpoint::named(Side::Target, "me:hunter2@host/rag").unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}

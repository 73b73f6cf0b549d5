//! How a run ended, and the report of its numbers.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

use super::{
    BatchTotals, ErrorTotals, ReadBackReport, Rehearsal, Report, Status, TOOL, Totals, VERSION, Verification,
    WorkspaceReport,
    document::rates,
    reporter::timestamp,
    style::{grouped, grouped_of},
};
use crate::{
    model::{
        CacheType, Error, ExitCode, Field, ForetoldHits, LeftOut, LeftOutKind, LeftOutRecords, Location,
        Mode, VerifyLevel, plural, record::RejectKind,
    },
    system::shutdown::StopReason,
};

/// How a run ended.
#[derive(Debug)]
pub enum RunOutcome {
    /// It did everything.
    Done,
    /// The user left the interactive mode before choosing anything.
    Left,
    /// A signal, a time limit or a closed output stopped it.
    Stopped(StopReason),
    /// An error ended it.
    Failed {
        /// The exit code of the process.
        exit_code: ExitCode,
        /// Whether the same command may succeed later.
        retryable: bool,
        /// What to do next: a clause without a full stop.
        remedy: Option<String>,
    },
}

impl RunOutcome {
    /// The outcome of a run that an error ended.
    pub fn of(error: &Error) -> Self {
        Self::Failed {
            exit_code: error.exit_code(),
            retryable: error.is_temporary(),
            remedy: error.remedy().map(str::to_owned),
        }
    }

    /// The same for a run that may have been asked to stop: a request that was abandoned for that reason is not the cause.
    pub fn of_run(error: &Error, asked: Option<StopReason>) -> Self {
        match asked {
            Some(reason) if error.is_abandoned() => Self::Stopped(reason),
            _ => Self::of(error),
        }
    }
}

/// How LightRAG uses a target.
#[derive(Clone, Copy, Debug)]
pub enum TargetUse {
    /// The run ended before it connected to the target.
    Unknown,
    /// As a storage of its own.
    Storage {
        /// The name of its class.
        class: &'static str,
        /// Its settings.
        fields: &'static [Field],
    },
    /// Not at all: it is an archive.
    Kept,
}

/// The numbers of a run, from which its report is made.
#[derive(Clone, Debug)]
pub struct RunNumbers {
    /// What the run was asked to do.
    pub mode: Mode,
    /// When the run started.
    pub started_at: Timestamp,
    /// The duration of the run.
    pub duration: Duration,
    /// The time spent on moving records, without counts and verification.
    pub moving: Duration,
    /// Records that an earlier run of the same job wrote, which the numbers of the workspaces include.
    pub written_before: u64,
    /// The bytes of these records.
    pub bytes_before: u64,
    /// The storage that is read.
    pub source: Option<Location>,
    /// The storage that is written.
    pub target: Option<Location>,
    /// How LightRAG uses the target.
    pub target_use: TargetUse,
    /// The shard of the source that the run moves, as `0/4`; `None` for everything.
    pub shard: Option<String>,
    /// The selected cache types, by name; empty while unknown.
    pub types: Vec<String>,
    /// In the order of the run.
    pub workspaces: Vec<WorkspaceReport>,
    /// The numbers of batches.
    pub batches: BatchTotals,
    /// The errors so far.
    pub errors: ErrorTotals,
    /// The texts of all warnings.
    pub warnings: Vec<String>,
    /// Whether part of the source could not be read: the records after damage, or a whole workspace.
    pub is_incomplete: bool,
    /// The written records that were read back.
    pub read_back: Option<ReadBackReport>,
    /// The result of the verification.
    pub verification: Option<Verification>,
    /// Which records LightRAG will find.
    pub hits: Option<ForetoldHits>,
    /// The checkpoint file.
    pub checkpoint: Option<String>,
    /// The rejects file.
    pub rejects: Option<String>,
    /// The differences file.
    pub differences: Option<String>,
}

impl RunNumbers {
    /// The numbers of a run that has not done anything.
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            started_at: Timestamp::now(),
            duration: Duration::ZERO,
            moving: Duration::ZERO,
            written_before: 0,
            bytes_before: 0,
            source: None,
            target: None,
            target_use: TargetUse::Unknown,
            shard: None,
            types: Vec::new(),
            workspaces: Vec::new(),
            batches: BatchTotals::default(),
            errors: ErrorTotals::default(),
            warnings: Vec::new(),
            is_incomplete: false,
            read_back: None,
            verification: None,
            hits: None,
            checkpoint: None,
            rejects: None,
            differences: None,
        }
    }

    /// Whether `--rekey` added copies.
    fn has_copies(&self) -> bool {
        self.hits
            .as_ref()
            .is_some_and(|foretold| foretold.hits.total.rekeyed > 0)
    }

    /// The final report, with exit code, rates and next step derived from the ending.
    pub fn into_report(self, ending: &RunOutcome) -> Report {
        let (totals, by_cache_type) = self.totals();
        let rehearsal = match (self.mode, ending) {
            (Mode::DryRun, RunOutcome::Done) => self.rehearsal(),
            _ => None,
        };
        let new = match self.mode {
            Mode::Migrate => self.new_records(),
            Mode::DryRun | Mode::Verify => None,
        };
        let is_partial = totals.rejected > 0 || self.is_incomplete;
        let (status, exit_code) = Self::status(ending, is_partial);
        let (records_per_second, bytes_per_second) = rates(
            totals.written.saturating_sub(self.written_before),
            totals.bytes.saturating_sub(self.bytes_before),
            self.moving.as_secs_f64(),
        );
        Report {
            tool: TOOL.to_owned(),
            version: VERSION.to_owned(),
            mode: self.mode,
            status,
            exit_code: exit_code.code(),
            retryable: matches!(
                ending,
                RunOutcome::Failed { retryable: true, .. } | RunOutcome::Stopped(_)
            ),
            started_at: timestamp(self.started_at),
            finished_at: timestamp(Timestamp::now()),
            duration_ms: u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX),
            success_rate: totals.success_rate(),
            records_per_second,
            bytes_per_second,
            next: self.next(ending, &totals),
            replaced: new.map(|new| totals.written.saturating_sub(new)),
            totals,
            by_cache_type,
            left_out: left_out(&self.workspaces),
            shard: self.shard,
            types: self.types,
            source: self.source,
            target: self.target,
            workspaces: self.workspaces,
            to_move: rehearsal.map(|all| all.to_move),
            new: new.or(rehearsal.map(|all| all.new)),
            existing: rehearsal.map(|all| all.existing),
            batches: self.batches,
            errors: self.errors,
            warnings: self.warnings,
            read_back: self.read_back,
            verification: self.verification,
            rekeyed: self
                .hits
                .as_ref()
                .map_or(0, |foretold| foretold.hits.total.rekeyed),
            hits: self.hits,
            checkpoint: self.checkpoint,
            rejects: self.rejects,
            differences: self.differences,
        }
    }

    /// The totals of all workspaces, together and by cache type.
    fn totals(&self) -> (Totals, BTreeMap<CacheType, Totals>) {
        let mut totals = Totals::default();
        let mut by_cache_type: BTreeMap<CacheType, Totals> = BTreeMap::new();
        for workspace in &self.workspaces {
            totals.add(&workspace.totals);
            for (cache_type, numbers) in &workspace.by_cache_type {
                by_cache_type.entry(cache_type.clone()).or_default().add(numbers);
            }
        }
        (totals, by_cache_type)
    }

    /// The written records whose keys the target did not have; known only if every part is.
    fn new_records(&self) -> Option<u64> {
        self.workspaces.iter().map(|workspace| workspace.new).sum()
    }

    /// The sum over all workspaces; known only if every part is.
    fn rehearsal(&self) -> Option<Rehearsal> {
        let mut all = Rehearsal::default();
        for workspace in &self.workspaces {
            all.add(workspace.rehearsal?);
        }
        Some(all)
    }

    fn status(ending: &RunOutcome, is_partial: bool) -> (Status, ExitCode) {
        match ending {
            RunOutcome::Done if is_partial => (Status::Partial, ExitCode::Rejected),
            RunOutcome::Done | RunOutcome::Left => (Status::Ok, ExitCode::Done),
            RunOutcome::Stopped(reason) => (Status::Interrupted, reason.exit_code()),
            RunOutcome::Failed { exit_code, .. } => {
                let status = match exit_code {
                    ExitCode::Usage | ExitCode::Refused | ExitCode::Checkpoint => Status::Refused,
                    ExitCode::Differences => Status::Differences,
                    _ => Status::Failed,
                };
                (status, *exit_code)
            }
        }
    }

    /// The result of a verification without differences, claiming no more than was compared.
    fn agreement(&self) -> String {
        let Some(found) = &self.verification else {
            return "Nothing was compared.".to_owned();
        };
        let numbers = &found.numbers;
        if numbers.compared == 0 {
            return "There was nothing to compare. If you expected records, check source, workspace and types.".to_owned();
        }
        let mut but = Vec::new();
        if numbers.kept > 0 {
            but.push(format!(
                "{} {} a different value there, kept because of --on-conflict",
                grouped(numbers.kept),
                plural(numbers.kept, "has", "have")
            ));
        }
        if numbers.unmovable > 0 {
            but.push(format!("{} cannot be stored there", grouped(numbers.unmovable)));
        }
        if numbers.invalid > 0 {
            but.push(format!(
                "{} more {} of the source {}",
                grouped(numbers.invalid),
                plural(numbers.invalid, "entry", "entries"),
                plural(numbers.invalid, "is not a record", "are not records")
            ));
        }
        match (but.as_slice(), found.level) {
            ([], VerifyLevel::Full) => "Source and target agree.".to_owned(),
            ([], _) => format!(
                "Source and target agree in the {} compared.",
                grouped_of(numbers.compared, "record")
            ),
            (but, _) => format!(
                "Of {} compared, {}.",
                grouped_of(numbers.compared, "record"),
                but.join(" and ")
            ),
        }
    }

    /// Whether records of a named workspace were written to the empty one.
    fn moves_to_empty_workspace(&self) -> bool {
        let mut workspaces = self.workspaces.iter();
        workspaces.any(|workspace| workspace.to.name().is_empty() && !workspace.from.name().is_empty())
    }

    /// The next step after a run that moved everything.
    fn after_moving(&self) -> String {
        let mut settings = match self.target_use {
            TargetUse::Kept => {
                let target = self.target.as_ref().map_or("FILE", |target| &target.location);
                return format!(
                    "To restore the records, run with --source {target} --all-workspaces --types all. The source is unchanged."
                );
            }
            TargetUse::Storage { class, fields } => {
                let address = fields.iter().filter(|field| field.is_address);
                let mut settings = vec![format!("LIGHTRAG_KV_STORAGE={class}")];
                settings.extend(address.filter_map(|field| field.variable.map(str::to_owned)));
                settings
            }
            TargetUse::Unknown => vec![
                "LIGHTRAG_KV_STORAGE".to_owned(),
                "its connection settings".to_owned(),
            ],
        };
        let mut unset = "";
        match self.workspaces.as_slice() {
            [one] if one.from != one.to && !one.to.name().is_empty() => {
                settings.push(format!("WORKSPACE={}", one.to.name()));
            }
            _ if self.moves_to_empty_workspace() => {
                unset = ", leave WORKSPACE unset (the records are in the unnamed workspace)";
            }
            _ => {}
        }
        let last = settings.pop().unwrap_or_default();
        format!(
            "Point LightRAG at the target: set {} and {last}{unset}. Only the cache was moved: start LightRAG with its other \
             storages empty (otherwise it skips known documents) and insert the documents again. It extracts them from the \
             cache. The source is unchanged.",
            settings.join(", ")
        )
    }

    /// What to do about rejected records.
    fn after_rejects(&self) -> String {
        let can_be_sanitized = |kind: &String| {
            [RejectKind::NulCharacter, RejectKind::LoneSurrogate]
                .iter()
                .any(|sanitized| sanitized.as_str() == kind)
        };
        if self.errors.by_kind.keys().all(can_be_sanitized) {
            return "To store the rejected records without the invalid characters, run the same command again with \
                    --on-invalid sanitize."
                .to_owned();
        }
        match &self.rejects {
            Some(file) => {
                format!("Fix the records in {file}, then move them with --source {file} --all-workspaces --types all.")
            }
            None => "Fix the rejected records at the source and run the same command again, or save them with --rejects FILE."
                .to_owned(),
        }
    }

    /// What a stopped run wrote, and how to finish.
    fn after_stop(&self, reason: StopReason, totals: &Totals) -> String {
        // The outcome of a batch that failed is unknown.
        let written = match (totals.written, self.batches.total) {
            (_, 0) => " Nothing was written.",
            (0, _) => "",
            _ => " What was written stays.",
        };
        let finish = if self.checkpoint.is_some() {
            "add --resume"
        } else if totals.written > 0 {
            AGAIN
        } else {
            "run the same command again"
        };
        format!("Stopped: {}.{written} To finish, {finish}.", reason.as_str())
    }

    fn next(&self, ending: &RunOutcome, totals: &Totals) -> String {
        let is_incomplete = self.is_incomplete;
        match ending {
            RunOutcome::Done if self.mode == Mode::DryRun && is_incomplete => {
                "Check the warnings: part of the source cannot be read and would not be migrated.".into()
            }
            RunOutcome::Done if self.mode == Mode::DryRun && totals.selected == 0 => {
                "There is nothing to migrate.".into()
            }
            RunOutcome::Done if self.mode == Mode::DryRun => {
                "Run the same command with --yes instead of --dry-run.".into()
            }
            RunOutcome::Done if self.mode == Mode::Verify => self.agreement(),
            RunOutcome::Done if is_incomplete => "See the warnings for what could not be read.".into(),
            RunOutcome::Done if totals.rejected > 0 => self.after_rejects(),
            RunOutcome::Done if totals.selected == 0 => {
                "There was nothing to migrate. If you expected records, check source, workspace and types."
                    .into()
            }
            RunOutcome::Done if totals.written == 0 && self.has_copies() => {
                "Only copies were added. If LightRAG is running, restart it.".into()
            }
            RunOutcome::Done => self.after_moving(),
            RunOutcome::Left => "Nothing was selected. Nothing was written.".into(),
            RunOutcome::Stopped(reason) => self.after_stop(*reason, totals),
            RunOutcome::Failed {
                remedy: Some(remedy), ..
            } => sentence(remedy),
            RunOutcome::Failed { retryable: true, .. } => sentence(AGAIN),
            RunOutcome::Failed { .. } => {
                "Fix the errors in errors.first, then run the same command again.".into()
            }
        }
    }
}

/// Why a run can simply be repeated.
const AGAIN: &str =
    "run the same command again: --on-conflict overwrites or skips the records that were written";

/// What all workspaces contain that is not selected; `None` if that is unknown for one of them.
fn left_out(workspaces: &[WorkspaceReport]) -> Option<Vec<LeftOutRecords>> {
    let mut all = LeftOut::default();
    for workspace in workspaces {
        for LeftOutRecords { kind, records } in workspace.left_out.as_ref()? {
            all.add(kind.clone(), LeftOutKind::OTHER, *records);
        }
    }
    (!workspaces.is_empty()).then(|| all.list())
}

/// Makes a clause a sentence.
pub(super) fn sentence(clause: &str) -> String {
    let mut characters = clause.chars();
    let first = characters
        .next()
        .map(|c| c.to_uppercase().to_string())
        .unwrap_or_default();
    let rest = characters.as_str().trim_end_matches('.');
    let end = if rest.ends_with('?') { "" } else { "." };
    format!("{first}{rest}{end}")
}

//! How a run ended, and what its report concludes from the numbers.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

use super::{
    BatchTotals, ErrorTotals, ReadBackReport, Rehearsal, Report, Status, TOOL, Totals, VERSION, Verification,
    WorkspaceReport, percent, reporter::timestamp,
};
use crate::{
    model::{
        Error, ExitCode, ForetoldHits, LeftOut, LeftOutKind, LeftOutRecords, Location, Mode, VerifyLevel,
        number_of, plural,
    },
    system::shutdown::StopReason,
};

/// How a run came to its end.
#[derive(Debug)]
pub enum RunOutcome {
    /// It did all it was to do.
    Done,
    /// The person at the terminal left it before there was anything to do.
    Left,
    /// Somebody stopped it.
    Stopped(StopReason),
    /// An error ended it.
    Failed {
        /// The exit code.
        exit_code: ExitCode,
        /// Whether the same command may succeed later.
        retryable: bool,
        /// What to do about it.
        remedy: Option<String>,
    },
}

impl RunOutcome {
    /// The ending that an error brings.
    pub fn of(error: &Error) -> Self {
        Self::Failed {
            exit_code: error.exit_code(),
            retryable: error.is_temporary(),
            remedy: error.remedy().map(str::to_owned),
        }
    }

    /// The ending that an error brings to a run that may have been asked to stop: what was given up for that alone did not
    /// end it.
    pub fn of_run(error: &Error, asked: Option<StopReason>) -> Self {
        match asked {
            Some(reason) if error.is_abandoned() => Self::Stopped(reason),
            _ => Self::of(error),
        }
    }
}

/// What a target is to LightRAG.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetUse {
    /// The run did not come so far as to know.
    Unknown,
    /// LightRAG uses it with this class.
    Class(&'static str),
    /// LightRAG does not use it: what is there is kept to be moved on.
    Kept,
}

/// The numbers of a run at one moment, as a report is made of them.
#[derive(Clone, Debug)]
pub struct RunNumbers {
    /// What the run was to do.
    pub mode: Mode,
    /// When it began.
    pub started_at: Timestamp,
    /// How long it has taken.
    pub duration: Duration,
    /// How long it has moved records, without counts and verification.
    pub moving: Duration,
    /// Records that an earlier run of the same job had written; they are among the numbers of the workspaces.
    pub written_before: u64,
    /// Their bytes.
    pub bytes_before: u64,
    /// What is read.
    pub source: Option<Location>,
    /// What is written.
    pub target: Option<Location>,
    /// What the target is to LightRAG.
    pub target_use: TargetUse,
    /// The share of the source that the run was to move, as `0/4`; `None` for everything.
    pub shard: Option<String>,
    /// The workspaces, in the order of the run.
    pub workspaces: Vec<WorkspaceReport>,
    /// The batches.
    pub batches: BatchTotals,
    /// What went wrong.
    pub errors: ErrorTotals,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// Whether something of the source could not even be read: behind damage, or a whole workspace.
    pub is_incomplete: bool,
    /// What was read back of what was written.
    pub read_back: Option<ReadBackReport>,
    /// What a verification found.
    pub verification: Option<Verification>,
    /// What LightRAG will find of what was moved or looked at.
    pub hits: Option<ForetoldHits>,
    /// The checkpoint file.
    pub checkpoint: Option<String>,
    /// The rejects file.
    pub rejects: Option<String>,
    /// The file with every difference.
    pub differences: Option<String>,
}

impl RunNumbers {
    /// No numbers yet.
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

    /// The report of a run that ended so.
    pub fn into_report(self, ending: &RunOutcome) -> Report {
        let mut totals = Totals::default();
        let mut by_cache_type = BTreeMap::new();
        for workspace in &self.workspaces {
            totals.add(&workspace.totals);
            for (cache_type, numbers) in &workspace.by_cache_type {
                by_cache_type
                    .entry(cache_type.clone())
                    .or_insert_with(Totals::default)
                    .add(numbers);
            }
        }
        // The whole is known where each part is.
        let rehearsals: Option<Vec<Rehearsal>> = match self.mode {
            Mode::DryRun => self
                .workspaces
                .iter()
                .map(|workspace| workspace.rehearsal)
                .collect(),
            Mode::Migrate | Mode::Verify => None,
        };
        let rehearsal = rehearsals
            .filter(|_| matches!(ending, RunOutcome::Done))
            .map(|parts| {
                let mut all = Rehearsal::default();
                parts.into_iter().for_each(|part| all.add(part));
                all
            });
        let is_partial = totals.rejected > 0 || self.is_incomplete;
        let (status, exit_code) = Self::status(ending, is_partial);
        let per_second = |number: u64| number as f64 / self.moving.as_secs_f64().max(0.001);
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
            success_rate: (totals.done() > 0)
                .then(|| percent(totals.written + totals.skipped, totals.selected)),
            records_per_second: (per_second(totals.written.saturating_sub(self.written_before)) * 10.0)
                .round()
                / 10.0,
            bytes_per_second: per_second(totals.bytes.saturating_sub(self.bytes_before)) as u64,
            next: self.next(ending, &totals),
            totals,
            by_cache_type,
            left_out: left_out(&self.workspaces),
            shard: self.shard,
            source: self.source,
            target: self.target,
            workspaces: self.workspaces,
            to_move: rehearsal.map(|all| all.to_move),
            new: rehearsal.map(|all| all.new),
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

    /// What a verification that found no difference says, and no more than it says.
    fn agreement(&self) -> String {
        let Some(found) = &self.verification else {
            return "Nothing was compared.".to_owned();
        };
        let numbers = &found.numbers;
        if numbers.compared == 0 {
            return "There was nothing to compare; if you expected records, check source, workspace and types.".to_owned();
        }
        let mut but = Vec::new();
        if numbers.kept > 0 {
            but.push(format!(
                "{} {} another value there, which --on-conflict keeps",
                numbers.kept,
                plural(numbers.kept, "has", "have")
            ));
        }
        if numbers.unmovable > 0 {
            but.push(format!("{} cannot be stored there", numbers.unmovable));
        }
        if numbers.invalid > 0 {
            but.push(format!(
                "{} further {} of the source {}",
                numbers.invalid,
                plural(numbers.invalid, "entry", "entries"),
                plural(numbers.invalid, "is no record", "are no records")
            ));
        }
        match (but.as_slice(), found.level) {
            ([], VerifyLevel::Full) => "Source and target agree.".to_owned(),
            ([], _) => format!(
                "Source and target agree in the {} that {} compared.",
                number_of(numbers.compared, "record"),
                plural(numbers.compared, "was", "were")
            ),
            (but, _) => format!(
                "Of {} that {} compared, {}.",
                number_of(numbers.compared, "record"),
                plural(numbers.compared, "was", "were"),
                but.join(" and ")
            ),
        }
    }

    /// Whether records of a workspace with a name went to the one without.
    fn moves_to_empty_workspace(&self) -> bool {
        let mut workspaces = self.workspaces.iter();
        workspaces.any(|workspace| workspace.to.name().is_empty() && !workspace.from.name().is_empty())
    }

    /// What comes after a run that moved everything.
    fn after_moving(&self) -> String {
        let class = match self.target_use {
            TargetUse::Kept => {
                let target = self.target.as_ref().map_or("FILE", |target| &target.location);
                return format!(
                    "To restore the records, run with --source {target}. The source is unchanged."
                );
            }
            TargetUse::Class(class) => format!(" (LIGHTRAG_KV_STORAGE={class})"),
            TargetUse::Unknown => String::new(),
        };
        if self.moves_to_empty_workspace() {
            return format!(
                "Point LightRAG at the target{class} with no WORKSPACE set: the records are in the empty workspace. The \
                 source is unchanged."
            );
        }
        format!("Point LightRAG at the target{class} and restart it. The source is unchanged.")
    }

    fn next(&self, ending: &RunOutcome, totals: &Totals) -> String {
        let is_incomplete = self.is_incomplete;
        let again = "run the same command again: records that are there already are written over or skipped by \
                     --on-conflict";
        match ending {
            RunOutcome::Done if self.mode == Mode::DryRun && is_incomplete => {
                "Look at the warnings: some of the source cannot be read, and would not be migrated.".into()
            }
            RunOutcome::Done if self.mode == Mode::DryRun && totals.selected == 0 => "There is nothing to migrate.".into(),
            RunOutcome::Done if self.mode == Mode::DryRun => "Run the same command with --yes instead of --dry-run.".into(),
            RunOutcome::Done if self.mode == Mode::Verify => self.agreement(),
            RunOutcome::Done if is_incomplete => {
                "Look at the warnings: some of the source could not be read, and was not migrated.".into()
            }
            RunOutcome::Done if totals.rejected > 0 => {
                "Look at errors.first and the reject events (--rejects keeps the records), mend those at the source, \
                 and run the same command again."
                    .into()
            }
            RunOutcome::Done if totals.selected == 0 => {
                "There was nothing to migrate; if you expected records, check source, workspace and types.".into()
            }
            RunOutcome::Done if totals.written == 0 && self.has_copies() => {
                "Copies were added, and nothing else was changed; start LightRAG again if it runs.".into()
            }
            RunOutcome::Done => self.after_moving(),
            RunOutcome::Left => "Nothing was chosen, and nothing was done.".into(),
            RunOutcome::Stopped(reason) => {
                let stays = if totals.written > 0 { " What was written stays." } else { "" };
                if self.checkpoint.is_some() {
                    return format!("Stopped: {}.{stays} To finish, add --resume.", reason.as_str());
                }
                format!("Stopped: {}.{stays} To finish, {again}.", reason.as_str())
            }
            RunOutcome::Failed { remedy: Some(remedy), .. } => sentence(remedy),
            RunOutcome::Failed { retryable: true, .. } => sentence(again),
            RunOutcome::Failed { .. } => "Mend what errors.first names, then run the same command again.".into(),
        }
    }
}

/// What all workspaces have beyond the selection; `None` where that is not known of one of them, or of any.
fn left_out(workspaces: &[WorkspaceReport]) -> Option<Vec<LeftOutRecords>> {
    let mut all = LeftOut::default();
    for workspace in workspaces {
        for LeftOutRecords { kind, records } in workspace.left_out.as_ref()? {
            all.add(kind.clone(), LeftOutKind::OTHER, *records);
        }
    }
    (!workspaces.is_empty()).then(|| all.list())
}

/// A clause as a sentence.
fn sentence(clause: &str) -> String {
    let mut characters = clause.chars();
    let first = characters
        .next()
        .map(|c| c.to_uppercase().to_string())
        .unwrap_or_default();
    let rest = characters.as_str().trim_end_matches('.');
    let end = if rest.ends_with('?') { "" } else { "." };
    format!("{first}{rest}{end}")
}

//! Two storages in memory, and runs between them.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::{
    engine::{run::Run, stats::RunStats},
    model::{
        Error, Mode, NamedPair, NamedWorkspace, OnConflict, Origin, Result, Selection, Settings, Side,
        Values, VerifyLevel, Workspace, WorkspaceChoice,
        record::{CacheKey, OnInvalid, Record},
    },
    report::{Event, Report, Reporter, RunOutcome},
    storage::{
        Endpoint, Route,
        memory::{Call, Fault, Memory, Script},
    },
    system::shutdown::{Shutdown, StopReason},
};

/// A source, a target, and how records are moved from one to the other.
pub(super) struct World {
    pub(super) source: Arc<Memory>,
    pub(super) target: Arc<Memory>,
    pub(super) settings: Settings,
    pub(super) workspaces: Vec<Workspace>,
    /// Whether all workspaces of the source are moved, instead of those.
    pub(super) has_all: bool,
    /// Where each of them goes; empty where each keeps its name.
    pub(super) targets: Vec<Workspace>,
    /// What names the workspaces.
    pub(super) origin: Origin,
    /// The folder of the checkpoint and rejects files.
    folder: tempfile::TempDir,
    /// Stops a run at an event, by its number.
    pub(super) stop_at: Option<(usize, StopReason)>,
}

/// A run that came to its end.
pub(super) struct Ran {
    pub(super) outcome: RunOutcome,
    pub(super) report: Report,
    pub(super) events: Vec<Event>,
    /// How long it took, by the paused clock.
    pub(super) took: Duration,
}

/// Unwinds a run that is killed.
struct Killed;

/// `None` if the run was killed; any other panic continues to unwind.
fn unless_killed<T>(run: impl FnOnce() -> Option<T>) -> Option<T> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| match panic.is::<Killed>() {
        true => None,
        false => resume_unwind(panic),
    })
}

/// Any whole number that is not zero.
pub(super) fn number(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap()
}

pub(super) fn key(n: usize) -> String {
    let cache_type = ["extract", "summary", "analysis"][n % 3];
    format!("default:{cache_type}:{n:04}")
}

pub(super) fn record(key: &str, answer: &str, update_time: u64) -> Record {
    let value = serde_json::json!({"return": answer, "update_time": update_time}).to_string();
    Record::new(CacheKey::from(key), Bytes::from(value)).unwrap()
}

pub(super) fn records(count: usize) -> Vec<Record> {
    (0..count)
        .map(|n| record(&key(n), &format!("answer {n}"), 100))
        .collect()
}

/// Records as [`Memory::durable`] gives them.
pub(super) fn texts(records: &[Record]) -> BTreeMap<String, String> {
    let text = |record: &Record| {
        let value = String::from_utf8(record.value().to_vec()).unwrap();
        (record.key().to_string(), value)
    };
    records.iter().map(text).collect()
}

impl World {
    /// A source with so many records, an empty target, batches of three.
    pub(super) fn new(count: usize) -> Self {
        let workspace = Workspace::new("w").unwrap();
        let world = Self {
            source: Arc::new(Memory::new("source")),
            target: Arc::new(Memory::new("target")),
            settings: Settings {
                mode: Mode::Migrate,
                selection: Selection::default(),
                on_conflict: OnConflict::Overwrite,
                on_invalid: OnInvalid::Reject,
                batch_records: number(3),
                rate_limit: None,
                batch_bytes: None,
                concurrency: number(2),
                timeout: Duration::from_secs(30),
                retries: 3,
                max_duration: None,
                max_errors: None,
                verify: VerifyLevel::ReadBack,
                checkpoint: None,
                resume: false,
                rejects: None,
                differences: None,
                salvage: false,
                yes: true,
                fail_on_empty: false,
                allow_missing: false,
                lightrag: None,
                rekey: crate::model::Rekey::Off,
            },
            workspaces: vec![workspace.clone()],
            has_all: false,
            targets: Vec::new(),
            origin: Origin::Default,
            folder: tempfile::tempdir().unwrap(),
            stop_at: None,
        };
        world.source.put(&workspace, records(count));
        world
    }

    /// A file of the run, by its name.
    pub(super) fn file(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn with_checkpoint(mut self) -> Self {
        self.settings.checkpoint = Some(self.folder.path().join("checkpoint"));
        self
    }

    /// An empty target that shows what it was given when it is flushed, or only at the end of a run.
    pub(super) fn with_target_visible_when_flushed(mut self, is_visible: bool) -> Self {
        let mut target = Memory::new("target");
        target.is_visible_when_flushed = is_visible;
        self.target = Arc::new(target);
        self
    }

    /// Adds a workspace with so many records at the source.
    pub(super) fn add_workspace(&mut self, name: &str, count: usize) {
        let workspace = Workspace::new(name).unwrap();
        self.source.put(&workspace, records(count));
        self.workspaces.push(workspace);
    }

    /// So many workspaces in all, the others with this number of records at the source.
    pub(super) fn with_workspaces(mut self, workspaces: usize, count: usize) -> Self {
        for number in 1..workspaces {
            self.add_workspace(&format!("w{number}"), count);
        }
        self
    }

    pub(super) fn workspace(&self) -> &Workspace {
        &self.workspaces[0]
    }

    /// What is durable at the target.
    pub(super) fn kept(&self) -> BTreeMap<String, String> {
        self.target.durable(self.workspace())
    }

    pub(super) fn fault(&self, side: Side, call: Call, from: usize, times: usize, fault: Fault) {
        let memory = match side {
            Side::Source => &self.source,
            Side::Target => &self.target,
        };
        memory.add_fault(Script {
            call,
            from,
            times,
            fault,
        });
    }

    fn route(&self) -> Route {
        let endpoint = |side, memory: &Arc<Memory>| Endpoint {
            connector: memory.connector(),
            values: Values::new(side),
        };
        let named = |workspace: &Workspace| NamedWorkspace::new(workspace.clone(), self.origin.clone());
        let pair = |(number, workspace): (usize, &Workspace)| NamedPair {
            from: named(workspace),
            to: named(self.targets.get(number).unwrap_or(workspace)),
        };
        Route {
            source: endpoint(Side::Source, &self.source),
            target: endpoint(Side::Target, &self.target),
            workspaces: match self.has_all {
                true => WorkspaceChoice::All,
                false => WorkspaceChoice::Pairs(self.workspaces.iter().enumerate().map(pair).collect()),
            },
        }
    }

    /// Runs to the end, whatever that is.
    pub(super) fn run(&self) -> Ran {
        self.run_until(usize::MAX).unwrap()
    }

    /// Runs until so many events were reported; then the process is killed. `None` where it was.
    pub(super) fn run_until(&self, most: usize) -> Option<Ran> {
        self.run_observed(most, Box::new(|_| ()))
    }

    /// As [`World::run_until`], with somebody who sees every event when it is reported.
    pub(super) fn run_observed(
        &self,
        most: usize,
        observer: Box<dyn Fn(&Event) + Send + Sync>,
    ) -> Option<Ran> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let killed = CancellationToken::new();
        let events = Arc::new(Mutex::new(Vec::new()));
        let shutdown = Shutdown::default();
        let see = {
            let (events, killed, shutdown) = (Arc::clone(&events), killed.clone(), shutdown.clone());
            let (source, target) = (Arc::clone(&self.source), Arc::clone(&self.target));
            let (seen, stop_at) = (AtomicUsize::new(0), self.stop_at);
            move |event: &Event| {
                let number = seen.fetch_add(1, Ordering::SeqCst) + 1;
                events
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(event.clone());
                observer(event);
                if let Some((at, reason)) = stop_at
                    && at == number
                {
                    shutdown.stop(reason);
                }
                if number >= most {
                    // Nothing happens after this: neither here, nor in tasks, nor at the storages.
                    source.die();
                    target.die();
                    killed.cancel();
                    resume_unwind(Box::new(Killed));
                }
            }
        };
        let reporter = Arc::new(Reporter::observed(Shutdown::default(), Box::new(see)));
        let stats = RunStats::new(self.settings.mode);
        let run = Run {
            settings: &self.settings,
            reporter: &reporter,
            stats: &stats,
            shutdown: &shutdown,
        };
        let route = self.route();
        let (result, took) = unless_killed(|| {
            runtime.block_on(async {
                let started = tokio::time::Instant::now();
                if let Some(limit) = self.settings.max_duration {
                    shutdown.stop_after(limit);
                }
                tokio::select! {
                    biased;
                    () = killed.cancelled() => None,
                    result = run.execute(&route) => Some((result, started.elapsed())),
                }
            })
        })?;
        drop(runtime);
        let events = std::mem::take(&mut *events.lock().unwrap_or_else(PoisonError::into_inner));
        let ran = self.end(&stats, result, shutdown.reason(), events, took);
        assert_adds_up(&ran.report);
        assert_eq!(self.target.misuse(), [""; 0]);
        Some(ran)
    }

    /// Ends a run as the program does.
    fn end(
        &self,
        stats: &RunStats,
        result: Result<RunOutcome>,
        asked: Option<StopReason>,
        events: Vec<Event>,
        took: Duration,
    ) -> Ran {
        let outcome = result.unwrap_or_else(|error: Error| {
            stats.record_failure(&error);
            RunOutcome::of_run(&error, asked)
        });
        Ran {
            report: stats.report(&outcome),
            outcome,
            events,
            took,
        }
    }

    /// Another process comes after one that was killed.
    pub(super) fn revive(&mut self, lose: bool) {
        self.source.revive(false);
        self.target.revive(lose);
        self.settings.resume = true;
    }
}

impl Ran {
    pub(super) fn is_done(&self) -> bool {
        matches!(self.outcome, RunOutcome::Done)
    }

    pub(super) fn retries(&self) -> usize {
        self.events
            .iter()
            .filter(|event| matches!(event, Event::Retry(_)))
            .count()
    }

    pub(super) fn checkpoints(&self) -> usize {
        let is_checkpoint = |event: &&Event| matches!(event, Event::Checkpoint(_));
        self.events.iter().filter(is_checkpoint).count()
    }
}

/// The numbers of a report add up, in each of its parts and between them.
pub(super) fn assert_adds_up(report: &Report) {
    let mut all = crate::report::Totals::default();
    let mut parts = vec![&report.totals];
    parts.extend(report.by_cache_type.values());
    for workspace in &report.workspaces {
        parts.push(&workspace.totals);
        parts.extend(workspace.by_cache_type.values());
        all.add(&workspace.totals);
        let selected: u64 = workspace
            .by_cache_type
            .values()
            .map(|totals| totals.selected)
            .sum();
        assert_eq!(selected, workspace.totals.selected, "{report:#?}");
    }
    for totals in parts {
        assert_eq!(
            totals.selected,
            totals.written + totals.skipped + totals.rejected + totals.not_attempted,
            "{report:#?}"
        );
    }
    assert_eq!(all, report.totals, "{report:#?}");
    let batches = &report.batches;
    assert_eq!(
        batches.total,
        batches.ok + batches.partial + batches.failed,
        "{report:#?}"
    );
    let by_kind: u64 = report.errors.by_kind.values().sum();
    assert_eq!(by_kind, report.errors.total, "{report:#?}");
    assert!(report.errors.total >= report.totals.rejected, "{report:#?}");
}

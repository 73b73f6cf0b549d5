//! The report as metrics in Prometheus text format: a file for the textfile collector of the node exporter, or the body of
//! a request to a Pushgateway.
//!
//! Nearly every metric is a gauge that describes the last run. The number of runs and the time of the last success are
//! carried over from what is replaced.
//!
//! The format is written by hand: crates for metrics measure a running process, and `prometheus-client` writes
//! OpenMetrics, which the collector does not parse.
//!
//! Source: <https://prometheus.io/docs/instrumenting/exposition_formats/#text-format-details>

use std::{collections::BTreeMap, fmt::Write as _, io::ErrorKind::NotFound, path::Path};

use jiff::Timestamp;
use serde_json::Value as Json;

use super::{Report, Status, Totals, VerifyNumbers, word};
use crate::{
    model::{Error, Mode, Result},
    system::atomic_file,
};

/// The prefix of every name.
const PREFIX: &str = "migrate_llm_cache_";

/// Metrics that are carried over, with the labels of their series.
const ACCUMULATED: [(&str, &[&str]); 2] = [
    ("runs_total", &["migration", "mode", "status"]),
    ("last_success_timestamp_seconds", &["migration", "mode"]),
];

/// Replaces the file with the metrics of a report, and returns its new text.
///
/// The label `migration` is the name of the file without its extension: the collector reads a whole folder and rejects
/// it if two files contain the same series.
///
/// # Errors
/// The file cannot be read or written.
pub fn write(path: &Path, report: &Report) -> Result<String> {
    let failed = |what: &str, error: std::io::Error| {
        Error::config(format!("--metrics: cannot {what} {}: {error}", path.display()))
    };
    let before = match std::fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == NotFound => String::new(),
        Err(error) => return Err(failed("read", error)),
    };
    let migration = path.file_stem().unwrap_or_default().to_string_lossy();
    let text = text(&migration, report, &before);
    atomic_file::replace(path, text.as_bytes()).map_err(|error| failed("write", error))?;
    Ok(text)
}

/// The metrics of a report, with the label `migration`; `before` is the text of the run before.
pub fn text(migration: &str, report: &Report, before: &str) -> String {
    let mut metrics = Exposition {
        text: String::new(),
        before,
        migration,
    };
    metrics.whole_run(report);
    metrics.records(report);
    metrics.troubles(report);
    metrics.text
}

/// What a group of metrics in a Pushgateway has of those that are carried over, as the text of a run before.
///
/// `listing` is the answer to `GET /api/v1/metrics`, `group` the labels of the group.
pub fn accumulated(listing: &Json, group: &BTreeMap<String, String>) -> String {
    let groups = listing["data"].as_array().into_iter().flatten();
    let mut text = String::new();
    let group = serde_json::json!(group);
    for found in groups.filter(|found| found["labels"] == group) {
        for (name, labels) in ACCUMULATED {
            let samples = found[format!("{PREFIX}{name}")]["metrics"].as_array();
            for sample in samples.into_iter().flatten() {
                let labels = labels.iter().map(|label| {
                    let value = sample["labels"][*label].as_str().unwrap_or_default();
                    format!("{label}=\"{}\"", escaped(value))
                });
                let labels: Vec<String> = labels.collect();
                let value = sample["value"].as_str().unwrap_or_default();
                let _ = writeln!(text, "{PREFIX}{name}{{{}}} {value}", labels.join(","));
            }
        }
    }
    text
}

/// The labels, without `migration`, and the value.
type Sample<'a> = (Vec<(&'static str, &'a str)>, f64);

struct Exposition<'a> {
    text: String,
    before: &'a str,
    migration: &'a str,
}

impl Exposition<'_> {
    fn whole_run(&mut self, report: &Report) {
        let mode = word(&report.mode);
        let status = word(&report.status);
        let place = |location: &Option<crate::model::Location>| {
            let location = location.as_ref();
            location.map_or_else(Default::default, |at| (at.kind.clone(), at.location.clone()))
        };
        let (source_kind, source) = place(&report.source);
        let (target_kind, target) = place(&report.target);
        let finished = report.finished_at.parse::<Timestamp>().unwrap_or_default();
        let finished = finished.as_millisecond() as f64 / 1000.0;

        let mut labels = vec![
            ("version", report.version.as_str()),
            ("mode", &mode),
            ("source_kind", &source_kind),
            ("source", &source),
            ("target_kind", &target_kind),
            ("target", &target),
        ];
        labels.extend(report.shard.as_deref().map(|shard| ("shard", shard)));
        self.gauge(
            "info",
            "Version, mode, source and target of the last run; always 1.",
            [(labels, 1.0)],
        );

        self.runs(&mode, &status);
        self.successes(report, &mode, finished);
        let one = |value| [(Vec::new(), value)];
        self.gauge(
            "last_run_timestamp_seconds",
            "When the last run ended.",
            one(finished),
        );
        let seconds = report.duration_ms as f64 / 1000.0;
        self.gauge(
            "last_run_duration_seconds",
            "Duration of the last run.",
            one(seconds),
        );
        let exit_code = f64::from(report.exit_code);
        self.gauge(
            "last_run_exit_code",
            "The exit code of the last run.",
            one(exit_code),
        );
        let statuses = STATUSES.map(|status| (word(&status), f64::from(status == report.status)));
        let statuses = statuses
            .iter()
            .map(|(name, value)| (vec![("status", name.as_str())], *value));
        self.gauge(
            "last_run_status",
            "How the last run ended: 1 for its status, 0 for the others.",
            statuses,
        );
    }

    /// Counts the runs by mode and status, including those before.
    fn runs(&mut self, mode: &str, status: &str) {
        let words = |mode: &Mode| STATUSES.map(|status| (word(mode), word(&status)));
        let runs: Vec<_> = MODES.iter().flat_map(words).collect();
        let runs = runs.iter().filter_map(|(of, ended)| {
            let labels = vec![("mode", of.as_str()), ("status", ended.as_str())];
            let before = self.carried("runs_total", &labels);
            let now = (of == mode).then_some(f64::from(ended == status));
            // A rate needs an initial zero.
            (before.is_some() || now.is_some())
                .then(|| (labels, before.unwrap_or_default() + now.unwrap_or_default()))
        });
        let runs = runs.collect();
        self.family("runs_total", "counter", "Runs that ended.", runs);
    }

    /// When a run of each mode last succeeded, including the runs before.
    fn successes(&mut self, report: &Report, mode: &str, finished: f64) {
        let modes = MODES.map(|mode| word(&mode));
        let successes = modes.iter().filter_map(|of| {
            let labels = vec![("mode", of.as_str())];
            let is_now = *of == mode && report.status == Status::Ok;
            let value = if is_now {
                Some(finished)
            } else {
                self.carried("last_success_timestamp_seconds", &labels)
            };
            Some((labels, value?))
        });
        let successes = successes.collect();
        self.family(
            "last_success_timestamp_seconds",
            "gauge",
            "When a run last ended with exit code 0.",
            successes,
        );
    }

    fn records(&mut self, report: &Report) {
        /// The labels and numbers of each workspace and cache type.
        fn by_type(report: &Report) -> impl Iterator<Item = (Vec<(&'static str, &str)>, &Totals)> {
            report.workspaces.iter().flat_map(|workspace| {
                workspace.by_cache_type.iter().map(|(cache_type, totals)| {
                    let labels = vec![
                        ("workspace", workspace.from.name()),
                        ("cache_type", cache_type.as_str()),
                    ];
                    (labels, totals)
                })
            })
        }
        let results = by_type(report).flat_map(|(labels, totals)| {
            [
                ("written", totals.written),
                ("skipped", totals.skipped),
                ("rejected", totals.rejected),
                ("not_attempted", totals.not_attempted),
            ]
            .map(|(result, number)| {
                let mut labels = labels.clone();
                labels.push(("result", result));
                (labels, number as f64)
            })
        });
        self.gauge(
            "last_run_records",
            "Selected records of the last run, by result.",
            results,
        );
        let sanitized = by_type(report).map(|(labels, totals)| (labels, totals.sanitized as f64));
        self.gauge(
            "last_run_sanitized_records",
            "Written records from which invalid characters were removed.",
            sanitized,
        );
        let bytes = by_type(report).map(|(labels, totals)| (labels, totals.bytes as f64));
        self.gauge(
            "last_run_written_bytes",
            "Bytes of keys and values of the written records.",
            bytes,
        );

        self.counted(report);
        if let Some(verification) = &report.verification {
            self.compared(&verification.numbers);
        }
    }

    /// What each side had before the run.
    fn counted(&mut self, report: &Report) {
        let workspaces = || report.workspaces.iter();
        let there = workspaces()
            .filter_map(|of| Some((vec![("workspace", of.from.name())], of.source_records? as f64)));
        self.gauge(
            "last_run_source_records",
            "Selected records that the source had before the last run.",
            there,
        );
        let there = workspaces().filter_map(|of| {
            Some((
                vec![("workspace", of.from.name())],
                of.target_records_before? as f64,
            ))
        });
        self.gauge(
            "last_run_target_records",
            "Records of the selected types that the target had before the last run.",
            there,
        );
    }

    fn compared(&mut self, numbers: &VerifyNumbers) {
        let results = [
            ("equal", Some(numbers.equal)),
            ("kept", Some(numbers.kept)),
            ("unmovable", Some(numbers.unmovable)),
            ("missing", Some(numbers.missing)),
            ("different", Some(numbers.different)),
            ("beyond", numbers.beyond),
        ];
        let results = results
            .into_iter()
            .filter_map(|(result, number)| Some((vec![("result", result)], number? as f64)));
        self.gauge(
            "last_run_verified_records",
            "Records that the last run compared, by result; beyond: records that only the target has.",
            results,
        );
    }

    fn troubles(&mut self, report: &Report) {
        let batches = &report.batches;
        let results = [
            ("ok", batches.ok),
            ("partial", batches.partial),
            ("failed", batches.failed),
        ];
        let results = results.map(|(result, number)| (vec![("result", result)], number as f64));
        self.gauge("last_run_batches", "Batches of the last run, by result.", results);
        self.gauge(
            "last_run_retried_batches",
            "Batches that were written after a retry.",
            [(Vec::new(), batches.retried as f64)],
        );
        let kinds = report
            .errors
            .by_kind
            .iter()
            .map(|(kind, number)| (vec![("kind", kind.as_str())], *number as f64));
        self.gauge(
            "last_run_errors",
            "Rejected records and the error that ended the last run, by kind.",
            kinds,
        );
        self.gauge(
            "last_run_warnings",
            "Warnings of the last run.",
            [(Vec::new(), report.warnings.len() as f64)],
        );
    }

    fn gauge<'s>(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = Sample<'s>>) {
        self.family(name, "gauge", help, samples.into_iter().collect());
    }

    fn family(&mut self, name: &str, kind: &str, help: &str, samples: Vec<Sample<'_>>) {
        if samples.is_empty() {
            return;
        }
        let _ = writeln!(
            self.text,
            "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} {kind}"
        );
        for (labels, value) in samples {
            let series = self.series(name, &labels);
            let _ = writeln!(self.text, "{series} {value}");
        }
    }

    fn series(&self, name: &str, labels: &[(&str, &str)]) -> String {
        let mut series = format!("{PREFIX}{name}{{migration=\"{}\"", escaped(self.migration));
        for (label, value) in labels {
            let _ = write!(series, ",{label}=\"{}\"", escaped(value));
        }
        series.push('}');
        series
    }

    /// The value of a series in the text of the run before. This program made that text, so a line can be found by its prefix.
    fn carried(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let series = self.series(name, labels);
        let mut lines = self.before.lines();
        lines.find_map(|line| line.strip_prefix(&series)?.trim().parse().ok())
    }
}

const MODES: [Mode; 3] = [Mode::Migrate, Mode::DryRun, Mode::Verify];
const STATUSES: [Status; 6] = [
    Status::Ok,
    Status::Partial,
    Status::Failed,
    Status::Refused,
    Status::Interrupted,
    Status::Differences,
];

/// Escapes the value of a label.
fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

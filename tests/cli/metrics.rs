//! `--metrics`: what a monitor reads. `ci/operation.sh` has Prometheus's own tool read it too.

use std::{collections::BTreeMap, os::unix::fs::PermissionsExt};

use serde_json::json;

use crate::{
    scene::{Scene, value},
    support::tool::Run,
};

const PREFIX: &str = "migrate_llm_cache_";

/// The series of a file by name and labels, the label `migration` and the prefix left out.
///
/// Fails where the text is not what the format's description demands of a writer.
struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    fn of(scene: &Scene, file: &str) -> Self {
        let text = std::fs::read_to_string(scene.path(file)).unwrap();
        let migration = format!("{{migration=\"{}\"", file.strip_suffix(".prom").unwrap());
        assert!(text.ends_with('\n'), "the last line ends");
        let mut series = BTreeMap::new();
        let mut families = Vec::new();
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').expect("help");
                assert!(help.ends_with('.') && !help.contains('\\'), "{line}");
                assert!(
                    name.strip_prefix(PREFIX).is_some_and(is_name) && !families.contains(&name),
                    "{line}"
                );
                families.push(name);
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect("a type");
                assert_eq!(
                    Some(&name),
                    families.last(),
                    "HELP, TYPE and samples of a family stand together"
                );
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                assert!(kind == "counter" || kind == "gauge", "{line}");
            } else {
                let (name, labels) = line.split_once('{').expect("labels");
                assert_eq!(Some(&name), families.last(), "{line}");
                let (labels, number) = labels.rsplit_once("} ").expect("a value");
                check_labels(labels);
                let number: f64 = number.parse().expect(line);
                let key = line.rsplit_once(' ').unwrap().0;
                let key = key.replacen(&migration, "{", 1).replacen("{,", "{", 1);
                let key = key.strip_prefix(PREFIX).unwrap().replace("{}", "");
                assert_eq!(series.insert(key, number), None, "twice: {line}");
            }
        }
        Self(series)
    }

    fn get(&self, series: &str) -> Option<f64> {
        self.0.get(series).copied()
    }

    fn sum(&self, name: &str, label: &str) -> f64 {
        let name = format!("{name}{{");
        let of = self
            .0
            .iter()
            .filter(|(key, _)| key.starts_with(&name) && key.contains(label));
        of.map(|(_, number)| number).sum()
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

/// `name="value"` between commas, each name once; in a value `\`, `"` and line breaks are escaped.
fn check_labels(text: &str) {
    let mut names = Vec::new();
    let mut rest = text;
    loop {
        let (name, value) = rest.split_once("=\"").expect("name and value");
        assert!(is_name(name) && !names.contains(&name), "{text}");
        names.push(name);
        let mut escaped = false;
        let end = value.char_indices().find(|(_, c)| {
            let is_end = *c == '"' && !escaped;
            assert!(!escaped || "\\\"n".contains(*c), "{text}");
            escaped = *c == '\\' && !escaped;
            is_end
        });
        let (end, _) = end.expect("an end of the value");
        rest = &value[end + 1..];
        if rest.is_empty() {
            return;
        }
        rest = rest.strip_prefix(',').expect("a comma");
    }
}

/// The metrics say what the report says.
fn check(run: &Run, metrics: &Metrics) {
    let report = run.report();
    assert_eq!(metrics.get("last_run_exit_code"), Some(f64::from(run.code)));
    let status = report["status"].as_str().unwrap();
    assert_eq!(
        metrics.get(&format!("last_run_status{{status=\"{status}\"}}")),
        Some(1.0)
    );
    assert_eq!(metrics.sum("last_run_status", ""), 1.0);
    for result in ["written", "skipped", "rejected", "not_attempted"] {
        let told = metrics.sum("last_run_records", &format!("result=\"{result}\""));
        assert_eq!(told, report["totals"][result].as_f64().unwrap(), "{result}");
    }
    assert_eq!(
        metrics.sum("last_run_written_bytes", ""),
        report["totals"]["bytes"].as_f64().unwrap()
    );
    assert_eq!(
        metrics.sum("last_run_errors", ""),
        report["errors"]["total"].as_f64().unwrap()
    );
    let warnings = report["warnings"].as_array().unwrap().len();
    assert_eq!(metrics.get("last_run_warnings"), Some(warnings as f64));
}

const MOVE: &str = "--source ./rag_storage --target ./new --all-workspaces --yes --metrics cache.prom";

#[test]
fn the_metrics_say_what_the_report_says_on_every_way_out() {
    let scene = Scene::new();
    scene.cache(
        "odd",
        &json!({"default:extract:1": value("x"), "default:extract:2": 7, "default:nonsense:3": 7}),
    );
    for (line, code) in [
        (MOVE, 0),
        (
            "--source ./rag_storage --target ./new --verify-only --metrics cache.prom",
            0,
        ),
        ("--source ./odd --target ./new --yes --metrics cache.prom", 3),
        ("--source ./rag_storage --target ./new --metrics cache.prom", 2),
        ("--sorce x --metrics cache.prom", 2),
        ("--source ./none --target ./new --metrics=cache.prom", 4),
        (
            "--source ./rag_storage --target ./other --verify-only --metrics cache.prom",
            6,
        ),
        ("--source ./new --target ./new --metrics cache.prom", 10),
    ] {
        let run = scene.run(line).expect(code);
        check(&run, &Metrics::of(&scene, "cache.prom"));
    }
}

#[test]
fn workspaces_and_cache_types_are_told_apart() {
    let scene = Scene::new();
    let run = scene.run(MOVE).expect(0);
    let metrics = Metrics::of(&scene, "cache.prom");
    for workspace in run.report()["workspaces"].as_array().unwrap() {
        let name = workspace["from"].as_str().unwrap();
        for (cache_type, totals) in workspace["by_cache_type"].as_object().unwrap() {
            let series = format!(
                "last_run_records{{workspace=\"{name}\",cache_type=\"{cache_type}\",result=\"written\"}}"
            );
            assert_eq!(metrics.get(&series), totals["written"].as_f64(), "{series}");
        }
        let series = format!("last_run_source_records{{workspace=\"{name}\"}}");
        assert_eq!(metrics.get(&series), workspace["source_records"].as_f64());
    }
    assert!(metrics.sum("last_run_records", "workspace=\"space1\"") > 0.0);
}

#[test]
fn the_last_success_outlives_failures_and_belongs_to_its_mode() {
    let scene = Scene::new();
    scene
        .run("--source ./none --target ./new --yes --metrics cache.prom")
        .expect(4);
    let success = "last_success_timestamp_seconds{mode=\"migrate\"}";
    let runs = |metrics: &Metrics, mode: &str, status: &str| {
        metrics.get(&format!("runs_total{{mode=\"{mode}\",status=\"{status}\"}}"))
    };
    let metrics = Metrics::of(&scene, "cache.prom");
    assert_eq!(metrics.get(success), None, "there was none");
    assert_eq!(runs(&metrics, "migrate", "ok"), Some(0.0));
    assert_eq!(runs(&metrics, "dry_run", "ok"), None);

    scene.run(MOVE).expect(0);
    let metrics = Metrics::of(&scene, "cache.prom");
    let moved = metrics.get(success).unwrap();
    assert_eq!(metrics.get("last_run_timestamp_seconds"), Some(moved));

    scene
        .run("--source ./none --target ./new --yes --metrics cache.prom")
        .expect(4);
    scene
        .run("--source ./rag_storage --target ./new --dry-run --metrics cache.prom")
        .expect(0);
    let metrics = Metrics::of(&scene, "cache.prom");
    assert_eq!(metrics.get(success), Some(moved));
    assert!(
        metrics
            .get("last_success_timestamp_seconds{mode=\"dry_run\"}")
            .unwrap()
            >= moved
    );
    assert_eq!(runs(&metrics, "migrate", "failed"), Some(2.0));
    assert_eq!(runs(&metrics, "migrate", "ok"), Some(1.0));
    assert_eq!(runs(&metrics, "dry_run", "ok"), Some(1.0));
    assert_eq!(runs(&metrics, "dry_run", "failed"), Some(0.0));
}

#[test]
fn names_that_no_label_could_hold_as_they_are_do_no_harm() {
    let scene = Scene::new();
    let odd = "a \"b\" \\ c";
    scene.cache("rag_storage/odd", &json!({"default:extract:1": value("x")}));
    let mut command = scene
        .tool("--source ./rag_storage/odd --target ./new --yes")
        .into_command();
    let name = format!("{odd}.prom");
    for _ in 0..2 {
        let run = Run::of(command.args(["--metrics", &name]).output().unwrap())
            .checked()
            .expect(0);
        command = scene
            .tool("--source ./rag_storage/odd --target ./new --yes")
            .into_command();
        assert_eq!(run.total("written"), 1);
    }
    let text = std::fs::read_to_string(scene.path(&name)).unwrap();
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .for_each(|line| {
            let (labels, _) = line.split_once('{').unwrap().1.rsplit_once("} ").unwrap();
            check_labels(labels);
        });
    assert!(text.contains("{migration=\"a \\\"b\\\" \\\\ c\""), "{text}");
    assert!(text.contains(",mode=\"migrate\",status=\"ok\"} 2\n"), "{text}");
}

#[test]
fn a_file_that_is_none_of_ours_is_replaced_and_another_reader_may_read_it() {
    let scene = Scene::new();
    scene.file(
        "cache.prom",
        "nonsense\u{0}\nmigrate_llm_cache_runs_total{migration=\"cache\"",
    );
    scene.run(MOVE).expect(0);
    assert!(
        Metrics::of(&scene, "cache.prom")
            .get("last_run_exit_code")
            .is_some()
    );
    let mode = scene.path("cache.prom").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o600, 0o600);
    let left: Vec<_> = std::fs::read_dir(scene.path(".")).unwrap().collect();
    assert_eq!(left.len(), 3, "rag_storage, new, cache.prom: {left:?}");
}

//! Shards of a source, and one report of them.

use serde_json::{Value, json};

use crate::{
    scene::Scene,
    support::{place::Place, state},
};

#[test]
fn a_shard_that_is_none_is_refused() {
    let scene = Scene::new();
    for shard in ["4/4", "0/0", "1", "1/5000", "first"] {
        let line = format!("--source ./rag_storage --target ./new --yes --shard {shard}");
        let run = scene.run(&line).expect(2);
        assert!(
            run.message().contains("expected I/N with I from 0 to N-1"),
            "{}",
            run.message()
        );
    }
    let line = "--source ./rag_storage --target ./new --yes --shard auto";
    let run = scene.run(line).expect(2);
    assert!(
        run.message().contains("no engine says which shard this is"),
        "{}",
        run.message()
    );
    let run = scene.tool(line).env("JOB_COMPLETION_INDEX", "1").run().expect(2);
    assert!(
        run.message().contains("JOB_COMPLETIONS is not set"),
        "{}",
        run.message()
    );
}

#[test]
fn a_file_takes_no_shards() {
    let scene = Scene::new();
    for target in ["./new", "new.jsonl.zst"] {
        for how in ["--yes", "--dry-run"] {
            let line = format!("--source ./rag_storage --target {target} {how} --shard 0/2");
            let run = scene.run(&line).expect(10);
            assert!(
                run.message().contains("is replaced as a whole by each run"),
                "{}",
                run.message()
            );
        }
    }
}

#[test]
fn a_rate_that_is_none_is_refused() {
    let scene = Scene::new();
    for rate in ["fast", "0/s", "100", "20MiB"] {
        let line = format!("--source ./rag_storage --target ./new --yes --rate-limit {rate}");
        let run = scene.run(&line).expect(2);
        assert!(
            run.message().contains("such as 1000/s or 20MiB/s"),
            "{}",
            run.message()
        );
    }
}

#[test]
#[ignore = "needs the test servers: scripts/services.sh"]
fn shards_add_up_to_everything_and_their_reports_to_one() {
    let scene = Scene::new();
    let place = Place::new("redis");
    let workspace = place.workspace("w");
    let shard = |shard: &str, report: &str, rest: &str| {
        scene.run(&format!(
            "--source ./rag_storage --target {} --source-workspace space1 --target-workspace {workspace} --yes --shard \
             {shard} --report {report} {rest}",
            place.address
        ))
    };
    for index in 0..3 {
        let run = shard(&format!("{index}/3"), &format!("{index}.json"), "--verify full").expect(0);
        assert_eq!(run.events.last().unwrap()["shard"], format!("{index}/3"));
    }
    assert_eq!(state::of(&place).len(), 22);
    let run = scene
        .run("--merge-reports 0.json 1.json 2.json --report all.json --metrics all.prom")
        .expect(0);
    let merged = run.events.last().unwrap();
    assert_eq!(merged["totals"]["written"], 22);
    assert_eq!(merged["verification"]["compared"], 22);
    assert_eq!(merged["workspaces"].as_array().unwrap().len(), 1);
    assert_eq!(merged["workspaces"][0]["totals"], merged["totals"]);
    assert_eq!(scene.read("all.json")["totals"], merged["totals"]);
    assert!(
        std::fs::read_to_string(scene.path("all.prom"))
            .unwrap()
            .contains("_records{")
    );
    let human = scene
        .run("--merge-reports 0.json 1.json 2.json --output human")
        .expect(0);
    assert!(
        human.stderr.contains("Successfully migrated:            22"),
        "{}",
        human.stderr
    );

    // The worst of them decides.
    let mut failed: Value = scene.read("1.json");
    failed["exit_code"] = json!(5);
    failed["status"] = json!("failed");
    scene.file("1.json", &failed.to_string());
    let run = scene.run("--merge-reports 0.json 1.json 2.json").expect(5);
    assert_eq!(run.events.last().unwrap()["status"], "failed");

    // A checkpoint belongs to its shard.
    shard("0/3", "0.json", "--checkpoint c").expect(0);
    let run = shard("0/4", "0.json", "--checkpoint c --resume").expect(11);
    assert!(run.message().contains("another job"), "{}", run.message());
}

#[test]
fn a_report_of_a_run_without_a_shard_is_not_added_up() {
    let scene = Scene::new();
    scene
        .run("--source ./rag_storage --target ./new --yes --report whole.json")
        .expect(0);
    let run = scene.run("--merge-reports whole.json").expect(4);
    assert_eq!(
        run.message(),
        "--merge-reports: whole.json is the report of a run without --shard"
    );
    assert_eq!(run.report()["next"], "Pass the reports of runs with --shard.");
    assert_eq!(run.total("written"), 0);
}

/// Writes the report of a run, as if it had been one of two shards: a file is a target of a single one only.
fn report_of_shard(scene: &Scene, number: usize, line: &str) {
    let file = format!("{number}.json");
    scene
        .run(&format!("{line} --shard 0/1 --report {file}"))
        .expect(0);
    let mut report: Value = scene.read(&file);
    report["shard"] = json!(format!("{number}/2"));
    scene.file(&file, &report.to_string());
}

#[test]
fn reports_of_different_jobs_are_not_added_up() {
    let scene = Scene::new();
    scene.cache("other", &json!({}));
    let line = "--source ./rag_storage --target ./new --yes";
    report_of_shard(&scene, 0, line);
    for (other, what) in [
        (
            format!("{line} --dry-run"),
            "the mode is migrate in the first and dry_run in the second",
        ),
        (
            line.replace("./new", "./newer"),
            "the target is json ./new in the first and json ./newer in the second",
        ),
        (
            line.replace("./rag_storage", "./other"),
            "the source is json ./rag_storage in the first and json ./other in the second",
        ),
        (
            format!("{line} --types summary,extract"),
            "the types are default in the first and extract,summary in the second",
        ),
        (
            format!("{line} --workspace space1"),
            "only the first has the workspace (empty)",
        ),
    ] {
        report_of_shard(&scene, 1, &other);
        let run = scene
            .run("--merge-reports 0.json 1.json --report all.json")
            .expect(4);
        assert_eq!(
            run.message(),
            format!("--merge-reports: 0.json and 1.json are of different jobs: {what}")
        );
        assert_eq!(run.total("written"), 0);
    }
    report_of_shard(&scene, 1, line);
    scene.run("--merge-reports 0.json 1.json").expect(0);
}

#[test]
fn a_report_with_an_impossible_number_is_none() {
    let scene = Scene::new();
    report_of_shard(&scene, 0, "--source ./rag_storage --target ./new --yes");
    let mut report: Value = scene.read("0.json");
    report["shard"] = json!("1/2");
    report["totals"]["selected"] = json!(u64::MAX);
    scene.file("1.json", &report.to_string());
    let run = scene.run("--merge-reports 0.json 1.json").expect(4);
    assert_eq!(
        run.message(),
        format!(
            "--merge-reports: 1.json is not a report: no run has the number {}",
            u64::MAX
        )
    );
}

#[test]
fn a_shard_with_a_wrong_setting_counts_with_its_exit_code() {
    let scene = Scene::new();
    let line = "--source ./rag_storage --target ./new --yes";
    scene.file("job.yaml", "verify: never");
    report_of_shard(&scene, 0, line);
    for (wrong, shard) in [
        ("--batch-size 0", "1/2"),
        ("--no-such-flag", "1/2"),
        ("--job job.yaml", "1/2"),
        ("--job nowhere.yaml", "auto"),
    ] {
        let line = format!("{line} {wrong} --shard {shard} --report 1.json");
        let tool = scene.tool(&line).env("JOB_COMPLETION_INDEX", "1");
        let run = tool.env("JOB_COMPLETIONS", "2").run().expect(2);
        assert_eq!(run.report()["shard"], "1/2", "{wrong}");
        for order in ["0.json 1.json", "1.json 0.json"] {
            let merged = scene.run(&format!("--merge-reports {order}")).expect(2);
            let merged = merged.report();
            let moved = scene.read("0.json");
            assert_eq!(merged["totals"], moved["totals"], "{wrong}: {merged}");
            assert_eq!(merged["mode"], "migrate");
            assert_eq!(merged["errors"]["total"], 1, "{wrong}: {merged}");
        }
    }
}

#[test]
#[ignore = "needs the test servers: scripts/services.sh"]
fn reports_that_do_not_belong_together_are_named() {
    let scene = Scene::new();
    let place = Place::new("redis");
    let line = format!(
        "--source ./rag_storage --target {} --source-workspace space1 --target-workspace {} --dry-run",
        place.address,
        place.workspace("w")
    );
    for (shard, report) in [("0/3", "0.json"), ("2/3", "2.json"), ("0/2", "other.json")] {
        scene
            .run(&format!("{line} --shard {shard} --report {report}"))
            .expect(0);
    }
    let run = scene.run("--merge-reports 0.json 2.json 2.json").expect(4);
    let what = run.message();
    assert!(what.contains("no report of 1/3"), "{what}");
    assert!(
        what.contains("more than one report of 2/3: 2.json, 2.json"),
        "{what}"
    );
    let run = scene.run("--merge-reports 0.json other.json").expect(4);
    assert!(
        run.message()
            .contains("other.json is of shard 0/2, and others are of 3 shards"),
        "{}",
        run.message()
    );
    scene.run("--merge-reports 0.json none.json").expect(4);
    scene.file("text.json", "hello");
    let run = scene.run("--merge-reports text.json").expect(4);
    assert!(
        run.message().contains("text.json is not a report"),
        "{}",
        run.message()
    );
}

#[test]
#[ignore = "needs the test servers: scripts/services.sh"]
fn a_rate_is_kept_by_a_whole_run() {
    let scene = Scene::new();
    let entry = json!({"return": "x", "cache_type": "extract"});
    let cache: serde_json::Map<String, Value> = (0..60)
        .map(|n| (format!("default:extract:{n:032}"), entry.clone()))
        .collect();
    scene.cache("many", &Value::Object(cache));
    let place = Place::new("redis");
    let workspace = place.workspace("w");
    let line = format!(
        "--source ./many --target {} --target-workspace {workspace} --source-workspace= --yes --rate-limit 60/s",
        place.address
    );
    let begin = std::time::Instant::now();
    assert_eq!(scene.run(&line).expect(0).total("written"), 60);
    // The last batch need not wait for its own time.
    assert!(begin.elapsed().as_millis() >= 900, "{:?}", begin.elapsed());
}

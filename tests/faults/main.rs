//! What happens between the program and a server: connections that are cut, processes that are killed, round trips. Nothing
//! may be lost, and nothing counted twice.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    unreachable_pub,
    reason = "a test may panic, and what tests share is public to them alone"
)]

mod killed_server;
mod property;
mod round_trips;
#[path = "../support/mod.rs"]
mod support;

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::Stdio,
    time::Duration,
};

use serde_json::{Value, json};
use support::{
    oracle,
    place::Place,
    proxy::{Fault, Proxy, Way, When, server_of},
    records::key,
    tool::{Run, Tool},
};

const RECORDS: u64 = 300;

/// A cache file with records of about 2 KB, and one that no target can hold.
fn cache(folder: &Path) -> String {
    let mut records = serde_json::Map::new();
    for n in 0..RECORDS {
        let cache_type = ["extract", "summary", "analysis"][(n % 3) as usize];
        let value = json!({
            "return": format!("{n} {}", "answer ".repeat(280)), "cache_type": cache_type, "chunk_id": format!("c{n}"),
            "original_prompt": format!("question {n} é🚀"), "queryparam": {"n": n},
            "create_time": 1_700_000_000 + n, "update_time": 1_700_000_000 + n,
        });
        records.insert(key(cache_type, n), value);
    }
    records.insert("default:extract:none".to_owned(), Value::Null);
    let path = folder.join("kv_store_llm_response_cache.json");
    std::fs::write(&path, serde_json::to_vec_pretty(&records).unwrap()).unwrap();
    folder.to_str().unwrap().to_owned()
}

fn migrate(source: &str, target: &str, workspaces: (&str, &str), more: &[&str]) -> Tool {
    let map = format!("{}={}", workspaces.0, workspaces.1);
    let mut arguments = vec![
        "--source",
        source,
        "--target",
        target,
        "--workspace-map",
        &map,
        "--yes",
    ];
    arguments.extend(more);
    Tool::new(&arguments)
}

/// Every record is at the target, with its value, and none beyond.
fn verify(source: &str, target: &str, workspaces: (&str, &str)) {
    let map = format!("{}={}", workspaces.0, workspaces.1);
    let arguments = [
        "--source",
        source,
        "--target",
        target,
        "--workspace-map",
        &map,
        "--verify-only",
        "--verify",
        "full",
    ];
    let run = Tool::new(&arguments).run().expect(0);
    let verification = &run.report()["verification"];
    assert_eq!(verification["compared"], RECORDS);
    assert_eq!(verification["equal"], RECORDS);
    assert_eq!(verification["beyond"], 0);
    assert_eq!(verification["invalid"], nulls_in(source));
}

/// How many entries of a source are no records: servers never got the one that the file has.
fn nulls_in(source: &str) -> usize {
    let Ok(text) = std::fs::read(Path::new(source).join("kv_store_llm_response_cache.json")) else {
        return 0;
    };
    let entries: serde_json::Map<String, Value> = serde_json::from_slice(&text).unwrap();
    entries.values().filter(|value| value.is_null()).count()
}

fn check_account(run: &Run, rejected: u64) {
    assert_eq!(run.total("written"), RECORDS, "{}", run.report());
    assert_eq!(run.total("rejected"), rejected);
    assert_eq!(run.total("not_attempted"), 0);
}

/// Cuts at this many bytes: within the login, within the first batches, and further on.
const CUTS: [u64; 4] = [700, 9_000, 40_000, 150_000];

/// The cuts in short messages: what is written is answered, and what is read is requested, with few bytes. All but the last one
/// may fall before the first record.
fn cuts_in_short_messages(bytes_of_long_ones: u64) -> [u64; 4] {
    CUTS.map(|after| after / bytes_of_long_ones + 60)
}

fn a_target_whose_connection_is_cut_gets_everything(kind: &'static str, way: Way) {
    let folder = tempfile::tempdir().unwrap();
    let source = cache(folder.path());
    let (cuts, before_records) = match way {
        Way::ToServer => (CUTS, 1),
        Way::ToProgram => (cuts_in_short_messages(20), 3),
    };
    let mut moved_through_cuts = 0;
    for (at, after) in cuts.into_iter().enumerate() {
        let place = Place::new(kind);
        let workspace = place.workspace("w");
        let fault = Fault {
            way,
            when: When::After(after),
            times: 3,
            delay: Duration::ZERO,
        };
        let proxy = Proxy::new(server_of(&place.address), fault);
        let target = proxy.instead_of(&place.address);
        for policy in ["overwrite", "skip"] {
            let workspace = format!("{workspace}{policy}");
            // Over more connections than these, none would get as far as the cut.
            let options = [
                "--batch-size",
                "25",
                "--on-conflict",
                policy,
                "--retries",
                "8",
                "--concurrency",
                "2",
            ];
            let run = migrate(&source, &target, ("", &workspace), &options).run();
            if run.code == 5 && at < before_records {
                wrote_nothing(&run);
                continue;
            }
            let run = run.expect(3);
            moved_through_cuts += u32::from(run.events_of("retry").count() > 0);
            check_account(&run, 1);
            verify(&source, &place.address, ("", &workspace));
        }
        assert!(proxy.cuts() > 0, "{kind}: nothing was cut after {after} bytes");
    }
    assert!(
        moved_through_cuts > 0,
        "{kind}: no cut fell between login and end"
    );
}

/// A login that is cut is a server that cannot be reached.
fn wrote_nothing(run: &Run) {
    assert_eq!(run.total("written"), 0, "{}", run.report());
}

fn a_source_whose_connection_is_cut_gives_everything(kind: &'static str, way: Way) {
    let folder = tempfile::tempdir().unwrap();
    let source = cache(folder.path());
    let place = Place::new(kind);
    let workspace = place.workspace("w");
    migrate(&source, &place.address, ("", &workspace), &[])
        .run()
        .expect(3);
    let (cuts, before_records) = match way {
        Way::ToServer => (cuts_in_short_messages(50), 3),
        Way::ToProgram => (CUTS, 1),
    };
    let mut cuts: Vec<When> = cuts.map(When::After).into();
    if kind == "mongo" && way == Way::ToServer {
        // The driver retries a read once by itself. Only if that attempt is cut as well does the program retry it.
        cuts.push(When::Before("find\0"));
    }
    let mut moved_through_cuts = 0;
    for (at, when) in cuts.into_iter().enumerate() {
        let fault = Fault {
            way,
            when,
            times: 3,
            delay: Duration::ZERO,
        };
        let proxy = Proxy::new(server_of(&place.address), fault);
        let target = tempfile::tempdir().unwrap();
        let target = target.path().join("out").to_str().unwrap().to_owned();
        let from = proxy.instead_of(&place.address);
        let run = migrate(
            &from,
            &target,
            (&workspace, ""),
            &["--batch-size", "25", "--retries", "8"],
        )
        .run();
        assert!(proxy.cuts() > 0, "{kind}: nothing was cut {when:?}");
        if run.code == 4 && at < before_records {
            wrote_nothing(&run);
            continue;
        }
        let run = run.expect(0);
        moved_through_cuts += u32::from(run.events_of("retry").count() > 0);
        check_account(&run, 0);
        verify(&place.address, &target, (&workspace, ""));
    }
    assert!(
        moved_through_cuts > 0,
        "{kind}: no cut fell between login and end"
    );
}

/// Starts a run, and kills it when it has reported an event of this kind so many times. False where it ended before.
fn kill_at(tool: Tool, event: &str, times: usize) -> bool {
    let mut command = tool.into_command();
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let named = format!("\"event\":\"{event}\"");
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let seen = lines
        .map_while(Result::ok)
        .filter(|line| line.contains(&named))
        .take(times)
        .count();
    // Before it is waited for, so that its number is its own still.
    child.kill().unwrap();
    let ended = child.wait().unwrap();
    seen == times && ended.code().is_none()
}

/// How many records the run moved itself, beside those that its checkpoint says were moved before.
fn moved(run: &Run) -> u64 {
    run.events_of("batch")
        .map(|batch| batch["written"].as_u64().unwrap())
        .sum()
}

/// Killed behind a checkpoint, the next run with `--resume` goes on from there and finishes the job. A source without an
/// order, and a target that shows nothing before its end, begin anew.
#[expect(clippy::too_many_lines, reason = "one scene from beginning to end")]
fn a_run_that_is_killed_is_finished_by_the_next(from: &'static str, to: &'static str) {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(folder.path());
    let (from, to) = (Place::new(from), Place::new(to));
    let from_workspace = match from.kind {
        "json" => String::new(),
        _ => from.workspace("from"),
    };
    let mut source = cache.clone();
    if from.kind != "json" {
        source = from.address.clone();
        migrate(&cache, &source, ("", &from_workspace), &[])
            .run()
            .expect(3);
    }
    let rejected = u64::from(from.kind == "json");
    let writes_checkpoints = from.kind != "redis" && to.kind != "json";
    let to_workspace = to.workspace("to");
    let checkpoint = folder.path().join(format!("{}-{}.ckpt", from.kind, to.kind));
    let rejects = checkpoint.with_extension("jsonl");
    let checkpoint_path = checkpoint.to_str().unwrap();
    let mut options = vec!["--batch-size", "1", "--concurrency", "1", "--resume"];
    options.extend([
        "--checkpoint",
        checkpoint_path,
        "--rejects",
        rejects.to_str().unwrap(),
    ]);
    // Each answer takes so long that the run lasts for several checkpoints, a second apart.
    let slow = Fault {
        way: Way::ToProgram,
        when: When::After(u64::MAX / 2),
        times: 0,
        delay: Duration::from_millis(10),
    };
    let proxy = (to.kind != "json").then(|| Proxy::new(server_of(&to.address), slow));
    let target = proxy
        .as_ref()
        .map_or_else(|| to.address.clone(), |proxy| proxy.instead_of(&to.address));
    let tool = |target: &str| migrate(&source, target, (&from_workspace, &to_workspace), &options);
    for kill in 0..2 {
        let (event, times) = if writes_checkpoints {
            ("checkpoint", 1)
        } else {
            ("batch", 20)
        };
        assert!(
            kill_at(tool(&target), event, times),
            "kill {kill}: the run ended before its {event}"
        );
        assert_eq!(checkpoint.exists(), writes_checkpoints, "kill {kill}");
    }
    let run = tool(&target).run().expect(if rejected > 0 { 3 } else { 0 });
    check_account(&run, rejected);
    let moved = moved(&run);
    assert_eq!(
        moved < RECORDS,
        writes_checkpoints,
        "the resumed run moved {moved} of {RECORDS}"
    );
    let batches = &run.report()["batches"];
    assert_eq!(batches["total"], RECORDS + rejected, "{batches}");
    let lines = std::fs::read_to_string(&rejects).unwrap().lines().count() as u64;
    assert_eq!(lines, rejected, "lines in the rejects file");
    verify(&source, &to.address, (&from_workspace, &to_workspace));
    lightrag_reads_all(&to, &to_workspace);
}

/// LightRAG itself finds every record.
fn lightrag_reads_all(place: &Place, workspace: &str) {
    let keys: Vec<String> = (0..RECORDS)
        .map(|n| key(["extract", "summary", "analysis"][(n % 3) as usize], n))
        .collect();
    for (n, record) in oracle::read(place, workspace, &keys).into_iter().enumerate() {
        let record = record.unwrap_or_else(|| panic!("LightRAG does not find {}", keys[n]));
        assert!(
            record["return"]
                .as_str()
                .unwrap()
                .starts_with(&format!("{n} answer"))
        );
        assert_eq!(record["create_time"], 1_700_000_000 + n);
    }
}

/// A server that can be asked to wait for its disk (`WAITAOF`) is asked before each checkpoint. A connection that is cut
/// just then is made anew, and the run goes on.
#[test]
fn a_cut_while_writes_are_made_durable_for_a_checkpoint_is_tried_again() {
    const CUTS: u32 = 2;
    let folder = tempfile::tempdir().unwrap();
    let source = cache(folder.path());
    let source = without_the_null(&source);
    let place = Place::new("valkey");
    let workspace = place.workspace("w");
    // The run lasts for several checkpoints, a second apart.
    let fault = Fault {
        way: Way::ToServer,
        when: When::Before("WAITAOF"),
        times: CUTS,
        delay: Duration::from_millis(10),
    };
    let proxy = Proxy::new(server_of(&place.address), fault);
    let target = proxy.instead_of(&place.address);
    let checkpoint = folder.path().join("run.ckpt");
    let options = [
        "--batch-size",
        "1",
        "--concurrency",
        "1",
        "--checkpoint",
        checkpoint.to_str().unwrap(),
    ];
    let run = migrate(&source, &target, ("", &workspace), &options)
        .run()
        .expect(0);
    assert_eq!(proxy.cuts(), CUTS);
    check_account(&run, 0);
    let position = |event: &Value| event["seq"].as_u64().unwrap();
    let retries: Vec<u64> = run
        .events_of("retry")
        .filter(|retry| retry["operation"] == "making writes durable")
        .map(position)
        .collect();
    let last_batch = run.events_of("batch").map(position).max().unwrap();
    let first_checkpoint = run.events_of("checkpoint").map(position).min().unwrap();
    assert_eq!(retries.len(), CUTS as usize, "{retries:?}");
    assert!(
        retries
            .iter()
            .all(|retry| *retry < first_checkpoint && *retry < last_batch)
    );
    verify(&source, &place.address, ("", &workspace));
}

/// The cache without the record that no target can hold.
fn without_the_null(source: &str) -> String {
    let file = Path::new(source).join("kv_store_llm_response_cache.json");
    let mut records: serde_json::Map<String, Value> =
        serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    records.retain(|_, value| !value.is_null());
    std::fs::write(&file, serde_json::to_vec_pretty(&records).unwrap()).unwrap();
    source.to_owned()
}

macro_rules! server {
    ($kind:ident) => {
        mod $kind {
            use super::*;

            #[test]
            fn a_target_whose_requests_are_cut_gets_everything() {
                a_target_whose_connection_is_cut_gets_everything(stringify!($kind), Way::ToServer);
            }

            #[test]
            fn a_target_whose_answers_are_cut_gets_everything() {
                a_target_whose_connection_is_cut_gets_everything(stringify!($kind), Way::ToProgram);
            }

            #[test]
            fn a_source_whose_requests_are_cut_gives_everything() {
                a_source_whose_connection_is_cut_gives_everything(stringify!($kind), Way::ToServer);
            }

            #[test]
            fn a_source_whose_answers_are_cut_gives_everything() {
                a_source_whose_connection_is_cut_gives_everything(stringify!($kind), Way::ToProgram);
            }

            #[test]
            fn every_record_is_accounted_for_whatever_happens() {
                property::every_record_is_accounted_for(stringify!($kind));
            }

            #[test]
            fn a_run_to_it_that_is_killed_is_finished_by_the_next() {
                a_run_that_is_killed_is_finished_by_the_next("json", stringify!($kind));
            }

            #[test]
            fn a_run_from_it_that_is_killed_is_finished_by_the_next() {
                a_run_that_is_killed_is_finished_by_the_next(stringify!($kind), "json");
            }
        }
    };
}

#[test]
fn every_record_is_accounted_for_between_files() {
    property::every_record_is_accounted_for("json");
}

#[test]
fn a_run_between_files_that_is_killed_is_finished_by_the_next() {
    a_run_that_is_killed_is_finished_by_the_next("json", "json");
}

server!(redis);
server!(postgres);
server!(mongo);
server!(opensearch);

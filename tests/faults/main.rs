//! Pulling plugs: connections that are cut, processes that are killed. Nothing may be lost, and nothing counted twice.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    unreachable_pub,
    reason = "a test may panic, and what tests share is public to them alone"
)]

mod killed_server;
mod property;
#[path = "../support/mod.rs"]
mod support;

use std::{path::Path, process::Stdio, time::Duration};

use serde_json::{Value, json};
use support::{
    oracle,
    place::Place,
    proxy::{Fault, Proxy, Way, server_of},
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
}

fn check_account(run: &Run, rejected: u64) {
    assert_eq!(run.total("written"), RECORDS, "{}", run.report());
    assert_eq!(run.total("rejected"), rejected);
    assert_eq!(run.total("not_attempted"), 0);
}

/// Cuts at this many bytes: within the login, within the first batches, and further on.
const CUTS: [u64; 4] = [700, 9_000, 40_000, 150_000];

fn a_target_whose_connection_is_cut_gets_everything(kind: &'static str, way: Way) {
    let folder = tempfile::tempdir().unwrap();
    let source = cache(folder.path());
    for after in CUTS {
        // Answers of writes are short: what is counted there must be less.
        let after = if way == Way::ToProgram {
            after / 20 + 60
        } else {
            after
        };
        let place = Place::new(kind);
        let workspace = place.workspace("w");
        let fault = Fault {
            way,
            after,
            times: 3,
            delay: Duration::ZERO,
        };
        let proxy = Proxy::new(server_of(&place.address), fault);
        let target = proxy.instead_of(&place.address);
        for policy in ["overwrite", "skip"] {
            let workspace = format!("{workspace}{policy}");
            let options = ["--batch-size", "25", "--on-conflict", policy, "--retries", "8"];
            let run = migrate(&source, &target, ("", &workspace), &options).run();
            // A login that is cut is a server that cannot be reached; nothing was written then.
            if run.code == 5 && run.total("written") == 0 {
                continue;
            }
            let run = run.expect(3);
            check_account(&run, 1);
            verify(&source, &place.address, ("", &workspace));
        }
        assert!(proxy.cuts() > 0, "{kind}: nothing was cut after {after} bytes");
    }
}

fn a_source_whose_connection_is_cut_gives_everything(kind: &'static str, way: Way) {
    let folder = tempfile::tempdir().unwrap();
    let source = cache(folder.path());
    let place = Place::new(kind);
    let workspace = place.workspace("w");
    migrate(&source, &place.address, ("", &workspace), &[])
        .run()
        .expect(3);
    for after in CUTS {
        let after = if way == Way::ToServer {
            after / 20 + 60
        } else {
            after
        };
        let fault = Fault {
            way,
            after,
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
        if run.code == 4 && run.total("written") == 0 {
            continue;
        }
        check_account(&run.expect(0), 0);
        verify(&place.address, &target, (&workspace, ""));
    }
}

/// Killed at any moment, the next run with `--resume` finishes the job.
fn a_run_that_is_killed_is_finished_by_the_next(from: &'static str, to: &'static str) {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(folder.path());
    let (from, to) = (Place::new(from), Place::new(to));
    let from_workspace = if from.kind == "json" {
        String::new()
    } else {
        from.workspace("from")
    };
    let source = if from.kind == "json" {
        cache.clone()
    } else {
        from.address.clone()
    };
    if from.kind != "json" {
        migrate(&cache, &from.address, ("", &from_workspace), &[])
            .run()
            .expect(3);
    }
    let rejected = u64::from(from.kind == "json");
    let seeds = std::env::var("FAULT_SEEDS").map_or(3, |seeds| seeds.parse().expect("a number"));
    for seed in 0_u64..seeds {
        let to_workspace = to.workspace(&format!("to{seed}"));
        let checkpoint = folder
            .path()
            .join(format!("{}-{}-{seed}.ckpt", from.kind, to.kind));
        let rejects = checkpoint.with_extension("jsonl");
        let options = [
            "--batch-size",
            "3",
            "--concurrency",
            "1",
            "--resume",
            "--checkpoint",
            checkpoint.to_str().unwrap(),
            "--rejects",
            rejects.to_str().unwrap(),
        ];
        let tool = || migrate(&source, &to.address, (&from_workspace, &to_workspace), &options);
        for kill in 0..3_u64 {
            let mut child = tool()
                .into_command()
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            // Spread over the run by a multiplicative hash of the seed.
            let wait = (seed * 3 + kill + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) % 400;
            std::thread::sleep(Duration::from_millis(20 + wait));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let run = tool().run().expect(if rejected > 0 { 3 } else { 0 });
        check_account(&run, rejected);
        let lines = std::fs::read_to_string(&rejects).unwrap().lines().count() as u64;
        assert_eq!(lines, rejected, "lines in the rejects file");
        verify(&source, &to.address, (&from_workspace, &to_workspace));
        if seed + 1 == seeds {
            lightrag_reads_all(&to, &to_workspace);
        }
    }
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

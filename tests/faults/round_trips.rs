//! How often a server is asked. With a distant server each request costs a round trip, however small it is.

use std::{path::Path, time::Duration};

use serde_json::json;

use crate::support::{
    place::Place,
    proxy::{Proxy, RoundTrips, server_of},
    records::key,
    tool::Tool,
};

/// Long enough that the answer to the first of several requests that are sent together comes after the last.
const DELAY: Duration = Duration::from_millis(5);

/// Round trips that are enough.
#[derive(Debug)]
struct Enough {
    /// One after the other, for a run with one small workspace.
    in_turn: u64,
    /// In all, for that run.
    run: u64,
    /// In all, for each further workspace.
    workspace: u64,
}

/// A working directory with so many workspaces of twenty records.
fn caches(folder: &Path, workspaces: usize) {
    for workspace in 0..workspaces {
        let folder = folder.join(format!("w{workspace}"));
        std::fs::create_dir(&folder).unwrap();
        let records: serde_json::Map<_, _> = (0..20)
            .map(|n| {
                (
                    key("extract", n),
                    json!({"return": format!("answer {n}"), "cache_type": "extract"}),
                )
            })
            .collect();
        let text = serde_json::to_vec(&records).unwrap();
        std::fs::write(folder.join("kv_store_llm_response_cache.json"), text).unwrap();
    }
}

/// The round trips of a run between a server and files, to the server and back.
fn round_trips(kind: &str, workspaces: usize) -> (RoundTrips, RoundTrips) {
    let place = Place::new(kind);
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    std::fs::create_dir(&from).unwrap();
    caches(&from, workspaces);
    let run = |source: &str, target: &str, is_to_server: bool| {
        let maps = (0..workspaces).map(|n| {
            let (file, server) = (format!("w{n}"), place.workspace(&format!("w{n}")));
            if is_to_server {
                format!("{file}={server}")
            } else {
                format!("{server}={file}")
            }
        });
        let maps: Vec<String> = maps.collect();
        let mut arguments = vec!["--source", source, "--target", target, "--yes"];
        arguments.extend(maps.iter().flat_map(|map| ["--workspace-map", map]));
        let run = Tool::new(&arguments).run().expect(0);
        assert_eq!(run.total("written"), 20 * workspaces as u64);
    };
    let [writing, reading] = [true, false].map(|is_to_server| {
        let proxy = Proxy::distant(server_of(&place.address), DELAY);
        let server = proxy.instead_of(&place.address);
        match is_to_server {
            true => run(from.to_str().unwrap(), &server, true),
            false => run(&server, to.to_str().unwrap(), false),
        }
        proxy.round_trips()
    });
    (writing, reading)
}

/// The limits are one more per workspace than was measured, and two more per run, because connections are opened as needed.
fn a_server_is_asked_no_more_than_needed(kind: &str, writing: Enough, reading: Enough) {
    const FURTHER: u64 = 40;
    let (one_written, one_read) = round_trips(kind, 1);
    let (many_written, many_read) = round_trips(kind, 1 + FURTHER as usize);
    let enough = |one: RoundTrips, many: RoundTrips| Enough {
        in_turn: one.in_turn,
        run: one.all,
        workspace: many.all.saturating_sub(one.all).div_ceil(FURTHER),
    };
    let (written, read) = (enough(one_written, many_written), enough(one_read, many_read));
    let is_enough = |asked: &Enough, enough: &Enough| {
        asked.in_turn <= enough.in_turn && asked.run <= enough.run && asked.workspace <= enough.workspace
    };
    assert!(
        is_enough(&written, &writing) && is_enough(&read, &reading),
        "{kind}: {written:?} round trips as a target and {read:?} as a source, with one workspace and for each further one"
    );
}

#[test]
fn redis_is_asked_no_more_than_needed() {
    let writing = Enough {
        in_turn: 10,
        run: 11,
        workspace: 4,
    };
    let reading = Enough {
        in_turn: 8,
        run: 8,
        workspace: 2,
    };
    a_server_is_asked_no_more_than_needed("redis", writing, reading);
}

#[test]
fn postgres_is_asked_no_more_than_needed() {
    // No more than was measured for further workspaces: counting each by itself would be one more.
    let writing = Enough {
        in_turn: 20,
        run: 22,
        workspace: 4,
    };
    let reading = Enough {
        in_turn: 13,
        run: 14,
        workspace: 3,
    };
    a_server_is_asked_no_more_than_needed("postgres", writing, reading);
}

/// The table and two indexes are created, and the table is looked up once more. The limit is two more than that.
#[test]
fn postgres_is_asked_little_more_for_a_table_that_is_not_there() {
    let place = Place::alone("postgres");
    let folder = tempfile::tempdir().unwrap();
    caches(folder.path(), 1);
    let [created, existing] = ["w0=created", "w0=existing"].map(|map| {
        let proxy = Proxy::distant(server_of(&place.address), DELAY);
        let target = proxy.instead_of(&place.address);
        let source = folder.path().to_str().unwrap();
        let sides = ["--source", source, "--target", &target];
        let arguments = [&sides[..], &["--workspace-map", map, "--yes"]].concat();
        let run = Tool::new(&arguments).run().expect(0);
        assert_eq!(run.total("written"), 20);
        proxy.round_trips().in_turn
    });
    assert!(
        created <= existing + 6,
        "{created} round trips to create the table, {existing} where it exists"
    );
}

#[test]
fn mongo_is_asked_no_more_than_needed() {
    let writing = Enough {
        in_turn: 12,
        run: 14,
        workspace: 5,
    };
    // Connections to a distant server are opened ahead, each with a login, side by side.
    let reading = Enough {
        in_turn: 9,
        run: 33,
        workspace: 4,
    };
    a_server_is_asked_no_more_than_needed("mongo", writing, reading);
}

#[test]
fn opensearch_is_asked_no_more_than_needed() {
    let writing = Enough {
        in_turn: 14,
        run: 15,
        workspace: 11,
    };
    let reading = Enough {
        in_turn: 7,
        run: 7,
        workspace: 5,
    };
    a_server_is_asked_no_more_than_needed("opensearch", writing, reading);
}

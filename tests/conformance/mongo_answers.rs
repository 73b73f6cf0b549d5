//! What MongoDB's storage makes of answers that the test servers do not give.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use migrate_llm_cache::{
    model::{
        ErrorKind, Selection, Side, Workspace,
        record::{CacheKey, OnInvalid},
    },
    storage::{Connection, Source, Target, WriteMode, WriteOutcome},
};
use mongodb::bson::{Document, doc};
use serde_json::json;

use crate::{
    cases::{connect_to, connect_within},
    support::{
        mongo_server::{MongoServer, Role, found, name, refusal},
        records::{key, plain, record},
    },
};

const COLLECTION: &str = "w_llm_response_cache";

pub async fn source(server: &MongoServer) -> Arc<dyn Source> {
    let storage = connect_to(&server.address(), Side::Source, OnInvalid::Reject).await;
    storage.source(&Workspace::new("w").unwrap()).await.unwrap()
}

async fn target(server: &MongoServer) -> Arc<dyn Target> {
    let storage = connect_to(&server.address(), Side::Target, OnInvalid::Reject).await;
    storage.target(&Workspace::new("w").unwrap()).await.unwrap()
}

/// How many documents a command inserts, and whether one of them is bad.
fn inserted(command: &Document) -> Option<(i32, bool)> {
    let documents = command.get_array("documents").ok()?;
    let mut returns = documents
        .iter()
        .filter_map(|document| document.as_document()?.get_str("return").ok());
    Some((documents.len() as i32, returns.any(|text| text == "bad")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_that_is_refused_does_not_cost_the_others_their_write_concern() {
    let server = MongoServer::new(Role::Standalone, |command| match inserted(command)? {
        // BadValue, with a write concern or without.
        (_, true) => Some(refusal(2)),
        (documents, false) => Some(doc! { "ok": 1.0, "n": documents }),
    });
    let target = target(&server).await;
    let mut records = plain(8);
    records[1] = record(&key("extract", 99), &json!({"return": "bad"}));
    let mut rejected = 0;
    for batch in records.chunks(4) {
        let outcomes = target.write(batch, WriteMode::Upsert).await.unwrap();
        let is_rejected = |outcome: &&WriteOutcome| matches!(outcome, WriteOutcome::Rejected { .. });
        rejected += outcomes.iter().filter(is_rejected).count();
    }
    assert_eq!(rejected, 1);
    let mut documents = 0;
    for command in server.commands("insert") {
        if let Some((good, false)) = inserted(&command) {
            documents += good;
            let concern = command.get_document("writeConcern").ok();
            assert_eq!(concern, Some(&doc! { "w": "majority" }), "{command}");
        }
    }
    assert_eq!(documents, 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_concern_that_the_server_does_not_know_is_asked_for_once() {
    let server = MongoServer::new(Role::Standalone, |command| {
        let (documents, _) = inserted(command)?;
        // CommandNotSupported
        if command.contains_key("writeConcern") {
            return Some(refusal(115));
        }
        let exists = |index| doc! { "index": index, "code": 11000, "errmsg": "E11000 duplicate key error" };
        let errors: Vec<Document> = (0..documents).map(exists).collect();
        Some(doc! { "ok": 1.0, "n": 0, "writeErrors": errors })
    });
    let target = target(&server).await;
    for batch in plain(4).chunks(2) {
        let outcomes = target.write(batch, WriteMode::Create).await.unwrap();
        assert_eq!(outcomes, [WriteOutcome::Exists, WriteOutcome::Exists]);
    }
    let commands = server.commands("insert");
    let asked = commands
        .iter()
        .map(|command| command.contains_key("writeConcern"));
    assert_eq!(asked.collect::<Vec<_>>(), [true, false, false]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_failed_to_say_is_asked_again_and_what_it_said_is_not() {
    let asked = AtomicU32::new(0);
    let server = MongoServer::new(Role::Standalone, move |command| match name(command) {
        "listCollections" => Some(match asked.fetch_add(1, Ordering::Relaxed) {
            // InternalError
            0 => refusal(1),
            _ => found(&[doc! { "name": COLLECTION, "options": { "collation": { "locale": "en" } } }]),
        }),
        "find" => Some(found(&[])),
        _ => None,
    });
    let source = source(&server).await;
    let asked = CacheKey::from(key("extract", 1).as_str());
    for _ in 0..3 {
        assert_eq!(
            source.contains(std::slice::from_ref(&asked)).await.unwrap(),
            [false]
        );
    }
    assert_eq!(server.commands("listCollections").len(), 2);
    let queries = server.commands("find");
    let by_bytes = queries.iter().map(|query| query.contains_key("collation"));
    assert_eq!(by_bytes.collect::<Vec<_>>(), [false, true, true]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_busy_is_asked_again_later() {
    // FailedToSatisfyReadPreference, NetworkInterfaceExceededTimeLimit, and TooManyRequests of Azure Cosmos DB
    for code in [133, 202, 16500] {
        let server = MongoServer::new(Role::Standalone, move |_| Some(refusal(code)));
        let counted = source(&server).await.count(&Selection::default(), &|_| ()).await;
        let error = counted.unwrap_err();
        assert!(error.is_temporary(), "{error}");
        let written = target(&server).await.write(&plain(1), WriteMode::Upsert).await;
        let error = written.unwrap_err();
        assert!(error.is_temporary(), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secondary_does_not_decide_that_a_target_is_empty() {
    let server = MongoServer::new(Role::Secondary, |command| match name(command) {
        "listCollections" | "find" => Some(found(&[])),
        _ => None,
    });
    let reader = target(&server).await.reader();
    let error = reader.count(&Selection::default(), &|_| ()).await.unwrap_err();
    assert!(error.is_temporary(), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_size_of_a_collection_that_was_just_created_is_known() {
    // The login may not list collections: Unauthorized.
    for (listed, questions) in [(found(&[]), 1), (refusal(13), 2)] {
        let server = MongoServer::new(Role::Standalone, move |command| match name(command) {
            "listCollections" => Some(listed.clone()),
            "insert" => Some(doc! { "ok": 1.0, "n": 1 }),
            "count" => Some(doc! { "ok": 1.0, "n": 5 }),
            _ => None,
        });
        let target = target(&server).await;
        target.prepare().await.unwrap();
        let before = target.size().await.unwrap().unwrap();
        assert_eq!(before.entries, if questions == 1 { 0 } else { 5 });
        target.write(&plain(1), WriteMode::Upsert).await.unwrap();
        let after = target.size().await.unwrap().unwrap();
        assert_eq!(after.entries, 5);
        assert_eq!(server.commands("create").len(), 1);
        assert_eq!(server.commands("count").len(), questions);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_without_a_collection_is_empty_without_a_question() {
    let server = MongoServer::new(Role::Standalone, |command| match name(command) {
        "listCollections" | "find" => Some(found(&[])),
        _ => None,
    });
    let reader = target(&server).await.reader();
    let count = reader.count(&Selection::default(), &|_| ()).await.unwrap();
    assert!(count.is_empty());
    assert!(server.commands("find").is_empty());
}

#[tokio::test]
async fn connections_to_a_distant_server_are_opened_once_before_they_are_needed() {
    let server = MongoServer::that_greets_after(Duration::from_millis(30), Role::Standalone, |command| {
        (name(command) == "find").then(|| found(&[]))
    });
    let source = source(&server).await;
    let pings = || server.commands("ping").len();
    let opened = async {
        while pings() < 7 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    source.count(&Selection::default(), &|_| ()).await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), opened)
        .await
        .expect("too few connections");
    source.count(&Selection::default(), &|_| ()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(pings(), 7);
}

fn many_workspaces() -> Vec<Workspace> {
    (0..20)
        .map(|n| Workspace::new(format!("w{n}")).unwrap())
        .collect()
}

/// Some servers look at all collections to describe one of them. So for many workspaces, they are listed once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_collections_are_listed_once() {
    let server = MongoServer::new(Role::Standalone, |command| match name(command) {
        "listCollections" => {
            let described = |n| {
                let collation = doc! { "collation": { "locale": "en" } };
                let options = if n == 7 {
                    collation
                } else {
                    doc! {}
                };
                doc! { "name": format!("w{n}_llm_response_cache"), "type": "collection", "options": options }
            };
            let all: Vec<Document> = (0..20).map(described).collect();
            Some(found(&all))
        }
        "find" => Some(found(&[])),
        _ => None,
    });
    let storage = connect_to(&server.address(), Side::Source, OnInvalid::Reject).await;
    let workspaces = many_workspaces();
    let asked = [CacheKey::from(key("extract", 1).as_str())];
    let look_at_all = async || {
        for workspace in &workspaces {
            let source = storage.source(workspace).await.unwrap();
            assert_eq!(source.contains(&asked).await.unwrap(), [false]);
        }
    };
    assert_eq!(storage.gather(&workspaces).await.unwrap(), workspaces.len());
    look_at_all().await;
    assert_eq!(server.commands("listCollections").len(), 1);
    let by_bytes = server
        .commands("find")
        .iter()
        .position(|query| query.contains_key("collation"));
    assert_eq!(by_bytes, Some(7));
    // Later, the list is outdated.
    look_at_all().await;
    assert_eq!(server.commands("listCollections").len(), 1 + workspaces.len());
    // A few are asked about one by one.
    assert_eq!(storage.gather(&workspaces[..2]).await.unwrap(), 2);
    assert_eq!(server.commands("listCollections").len(), 1 + workspaces.len());
}

/// Asks for a list of all collections, which a server does not give, and for the number of records in one of them.
async fn a_collection_is_asked_about_after_the_list(server: &MongoServer, storage: &dyn Connection) {
    let workspaces = many_workspaces();
    assert_eq!(storage.gather(&workspaces).await.unwrap(), workspaces.len());
    let target = storage.target(&workspaces[3]).await.unwrap();
    let count = target.reader().count(&Selection::default(), &|_| ()).await;
    assert!(count.unwrap().is_empty());
    assert_eq!(server.commands("listCollections").len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_collections_cannot_be_listed_each_is_asked_about() {
    // Unauthorized, and an error that says nothing about the command.
    for code in [13, 1] {
        let server = MongoServer::new(Role::Standalone, move |command| match name(command) {
            "listCollections" if command.contains_key("filter") => Some(found(&[])),
            "listCollections" => Some(refusal(code)),
            _ => None,
        });
        let storage = connect_to(&server.address(), Side::Target, OnInvalid::Reject).await;
        a_collection_is_asked_about_after_the_list(&server, &*storage).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_collections_may_come_in_several_answers() {
    let server = MongoServer::new(Role::Standalone, |command| {
        let described = |names: std::ops::Range<u32>| -> Vec<Document> {
            names
                .map(|n| doc! { "name": format!("w{n}_llm_response_cache"), "type": "view" })
                .collect()
        };
        match name(command) {
            "listCollections" => {
                let namespace = "LightRAG.$cmd.listCollections";
                Some(
                    doc! { "cursor": { "firstBatch": described(0..10), "id": 7_i64, "ns": namespace }, "ok": 1.0 },
                )
            }
            "getMore" => {
                let namespace = "LightRAG.$cmd.listCollections";
                Some(
                    doc! { "cursor": { "nextBatch": described(10..20), "id": 0_i64, "ns": namespace }, "ok": 1.0 },
                )
            }
            _ => None,
        }
    });
    let storage = connect_to(&server.address(), Side::Target, OnInvalid::Reject).await;
    let workspaces = many_workspaces();
    assert_eq!(storage.gather(&workspaces).await.unwrap(), workspaces.len());
    for workspace in &workspaces {
        let target = storage.target(workspace).await.unwrap();
        let error = target.prepare().await.unwrap_err();
        assert!(error.to_string().contains("view"), "{error}");
    }
    let sizes: Vec<_> = server
        .commands("getMore")
        .iter()
        .map(|command| command.get("batchSize").cloned())
        .collect();
    assert_eq!(sizes, [Some(1000.into())]);
    assert_eq!(server.commands("listCollections").len(), 1);
}

/// The engine sets no time limit for looking through everything: each storage limits its own requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_collections_that_takes_too_long_is_done_without() {
    let server = MongoServer::new(Role::Standalone, |command| {
        if name(command) == "listCollections" {
            if command
                .get_document("filter")
                .is_ok_and(|filter| filter.contains_key("name"))
            {
                return Some(found(&[]));
            }
            thread::sleep(Duration::from_secs(30));
        }
        None
    });
    let timeout = Duration::from_secs(1);
    let storage = connect_within(timeout, &server.address(), Side::Target, OnInvalid::Reject).await;
    a_collection_is_asked_about_after_the_list(&server, &*storage).await;

    let error = storage.workspaces().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(error.to_string().contains("no answer within 950ms"), "{error}");
}

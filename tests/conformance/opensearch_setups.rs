//! What an OpenSearch can be set up to be that LightRAG still works on, or that would lose what is written to it.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    sync::{Arc, Mutex},
    time::Duration,
};

use ::opensearch::http::Method;
use async_trait::async_trait;
use migrate_llm_cache::{
    model::{Error, ErrorKind, Selection, Side, Workspace, record::Record},
    storage::{ConnectOptions, Endpoint, PageLimit, Waiter, WriteMode, WriteOutcome},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    cases::{connect, fill, keys, keys_of, pages_of, scan, source, target},
    support::{place::Place, records::plain, state::ask_opensearch},
};

macro_rules! on_every_opensearch {
    ($($server:ident: $($case:ident)*;)*) => {
        $(mod $server {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    super::$case(crate::support::place::Place::new(stringify!($server))).await;
                }
            )*
        })*
    };
    ($($case:ident)*) => {
        on_every_opensearch! { opensearch: $($case)*; opensearch218: $($case)*; }
    };
}

on_every_opensearch! {
    an_index_that_would_lose_or_refuse_everything_is_refused_before_the_first_write
    an_alias_is_written_where_it_stands_for_one_index_that_can_be
    what_a_pipeline_does_to_some_records_only_is_seen_in_the_answers
    a_check_of_a_fit_index_leaves_no_trace
    an_answer_may_hold_as_little_as_the_index_allows
    an_index_of_few_documents_is_read_as_a_whole
    keys_are_counted_one_by_one_where_queries_that_are_dear_are_refused
    the_blocks_of_a_cluster_pass_the_filter_that_asks_for_them
    workspaces_whose_index_cannot_be_read_are_listed_beside_the_others
}

fn index(workspace: &str) -> String {
    format!("{workspace}_llm_response_cache")
}

async fn workspaces_whose_index_cannot_be_read_are_listed_beside_the_others(place: Place) {
    let (open, closed, hidden, stream) = (
        place.workspace("open"),
        place.workspace("closed"),
        place.workspace("hidden"),
        place.workspace("stream"),
    );
    for workspace in [&open, &closed, &hidden] {
        fill(&place, workspace, &plain(3)).await;
    }
    let close = format!("/{}/_close", index(&closed));
    ask_opensearch(&place, Method::Post, &close, None).await;
    let settings = format!("/{}/_settings", index(&hidden));
    put(&place, &settings, json!({"index.hidden": true})).await;
    let template = format!("/_index_template/{}", index(&stream));
    let body = json!({"index_patterns": [index(&stream)], "data_stream": {}, "priority": 500});
    put(&place, &template, body).await;
    let data_stream = format!("/_data_stream/{}", index(&stream));
    ask_opensearch(&place, Method::Put, &data_stream, None).await;

    let storage = connect(&place, Side::Source, Default::default()).await;
    let listing = storage.workspaces().await;
    // One named alone is neither read nor written.
    let read = source(&place, &closed)
        .await
        .count(&Selection::default(), &|_| ())
        .await;
    let write = target(&place, &stream).await.check_writable().await;
    for path in [&data_stream, &template] {
        ask_opensearch(&place, Method::Delete, path, None).await;
    }

    let listing = listing.unwrap();
    let is_found = |name: &str| listing.found.iter().any(|found| found.name() == name);
    assert!(is_found(&open) && is_found(&hidden), "{:?}", listing.found);
    for (workspace, why) in [(&closed, "is closed"), (&stream, "is a data stream")] {
        assert!(!is_found(workspace), "{:?}", listing.found);
        let unreadable = listing.unreadable.iter().find(|other| other.name == **workspace);
        let reason = &unreadable
            .unwrap_or_else(|| panic!("{workspace} is not listed"))
            .reason;
        assert!(reason.contains(why), "{reason}");
    }
    let error = read.unwrap_err();
    assert!(error.message().contains("closed"), "{error}");
    assert_eq!(write.unwrap_err().kind(), ErrorKind::Refused);
}

async fn put(place: &Place, path: &str, body: Value) {
    ask_opensearch(place, Method::Put, path, Some(body)).await;
}

/// What there is of an index that a write would change: its mapping, and numbers that count operations.
async fn traces(place: &Place, index: &str) -> String {
    let mapping = ask_opensearch(place, Method::Get, &format!("/{index}/_mapping"), None).await;
    let path =
        format!("/{index}/_stats?level=shards&filter_path=indices.*.shards.*.seq_no,indices.*.total.docs");
    let stats = ask_opensearch(place, Method::Get, &path, None).await;
    format!("{mapping} {stats}")
}

/// An index that no record may be written to, and a word of why.
struct Unfit {
    name: &'static str,
    body: Value,
    word: &'static str,
}

fn unfit(name: &'static str, body: Value, word: &'static str) -> Unfit {
    Unfit { name, body, word }
}

#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn an_index_that_would_lose_or_refuse_everything_is_refused_before_the_first_write(place: Place) {
    let pipelines = Pipelines::put(&place).await;
    let through = |pipeline: &str| json!({"settings": {"index.default_pipeline": pipelines.name(pipeline)}});
    let cases = [
        unfit(
            "off",
            json!({"mappings": {"_source": {"enabled": false}}}),
            "_source is disabled",
        ),
        unfit(
            "out",
            json!({"mappings": {"_source": {"excludes": ["return"]}}}),
            "excludes return",
        ),
        unfit(
            "in",
            json!({"mappings": {"_source": {"includes": ["return"]}}}),
            "includes return",
        ),
        unfit(
            "routed",
            json!({"mappings": {"_routing": {"required": true}}}),
            "routing",
        ),
        unfit(
            "strict",
            json!({"mappings": {"dynamic": "strict"}}),
            "dynamic: strict",
        ),
        unfit(
            "number",
            json!({"mappings": {"properties": {"return": {"type": "long"}}}}),
            "mapped as long",
        ),
        unfit(
            "write",
            json!({"settings": {"index.blocks.write": true}}),
            "index.blocks.write",
        ),
        unfit(
            "read",
            json!({"settings": {"index.blocks.read": true}}),
            "index.blocks.read is set",
        ),
        unfit("nowhere", through("nowhere"), "does not exist"),
        unfit("drops", through("drops"), "drops a record"),
        unfit("moves", through("moves"), "to the index \"elsewhere\""),
        unfit("changes", through("changes"), "changes the field return"),
        unfit("fails", through("fails"), "fails on a record"),
    ];
    for Unfit { name, body, word } in cases {
        let workspace = place.workspace(name);
        let index = index(&workspace);
        put(&place, &format!("/{index}"), body).await;
        let before = traces(&place, &index).await;
        let target = target(&place, &workspace).await;
        for error in [target.check_writable().await, target.prepare().await] {
            let error = error.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused, "{name}: {error}");
            assert!(error.message().contains(word), "{name}: {error}");
            assert!(error.remedy().is_some(), "{name}: {error}");
        }
        assert_eq!(traces(&place, &index).await, before, "{name}");
    }
    pipelines.remove(&place).await;
}

async fn an_alias_is_written_where_it_stands_for_one_index_that_can_be(place: Place) {
    let alias = |workspace: &str, options: Value| {
        let mut aliases = serde_json::Map::new();
        aliases.insert(index(workspace), options);
        json!({"aliases": aliases})
    };
    let (one, none, two) = (
        place.workspace("one"),
        place.workspace("none"),
        place.workspace("two"),
    );
    let behind = |name: &str| format!("/{}behind_{name}", place.prefix);
    put(&place, &behind("one"), alias(&one, json!({}))).await;
    put(
        &place,
        &behind("none"),
        alias(&none, json!({"is_write_index": false})),
    )
    .await;
    put(
        &place,
        &behind("two"),
        alias(&two, json!({"is_write_index": true})),
    )
    .await;
    put(&place, &behind("two_b"), alias(&two, json!({}))).await;
    target(&place, &one).await.check_writable().await.unwrap();
    fill(&place, &one, &plain(3)).await;
    // To read, any number will do, also where one has never been written to.
    let written = format!("{}/_doc/default:extract:1?refresh=true", behind("two"));
    put(&place, &written, json!({"return": "a"})).await;
    let both = source(&place, &two).await;
    let read = scan(&both, &Selection::default(), pages_of(10), None).await;
    assert_eq!(keys_of(&read), ["default:extract:1"]);
    for (workspace, word) in [(&none, "no write index"), (&two, "2 indices")] {
        let error = target(&place, workspace)
            .await
            .check_writable()
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert!(error.message().contains(word), "{error}");
    }
}

async fn what_a_pipeline_does_to_some_records_only_is_seen_in_the_answers(place: Place) {
    let pipelines = Pipelines::put(&place).await;
    let records = plain(6);
    for (pipeline, word) in [("drops_some", "noop"), ("moves_some", "elsewhere")] {
        let workspace = place.workspace(pipeline);
        let settings = json!({"settings": {"index.final_pipeline": pipelines.name(pipeline)}});
        // A final pipeline may not send documents elsewhere.
        let settings = match pipeline {
            "moves_some" => json!({"settings": {"index.default_pipeline": pipelines.name(pipeline)}}),
            _ => settings,
        };
        put(&place, &format!("/{}", index(&workspace)), settings).await;
        let target = target(&place, &workspace).await;
        target.check_writable().await.unwrap();
        assert!(target.warning().unwrap().contains(&pipelines.name(pipeline)));
        target.prepare().await.unwrap();
        for mode in [WriteMode::Create, WriteMode::Upsert] {
            let outcomes = target.write(&records, mode).await.unwrap();
            let rejected: Vec<_> = outcomes
                .iter()
                .filter_map(|outcome| match outcome {
                    WriteOutcome::Rejected { reason, .. } => Some(reason),
                    _ => None,
                })
                .collect();
            assert_eq!(rejected.len(), 1, "{pipeline} {mode:?}: {outcomes:?}");
            assert!(rejected[0].contains(word), "{rejected:?}");
        }
    }
    pipelines.remove(&place).await;
}

async fn a_check_of_a_fit_index_leaves_no_trace(place: Place) {
    let workspace = place.workspace("w");
    target(&place, &workspace).await.check_writable().await.unwrap();
    let none = source(&place, &workspace).await;
    assert_eq!(
        none.count(&Selection::default(), &|_| ()).await.unwrap().total(),
        0
    );
    fill(&place, &workspace, &plain(5)).await;
    let before = traces(&place, &index(&workspace)).await;
    target(&place, &workspace).await.check_writable().await.unwrap();
    assert_eq!(traces(&place, &index(&workspace)).await, before);
}

async fn an_answer_may_hold_as_little_as_the_index_allows(place: Place) {
    let workspace = place.workspace("w");
    let index = index(&workspace);
    let settings = json!({"settings": {"index.max_result_window": 4, "index.number_of_shards": 3}});
    put(&place, &format!("/{index}"), settings).await;
    let records = plain(40);
    fill(&place, &workspace, &records).await;
    let source = source(&place, &workspace).await;
    let all = Selection::default();
    let pages = scan(&source, &all, pages_of(100), None).await;
    let mut read = keys_of(&pages);
    read.sort();
    assert_eq!(read, keys(&records).into_iter().collect::<Vec<_>>());
    // One document at a time, where three shards have documents of the same number.
    let one = NonZeroUsize::MIN;
    let small = PageLimit {
        records: one,
        bytes: one,
        ahead: one,
    };
    let mut read = keys_of(&scan(&source, &all, small, None).await);
    read.sort();
    assert_eq!(read, keys(&records).into_iter().collect::<Vec<_>>());
}

/// In pages of any size, from several shards whose numbers overlap, and also where it has grown since it was counted.
async fn an_index_of_few_documents_is_read_as_a_whole(place: Place) {
    let workspace = place.workspace("w");
    let shards = json!({"settings": {"index.number_of_shards": 3}});
    put(&place, &format!("/{}", index(&workspace)), shards).await;
    let records = plain(150);
    let expected = |records: &[Record]| keys(records).into_iter().collect::<Vec<_>>();
    let all = Selection::default();
    fill(&place, &workspace, &records[..40]).await;
    let source = source(&place, &workspace).await;
    assert_eq!(source.count(&all, &|_| ()).await.unwrap().total(), 40);
    for size in [1, 7, 40, 100] {
        let pages = scan(&source, &all, pages_of(size), None).await;
        let mut read = keys_of(&pages);
        read.sort();
        assert_eq!(read, expected(&records[..40]), "pages of {size}");
        let cursor = pages.last().unwrap().cursor.clone();
        assert!(cursor.is_some(), "pages of {size}");
        assert!(scan(&source, &all, pages_of(size), cursor).await.is_empty());
    }
    fill(&place, &workspace, &records[40..]).await;
    let mut read = keys_of(&scan(&source, &all, pages_of(7), None).await);
    read.sort();
    assert_eq!(read, expected(&records));
}

async fn keys_are_counted_one_by_one_where_queries_that_are_dear_are_refused(place: Place) {
    let workspace = place.workspace("w");
    let records = plain(30);
    fill(&place, &workspace, &records).await;
    let set = async |value: Value| {
        let body = json!({"transient": {"search.allow_expensive_queries": value}});
        put(&place, "/_cluster/settings", body).await;
    };
    set(json!(false)).await;
    let source = source(&place, &workspace).await;
    let all = Selection::default();
    let counted = source.count(&all, &|_| ()).await;
    let read = keys_of(&scan(&source, &all, pages_of(7), None).await).len();
    let target = target(&place, &workspace).await;
    let written = target.reader().count(&all, &|_| ()).await;
    set(Value::Null).await;
    assert_eq!(counted.unwrap().total(), 30);
    assert_eq!(read, 30);
    assert_eq!(written.unwrap().total(), 30);
}

/// A block would stop the other tests, so one is set that blocks nothing. An answer without it would be taken for none.
async fn the_blocks_of_a_cluster_pass_the_filter_that_asks_for_them(place: Place) {
    let set = async |value: Value| {
        let body = json!({"transient": {"cluster.blocks.read_only_allow_delete": value}});
        put(&place, "/_cluster/settings", body).await;
    };
    set(json!(false)).await;
    let path = "/_cluster/settings?filter_path=*.cluster.blocks";
    let found = ask_opensearch(&place, Method::Get, path, None).await;
    set(Value::Null).await;
    let block = &found["transient"]["cluster"]["blocks"]["read_only_allow_delete"];
    assert_eq!(block, "false", "{found}");
}

/// Gives this answer to whoever connects.
async fn answer_all(listener: TcpListener, answer: String) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).await;
        let _ = stream.write_all(answer.as_bytes()).await;
    }
}

async fn connect_to(answer: &str) -> Error {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(answer_all(listener, answer.to_owned()));
    let options = ConnectOptions {
        timeout: Duration::from_secs(10),
        concurrency: NonZeroUsize::MIN,
        on_invalid: Default::default(),
        salvage: false,
        waiter: migrate_llm_cache::storage::SilentWaiter::shared(0),
    };
    let endpoint = Endpoint::named(Side::Target, &address).unwrap();
    let error = match endpoint.connect(&options).await {
        Err(error) => error,
        Ok(storage) => {
            let workspace = Workspace::new("w").unwrap();
            storage.physical_location(&workspace).await.unwrap_err()
        }
    };
    server.abort();
    error
}

#[tokio::test]
async fn a_server_that_is_no_opensearch_is_named_as_such() {
    let texts = BTreeMap::from([
        (
            "-ERR unknown command\r\n",
            "answered, but not as OpenSearch: Redis listens there",
        ),
        ("", "answered, but not as OpenSearch"),
        (
            "HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nIt looks like you are trying to access MongoDB over HTTP.",
            "MongoDB",
        ),
        (
            "HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 19\r\n\r\n<html>nginx</html>\n",
            "it sent a web page",
        ),
        (
            "HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 19\r\n\r\n<html>nginx</html>\n",
            "it sent a web page",
        ),
    ]);
    for (answer, expected) in texts {
        let error = connect_to(answer).await;
        assert!(error.message().contains(expected), "{answer:?}: {error}");
    }
}

#[tokio::test]
async fn a_redirect_names_the_address_to_use() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/opensearch", elsewhere.local_addr().unwrap());
    let found = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
    let server = tokio::spawn(answer_all(elsewhere, found.to_owned()));
    let answer = format!(
        "HTTP/1.1 301 Moved\r\nLocation: {address}/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    let error = connect_to(&answer).await;
    server.abort();
    assert!(
        error.message().contains(&format!("redirects to {address}")),
        "{error}"
    );
}

/// Ingest pipelines of a test's own.
struct Pipelines {
    prefix: String,
}

impl Pipelines {
    const ALL: [(&'static str, &'static str); 6] = [
        ("drops", r#"[{"drop": {}}]"#),
        ("moves", r#"[{"set": {"field": "_index", "value": "elsewhere"}}]"#),
        ("changes", r#"[{"set": {"field": "return", "value": ""}}]"#),
        ("fails", r#"[{"fail": {"message": "never"}}]"#),
        (
            "drops_some",
            r#"[{"drop": {"if": "ctx.return != null && ctx.return.endsWith('3')"}}]"#,
        ),
        (
            "moves_some",
            r#"[{"set": {"if": "ctx.return != null && ctx.return.endsWith('3')", "field": "_index", "value": "PREFIXelsewhere"}}]"#,
        ),
    ];

    async fn put(place: &Place) -> Self {
        let pipelines = Self {
            prefix: place.prefix.to_lowercase(),
        };
        for (name, processors) in Self::ALL {
            let processors = processors.replace("PREFIX", &pipelines.prefix);
            let processors: Value = serde_json::from_str(&processors).unwrap();
            let path = format!("/_ingest/pipeline/{}", pipelines.name(name));
            put(place, &path, json!({"processors": processors})).await;
        }
        pipelines
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    async fn remove(&self, place: &Place) {
        for (name, _) in Self::ALL {
            let path = format!("/_ingest/pipeline/{}", self.name(name));
            ask_opensearch(place, Method::Delete, &path, None).await;
        }
    }
}

/// Says twice that it is to be tried again, and notes what for.
#[derive(Default)]
struct TwiceAgain(Mutex<Vec<(String, usize, String)>>);

#[async_trait]
impl Waiter for TwiceAgain {
    async fn wait(&self, operation: &str, failed: usize, error: &Error) -> bool {
        let mut waits = self.0.lock().unwrap();
        waits.push((operation.to_owned(), failed, error.to_string()));
        waits.len() < 3
    }
}

/// The run decides how often, and reports it.
#[tokio::test]
async fn a_server_without_room_for_a_record_is_waited_for_as_the_run_says() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    // Everything is answered alike: who it is, and that it has no room.
    let item = json!({"_index": "w_llm_response_cache", "_id": "k", "status": 429,
        "error": {"type": "es_rejected_execution_exception", "reason": "the queue is full"}});
    let body = json!({"version": {"number": "2.18.0", "distribution": "opensearch"}, "cluster_uuid": "u",
        "items": [{"index": item}]})
    .to_string();
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    let server = tokio::spawn(answer_all(listener, answer));
    let waiter = Arc::new(TwiceAgain::default());
    let options = ConnectOptions {
        timeout: Duration::from_secs(10),
        concurrency: NonZeroUsize::MIN,
        on_invalid: Default::default(),
        salvage: false,
        waiter: Arc::clone(&waiter) as Arc<dyn Waiter>,
    };
    let endpoint = Endpoint::named(Side::Target, &address).unwrap();
    let storage = endpoint.connect(&options).await.unwrap();
    let target = storage.target(&Workspace::new("w").unwrap()).await.unwrap();
    let error = target.write(&plain(1), WriteMode::Upsert).await.unwrap_err();
    server.abort();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    let waits = waiter.0.lock().unwrap();
    let failed: Vec<usize> = waits.iter().map(|(_, failed, _)| *failed).collect();
    assert_eq!(failed, [1, 2, 3]);
    assert!(
        waits.iter().all(|(operation, _, error)| {
            operation == "writing records that the server had no capacity for"
                && error.contains("the queue is full")
        }),
        "{waits:?}"
    );
}

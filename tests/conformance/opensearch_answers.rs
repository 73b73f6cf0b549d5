//! What the program makes of answers that OpenSearch gives rarely, on a server of the test's own that gives them.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use migrate_llm_cache::{
    model::{ErrorKind, Selection, Side, Workspace, record::CacheKey},
    storage::{ConnectOptions, Connection, Endpoint, SilentWaiter, Source, Target, WriteMode},
};
use serde_json::{Value, json};

use crate::{
    cases::{keys_of, pages_of, scan},
    support::{
        http::{HttpServer, Request, answer},
        records::plain,
    },
};

const INDEX: &str = "w_llm_response_cache";

/// Status and body of an answer.
type Answer = (u16, Value);

/// A cluster that answers a request as a function says, and others as a cluster does that has one fit index.
struct Cluster(HttpServer);

impl Cluster {
    fn new(own: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static) -> Self {
        Self(HttpServer::new(move |request, stream| {
            let (status, body) = own(request).unwrap_or_else(|| usual(&request.line));
            let headers = "Content-Type: application/json\r\n";
            answer(stream, &format!("{status} Status"), headers, &body.to_string());
        }))
    }

    async fn connect(&self) -> Arc<dyn Connection> {
        let options = ConnectOptions {
            timeout: Duration::from_secs(60),
            concurrency: NonZeroUsize::MIN,
            on_invalid: Default::default(),
            salvage: false,
            waiter: SilentWaiter::shared(0),
        };
        let endpoint = Endpoint::named(Side::Target, &self.0.url()).unwrap();
        endpoint.connect(&options).await.unwrap()
    }

    async fn source(&self) -> Arc<dyn Source> {
        let storage = self.connect().await;
        storage.source(&Workspace::new("w").unwrap()).await.unwrap()
    }

    async fn target(&self) -> Arc<dyn Target> {
        let storage = self.connect().await;
        storage.target(&Workspace::new("w").unwrap()).await.unwrap()
    }

    /// How many requests there were since the last call whose method and path contain this.
    fn requests(&self, part: &str) -> usize {
        let requests = self.0.requests();
        requests
            .iter()
            .filter(|request| request.line.contains(part))
            .count()
    }
}

/// The answer of a cluster that is well, and has every index that it is asked for.
fn usual(line: &str) -> Answer {
    let index = line.split(['/', '?']).nth(1).unwrap_or_default();
    let mapping = json!({"properties": {"__mirrored_id": {"type": "keyword"}}});
    let body = if line == "GET /" {
        json!({"version": {"number": "3.8.0", "distribution": "opensearch"}, "cluster_uuid": "cluster"})
    } else if line.contains("/_field_caps") {
        json!({"indices": [index], "fields": {"__mirrored_id": {"keyword": {}}}})
    } else if line.contains("/_settings") {
        json!({index: {"settings": {"index": {"uuid": "uuid"}}}})
    } else if line.contains("/_mapping") {
        json!({index: {"mappings": mapping}})
    } else if is_of_index(line) {
        json!({index: {"aliases": {}, "mappings": mapping, "settings": {"index.uuid": "uuid"}}})
    } else if line.starts_with("PUT ") && line.contains("/_doc/") {
        return (409, failure("version_conflict_engine_exception", "no document"));
    } else {
        json!({})
    };
    (200, body)
}

/// Whether this asks for all of an index.
fn is_of_index(line: &str) -> bool {
    line.starts_with("GET /") && line.contains("_llm_response_cache?")
}

fn failure(kind: &str, reason: &str) -> Value {
    let cause = json!({"type": kind, "reason": reason});
    json!({"error": {"root_cause": [cause], "type": kind, "reason": reason}})
}

fn busy() -> Answer {
    (429, failure("circuit_breaking_exception", "too much data"))
}

fn forbidden() -> Answer {
    (403, failure("security_exception", "no permissions"))
}

/// All of an index with these settings.
fn with_settings(settings: Value) -> Answer {
    (
        200,
        json!({INDEX: {"aliases": {}, "mappings": {}, "settings": settings}}),
    )
}

/// The next call asks again, and refuses what the first could not see.
#[tokio::test]
async fn an_index_is_not_taken_for_fit_while_the_server_is_too_busy_to_say() {
    let through_a_pipeline = || with_settings(json!({"index.default_pipeline": "p"}));
    let emptied = |request: &Request| {
        let body: Value = serde_json::from_str(&request.body).unwrap();
        let docs = body["docs"].as_array().unwrap().iter().map(|doc| {
            let mut doc = doc.clone();
            doc["_source"]["return"] = json!("");
            json!({"doc": doc})
        });
        (200, json!({"docs": docs.collect::<Vec<_>>()}))
    };
    let read_only_alias = || json!({"other": {"aliases": {INDEX: {"is_write_index": false}}}});
    let pipeline_times = AtomicUsize::new(0);
    let pipeline = Cluster::new(move |request| match &request.line {
        line if is_of_index(line) => Some(through_a_pipeline()),
        line if !line.contains("/_simulate") => None,
        _ if pipeline_times.fetch_add(1, Ordering::Relaxed) == 0 => Some(busy()),
        _ => Some(emptied(request)),
    });
    let alias_times = AtomicUsize::new(0);
    let alias = Cluster::new(move |request| match &request.line {
        // A login that may only ask for each part of an index.
        line if is_of_index(line) => Some(forbidden()),
        line if line.contains("/_settings") => Some((200, json!({"other": {"settings": {}}}))),
        line if !line.contains("/_alias/") => None,
        _ if alias_times.fetch_add(1, Ordering::Relaxed) == 0 => Some(busy()),
        _ => Some((200, read_only_alias())),
    });
    for (cluster, word) in [(pipeline, "changes the field return"), (alias, "no write index")] {
        let target = cluster.target().await;
        let error = target.check_writable().await.unwrap_err();
        assert!(error.is_temporary(), "{word}: {error}");
        assert!(error.message().contains("too much data"), "{error}");
        // Nothing of the first look counts.
        let error = target.prepare().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert!(error.message().contains(word), "{error}");
    }
}

/// It has the status of a busy server, but does not pass.
#[tokio::test]
async fn a_cluster_without_a_node_for_pipelines_is_refused_at_once() {
    let cluster = Cluster::new(|request| match &request.line {
        line if is_of_index(line) => Some(with_settings(json!({"index.default_pipeline": "p"}))),
        line if line.contains("/_simulate") => {
            let reason = "There are no ingest nodes in this cluster, unable to forward request.";
            Some((500, failure("illegal_state_exception", reason)))
        }
        _ => None,
    });
    let error = cluster.target().await.check_writable().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(error.message().contains("ingest role"), "{error}");
}

/// A dry run must not count the records of a shard that is down as new.
#[tokio::test]
async fn a_document_of_a_shard_that_does_not_answer_is_not_missing() {
    let keys = ["default:extract:1", "default:extract:2"].map(CacheKey::from);
    for (cause, expected) in [
        ("no_shard_available_action_exception", None),
        ("index_not_found_exception", Some(vec![true, false])),
    ] {
        let docs = json!([
            {"_id": "default:extract:1", "found": true},
            {"_id": "default:extract:2", "error": failure(cause, "shard 3")["error"]},
        ]);
        let cluster = Cluster::new(move |request| {
            let is_asked = request.line.contains("/_mget");
            is_asked.then(|| (200, json!({"docs": docs})))
        });
        let found = cluster.source().await.contains(&keys).await;
        match expected {
            Some(expected) => assert_eq!(found.unwrap(), expected, "{cause}"),
            None => {
                let error = found.unwrap_err();
                assert!(
                    error.is_temporary() && error.message().contains("shard 3"),
                    "{error}"
                );
            }
        }
    }
}

/// A target with one document, in an index that answers before it has written to its disk, and a flush so.
async fn written_to_a_lazy_index(flush: fn() -> Answer) -> (Cluster, Arc<dyn Target>) {
    let records = plain(1);
    let key = records[0].key().to_string();
    let cluster = Cluster::new(move |request| match &request.line {
        line if is_of_index(line) => Some(with_settings(json!({"index.translog.durability": "async"}))),
        line if line.contains("/_bulk") => {
            let item = json!({"_index": INDEX, "_id": key, "status": 201, "result": "created"});
            Some((200, json!({"items": [{"index": item}]})))
        }
        line if line.contains("/_flush") => Some(flush()),
        _ => None,
    });
    let target = cluster.target().await;
    target.prepare().await.unwrap();
    target.write(&records, WriteMode::Upsert).await.unwrap();
    (cluster, target)
}

/// LightRAG flushes no index, so its login needs no permission for it.
#[tokio::test]
async fn a_login_that_may_not_flush_writes_all_the_same() {
    let (cluster, target) = written_to_a_lazy_index(forbidden).await;
    for _ in 0..3 {
        target.flush().await.unwrap();
    }
    assert_eq!(cluster.requests("/_flush"), 1);
}

#[tokio::test]
async fn a_flush_that_a_server_is_too_busy_for_is_an_error() {
    let (cluster, target) = written_to_a_lazy_index(busy).await;
    for _ in 0..2 {
        assert_eq!(target.flush().await.unwrap_err().kind(), ErrorKind::Busy);
    }
    assert_eq!(cluster.requests("/_flush"), 2);
}

#[tokio::test]
async fn workspaces_that_are_checked_together_ask_a_cluster_once() {
    const TOGETHER: usize = 16;
    let cluster = Cluster::new(|request| {
        if request.line.contains("/_cluster/settings") || request.line.contains("/_nodes/http") {
            // So long that all of them ask before the first has the answer.
            std::thread::sleep(Duration::from_millis(200));
        }
        None
    });
    let storage = cluster.connect().await;
    let checks = (0..TOGETHER).map(|n| {
        let workspace = Workspace::new(format!("w{n}")).unwrap();
        let storage = Arc::clone(&storage);
        async move {
            let target = storage.target(&workspace).await.unwrap();
            target.check_writable().await.unwrap();
            target.prepare().await.unwrap();
        }
    });
    futures::future::join_all(checks).await;
    let requests = cluster.0.requests();
    for path in ["/_cluster/settings", "/_nodes/http"] {
        let asked = requests.iter().filter(|request| request.line.contains(path));
        assert_eq!(asked.count(), 1, "{path}");
    }
}

#[tokio::test]
async fn what_a_cluster_was_too_busy_to_say_is_asked_again() {
    let times = AtomicUsize::new(0);
    let cluster = Cluster::new(move |request| {
        if !request.line.contains("/_cluster/settings") {
            return None;
        }
        Some(match times.fetch_add(1, Ordering::Relaxed) {
            0 => busy(),
            _ => (
                200,
                json!({"persistent": {"cluster": {"blocks": {"read_only": "true"}}}}),
            ),
        })
    });
    let target = cluster.target().await;
    let kinds = [target.check_writable().await, target.check_writable().await];
    let kinds = kinds.map(|checked| checked.unwrap_err().kind());
    assert_eq!(kinds, [ErrorKind::Busy, ErrorKind::Refused]);
}

/// An index of one shard whose documents have these keys, and what a count says of it.
#[derive(Clone)]
struct Index {
    keys: Vec<String>,
    counted: usize,
    without_key: usize,
}

impl Index {
    fn new(documents: usize) -> Self {
        Self {
            keys: (0..documents).map(|n| format!("default:extract:{n}")).collect(),
            counted: documents,
            without_key: 0,
        }
    }

    /// The answer to a search. There are no points in time.
    fn search(&self, request: &Request) -> Option<Answer> {
        if request.line.contains("/_search/point_in_time") {
            return Some((404, failure("not_found", "no handler found")));
        }
        if !request.line.contains("/_search?") {
            return None;
        }
        let body: Value = serde_json::from_str(&request.body).unwrap();
        Some((
            200,
            if body.get("aggs").is_some() {
                self.count()
            } else {
                self.read(&body)
            },
        ))
    }

    fn count(&self) -> Value {
        let count = |records: usize| json!({"doc_count": records});
        let buckets = json!({
            "selected": count(self.counted),
            "without_key": count(self.without_key),
            "default:extract:": count(self.counted),
        });
        json!({
            "hits": {"total": {"value": self.counted}},
            "aggregations": {"kinds": {"buckets": buckets}},
        })
    }

    /// The documents of a range of numbers, or the last number alone.
    fn read(&self, body: &Value) -> Value {
        let range = &body["query"]["bool"]["filter"][0]["range"]["_seq_no"];
        let (after, to) = (range["gt"].as_i64(), range["lte"].as_i64());
        let is_in_range = |number: i64| after.is_none_or(|n| number > n) && to.is_none_or(|n| number <= n);
        let hits = (0..).zip(&self.keys).map(|(number, key): (i64, _)| {
            let source = json!({"return": "a", "__mirrored_id": key});
            json!({"_id": key, "_seq_no": number, "sort": [number], "_source": source})
        });
        let mut hits: Vec<Value> = hits
            .filter(|hit| is_in_range(hit["_seq_no"].as_i64().unwrap()))
            .collect();
        if body["sort"][0]["_seq_no"]["order"] == "desc" {
            hits.reverse();
        }
        hits.truncate(usize::try_from(body["size"].as_u64().unwrap()).unwrap());
        json!({"_shards": {"total": 1}, "hits": {"hits": hits}})
    }
}

/// Whether all documents have the field that the server counts by is a part of its count.
#[tokio::test]
async fn a_server_counts_with_one_search_unless_a_document_lacks_its_key() {
    for (without_key, is_one_search) in [(0, true), (1, false)] {
        let index = Index {
            without_key,
            ..Index::new(2)
        };
        let cluster = Cluster::new(move |request| index.search(request));
        let source = cluster.source().await;
        let count = source.count(&Selection::default(), &|_| ()).await.unwrap();
        assert_eq!((count.total(), count.exact), (2, true), "{without_key}");
        let searches = cluster.requests("/_search?");
        assert_eq!(searches == 1, is_one_search, "{without_key}: {searches} searches");
    }
}

/// The place shows the field before the first count, and the inspected mapping before the one after writing. Others ask.
#[tokio::test]
async fn the_field_with_the_keys_is_looked_at_no_more_than_needed() {
    let index = Index::new(2);
    let cluster = Cluster::new(move |request| index.search(request));
    let storage = cluster.connect().await;
    let workspace = Workspace::new("w").unwrap();
    storage.physical_location(&workspace).await.unwrap();
    let target = storage.target(&workspace).await.unwrap();
    let reader = target.reader();
    for (step, asked) in [("place", 1), ("nothing", 1), ("mapping", 0), ("nothing", 1)] {
        if step == "mapping" {
            target.prepare().await.unwrap();
        }
        let count = reader.count(&Selection::default(), &|_| ()).await.unwrap();
        assert_eq!(count.total(), 2);
        assert_eq!(cluster.requests("/_field_caps"), asked, "after {step}");
    }
}

/// A login may have the permission for each part of an index and not for all of it.
#[tokio::test]
async fn an_index_is_inspected_with_one_request_or_part_by_part() {
    for (may_read_all, requests) in [(true, 1), (false, 3)] {
        let mappings = json!({"_source": {"enabled": false}});
        let cluster = Cluster::new(move |request| match &request.line {
            line if is_of_index(line) && !may_read_all => Some(forbidden()),
            line if is_of_index(line) => {
                let index = json!({"aliases": {}, "mappings": mappings, "settings": {}});
                Some((200, json!({INDEX: index})))
            }
            line if line.contains("/_mapping") => Some((200, json!({INDEX: {"mappings": mappings}}))),
            _ => None,
        });
        let error = cluster.target().await.check_writable().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.message().contains("_source is disabled"), "{error}");
        assert_eq!(cluster.requests(INDEX), requests);
    }
}

/// The number of documents is known from the count. What came later is read as well.
#[tokio::test]
async fn an_index_of_few_documents_is_read_with_one_search() {
    let all = Selection::default();
    for (documents, counted, is_one_search) in
        [(40, 40, true), (63, 63, true), (64, 64, false), (200, 10, false)]
    {
        let index = Index {
            counted,
            ..Index::new(documents)
        };
        let keys = index.keys.clone();
        let cluster = Cluster::new(move |request| index.search(request));
        let source = cluster.source().await;
        source.count(&all, &|_| ()).await.unwrap();
        cluster.requests("");
        let pages = scan(&source, &all, pages_of(30), None).await;
        let searches = cluster.requests("/_search");
        assert_eq!(keys_of(&pages), keys);
        assert_eq!(searches == 1, is_one_search, "{documents}: {searches} searches");
        let cursor = pages.last().unwrap().cursor.clone();
        assert!(cursor.is_some(), "{documents}: the end is a place to go on from");
        let rest = scan(&source, &all, pages_of(30), cursor).await;
        assert_eq!(keys_of(&rest), Vec::<String>::new(), "{documents}");
    }
}

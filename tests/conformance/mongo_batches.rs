//! How documents are requested of MongoDB: in parts that are estimated from the keys, several at a time.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use migrate_llm_cache::{
    model::Selection,
    storage::{Page, PageLimit, Source},
};
use mongodb::bson::{Bson, Document, doc};

use crate::{
    cases::{keys_of, pages_of, scan},
    mongo_answers::source,
    support::mongo_server::{MongoServer, Role, name, refusal},
};

/// The time that an answer takes, so that requests at the same time can be seen.
const DELAY: Duration = Duration::from_millis(10);

const HOST_UNREACHABLE: i32 = 6;

/// A collection with these keys, in their order, and a server that counts its requests.
struct Collection {
    server: MongoServer,
    keys: Vec<String>,
    /// The most requests at the same time.
    most: Arc<AtomicUsize>,
    /// Whether queries fail.
    down: Arc<AtomicBool>,
}

impl Collection {
    fn of(keys: impl IntoIterator<Item = String>) -> Self {
        let mut keys: Vec<String> = keys.into_iter().collect();
        keys.sort();
        let (now, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
        let cursors: Mutex<HashMap<i64, Vec<String>>> = Mutex::default();
        let (held, highest) = (keys.clone(), Arc::clone(&most));
        let down = Arc::new(AtomicBool::new(false));
        let is_down = Arc::clone(&down);
        let server = MongoServer::new(Role::Standalone, move |command| {
            let (rest, first) = match name(command) {
                "find" if is_down.load(Ordering::SeqCst) => return Some(refusal(HOST_UNREACHABLE)),
                "find" => (matching(&held, command, "filter"), "firstBatch"),
                "count" => {
                    let counted = i64::try_from(matching(&held, command, "query").len()).ok()?;
                    return Some(doc! { "ok": 1.0, "n": counted });
                }
                "getMore" => {
                    let id = command.get_i64("getMore").ok()?;
                    (cursors.lock().unwrap().remove(&id)?, "nextBatch")
                }
                _ => return None,
            };
            highest.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(DELAY);
            now.fetch_sub(1, Ordering::SeqCst);
            let size = command.get("batchSize").and_then(integer).unwrap_or(101);
            let (batch, rest) = rest.split_at(size.min(rest.len()));
            let mut cursors = cursors.lock().unwrap();
            let id = match rest.is_empty() {
                true => 0,
                false => 1 + cursors.keys().max().unwrap_or(&0),
            };
            if id > 0 {
                cursors.insert(id, rest.to_vec());
            }
            let documents: Vec<Document> = batch.iter().map(document).collect();
            Some(doc! { "ok": 1.0, "cursor": { "id": id, "ns": "LightRAG.c", first: documents } })
        });
        Self {
            server,
            keys,
            most,
            down,
        }
    }

    async fn source(&self) -> Arc<dyn Source> {
        source(&self.server).await
    }

    /// Checks that reading can continue after each of these pages.
    async fn assert_cursors_lead_to_the_rest(&self, source: &Arc<dyn Source>, pages: Vec<Page>) {
        let mut read = 0;
        for page in pages {
            read += page.entries.len();
            let rest = scan(source, &every(), limit(), page.cursor).await;
            assert_eq!(keys_of(&rest), self.keys[read..]);
        }
    }

    /// How often documents were requested.
    fn requests(&self) -> usize {
        self.server.commands("find").len() + self.server.commands("getMore").len()
    }
}

/// Some 6 KB, as records have.
fn document(key: &String) -> Document {
    doc! { "_id": key, "return": "x".repeat(6000) }
}

fn integer(value: &Bson) -> Option<usize> {
    value
        .as_i64()
        .or_else(|| value.as_i32().map(i64::from))?
        .try_into()
        .ok()
}

/// The keys that a command finds, whose condition has this name.
fn matching(keys: &[String], command: &Document, condition: &str) -> Vec<String> {
    let bounds = command.get_document(condition).unwrap().get_document("_id").ok();
    let is_in = |key: &&String| {
        bounds
            .into_iter()
            .flatten()
            .all(|(name, bound)| match (name.as_str(), bound.as_str().unwrap()) {
                ("$gte", bound) => key.as_str() >= bound,
                ("$gt", bound) => key.as_str() > bound,
                ("$lt", bound) => key.as_str() < bound,
                (other, _) => panic!("{other} is not expected"),
            })
    };
    let limit = command.get("limit").and_then(integer).unwrap_or(usize::MAX);
    keys.iter().filter(is_in).take(limit).cloned().collect()
}

/// Whether a query is for all extractions, or for all from one on and more.
fn is_for_all_extractions(command: &Document) -> bool {
    let bounds = command.get_document("filter").unwrap().get_document("_id").ok();
    let text = |name| bounds?.get_str(name).ok();
    let from = text("$gte").or_else(|| text("$gt"));
    from.is_none_or(|from| from < "default:extract:f")
        && text("$lt").is_none_or(|to| to >= "default:extract;")
}

/// A hash, of which the first half is evenly distributed.
fn hash(n: u64) -> String {
    format!("{:016x}{n:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// As in a run.
fn limit() -> PageLimit {
    PageLimit {
        bytes: NonZeroUsize::new(1 << 20).unwrap(),
        ahead: NonZeroUsize::new(8 << 20).unwrap(),
        ..pages_of(1000)
    }
}

fn every() -> Selection {
    Selection::parse(["all"]).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_with_hashes_are_requested_several_parts_at_a_time() {
    let types = [
        ("analysis", 0..40),
        ("extract", 100..3100),
        ("summary", 4000..4500),
    ];
    let keys = types.map(|(name, numbers)| numbers.map(move |n| format!("default:{name}:{}", hash(n))));
    let others = ["a note".to_owned(), "zzz".to_owned()];
    let collection = Collection::of(keys.into_iter().flatten().chain(others));
    let source = collection.source().await;
    let pages = scan(&source, &every(), limit(), None).await;
    assert_eq!(keys_of(&pages), collection.keys);
    assert!(
        collection.most.load(Ordering::SeqCst) >= 2,
        "one request at a time"
    );
    // Batches of 1 MiB have some 170 documents each. Each type begins with a smaller one, and ends with another.
    let requests = collection.requests();
    assert!(requests <= 3540 / 170 + 3 * 4, "{requests} requests");
    collection.assert_cursors_lead_to_the_rest(&source, pages).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_are_not_distributed_as_hashes_are_read_with_few_requests() {
    // Dense at the beginning, then far apart, and dense again at the end.
    let places = (0..1000).map(|n| n << 20).chain((1000..1010).map(|n| n << 48));
    let places = places.chain((0..1000).map(|n| u64::MAX - (n << 20)));
    let clustered = places.map(|place| format!("default:extract:{place:016x}{:016x}", 0));
    let named = (0..1000).map(|n| format!("note {n:05}"));
    for keys in [clustered.collect::<Vec<_>>(), named.collect()] {
        for is_counted in [false, true] {
            let collection = Collection::of(keys.clone());
            let (source, selection) = (collection.source().await, every());
            if is_counted {
                source.count(&selection, &|_| ()).await.unwrap();
            }
            let before = collection.requests();
            let reading = scan(&source, &selection, limit(), None);
            let pages = tokio::time::timeout(Duration::from_secs(60), reading).await;
            assert_eq!(keys_of(&pages.expect("too many requests")), collection.keys);
            let requests = collection.requests() - before;
            assert!(requests <= 60, "{requests} requests, counted: {is_counted}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_that_fail_together_are_one_failure_and_lose_nothing() {
    let collection = Collection::of((0..4000).map(|n| format!("default:extract:{}", hash(n))));
    let mut reader = collection.source().await.scan(&every(), limit(), None);
    let (mut keys, mut failures) = (Vec::new(), 0);
    for at in 0.. {
        if at == 5 {
            collection.down.store(true, Ordering::SeqCst);
        }
        match reader.next_page().await {
            Ok(Some(page)) => keys.extend(keys_of([&page])),
            Ok(None) => break,
            Err(error) => {
                assert!(error.to_string().contains("read"), "{error}");
                failures += 1;
                collection.down.store(false, Ordering::SeqCst);
            }
        }
    }
    assert_eq!(keys, collection.keys);
    assert_eq!(failures, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counted_keys_are_requested_in_parts_from_the_first_request_on() {
    let extractions = (0..3000).map(|n| format!("default:extract:{}", hash(n)));
    let others =
        ["default:analysis:", "default:summary:", "mix:query:"].map(|kind| kind.to_owned() + &hash(1));
    let collection = Collection::of(extractions.chain(others));
    let source = collection.source().await;
    let count = source.count(&every(), &|_| ()).await.unwrap();
    assert_eq!(count.total(), 3003);
    let counting = (collection.server.commands("find").len(), collection.requests());
    let pages = scan(&source, &every(), limit(), None).await;
    assert_eq!(keys_of(&pages), collection.keys);
    // All are extractions but one before and two after these.
    let reading = collection.server.commands("find").split_off(counting.0);
    let for_all = reading
        .iter()
        .filter(|command| is_for_all_extractions(command))
        .count();
    assert_eq!(for_all, 0);
    let requests = collection.requests() - counting.1;
    assert!(requests <= 3000 / 170 + 8, "{requests} requests");
    collection.assert_cursors_lead_to_the_rest(&source, pages).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_keys_before_the_counted_ones_are_divided_as_well() {
    let keys = [("bypass:query:", 0..2000), ("default:extract:", 3000..4000)];
    let keys = keys.map(|(kind, numbers)| numbers.map(move |n| format!("{kind}{}", hash(n))));
    let collection = Collection::of(keys.into_iter().flatten());
    let source = collection.source().await;
    source.count(&every(), &|_| ()).await.unwrap();
    let before = collection.requests();
    // Two parts fill what may be read ahead.
    let ahead = NonZeroUsize::new(2 << 20).unwrap();
    let limit = PageLimit { ahead, ..limit() };
    let pages = scan(&source, &every(), limit, None).await;
    assert_eq!(keys_of(&pages), collection.keys);
    // The first part is read to its end by one cursor unless it is divided.
    let requests = collection.server.commands("getMore").len();
    assert!(requests <= 8, "{requests} requests for more");
    let requests = collection.requests() - before;
    assert!(requests <= 3000 / 170 + 16, "{requests} requests");
}

//! What every storage must do, as source and as target.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
    ops::Deref,
    sync::Arc,
    time::Duration,
};

use futures::FutureExt;
use migrate_llm_cache::{
    model::{
        CacheType, Error, ErrorKind, Selection, Shard, Side, Workspace,
        record::{CacheKey, OnInvalid, Record},
    },
    storage::{
        ConnectOptions, Connection, Cursor, Endpoint, Entry, Page, PageLimit, PageReader, SilentWaiter,
        Source, Target, WriteMode, WriteOutcome,
    },
};
use serde_json::json;

use crate::support::{
    place::Place,
    records::{self, key, meaning, plain, raw, record},
};

const MEGABYTE: usize = 1 << 20;

fn number(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap()
}

pub fn pages_of(records: usize) -> PageLimit {
    PageLimit {
        records: number(records),
        bytes: number(64 * MEGABYTE),
        ahead: number(2 * MEGABYTE),
    }
}

pub async fn connect(place: &Place, side: Side, on_invalid: OnInvalid) -> Arc<dyn Connection> {
    connect_to(&place.address, side, on_invalid).await
}

pub async fn connect_to(address: &str, side: Side, on_invalid: OnInvalid) -> Arc<dyn Connection> {
    connect_within(Duration::from_secs(60), address, side, on_invalid).await
}

/// Connects with a time limit for requests.
pub async fn connect_within(
    timeout: Duration,
    address: &str,
    side: Side,
    on_invalid: OnInvalid,
) -> Arc<dyn Connection> {
    let options = ConnectOptions {
        timeout,
        concurrency: number(2),
        on_invalid,
        salvage: false,
        waiter: SilentWaiter::shared(10),
    };
    Endpoint::named(side, address)
        .unwrap()
        .connect(&options)
        .await
        .unwrap()
}

pub async fn source(place: &Place, workspace: &str) -> Arc<dyn Source> {
    let storage = connect(place, Side::Source, OnInvalid::Reject).await;
    storage.source(&Workspace::new(workspace).unwrap()).await.unwrap()
}

/// A workspace that is written to, and its storage, which shows what was written when both are finished.
pub struct Written {
    storage: Arc<dyn Connection>,
    target: Arc<dyn Target>,
}

impl Deref for Written {
    type Target = Arc<dyn Target>;

    fn deref(&self) -> &Self::Target {
        &self.target
    }
}

impl Written {
    pub async fn finish(&self) -> Result<(), Error> {
        self.target.finish().await?;
        self.storage.finish().await
    }
}

pub async fn target(place: &Place, workspace: &str) -> Written {
    let storage = connect(place, Side::Target, OnInvalid::Reject).await;
    let target = storage.target(&Workspace::new(workspace).unwrap()).await.unwrap();
    Written { storage, target }
}

/// Writes records as a run does, each of which must be kept.
pub async fn fill(place: &Place, workspace: &str, records: &[Record]) {
    let outcomes = write(place, workspace, records, WriteMode::Upsert).await;
    assert!(
        outcomes
            .iter()
            .all(|outcome| matches!(outcome, WriteOutcome::Written(_))),
        "{outcomes:?}"
    );
}

pub async fn write(place: &Place, workspace: &str, records: &[Record], mode: WriteMode) -> Vec<WriteOutcome> {
    let target = target(place, workspace).await;
    target.prepare().await.unwrap();
    let mut outcomes = Vec::new();
    for batch in records.chunks(1000) {
        outcomes.extend(target.write(batch, mode).await.unwrap());
    }
    target.flush().await.unwrap();
    target.finish().await.unwrap();
    assert_eq!(outcomes.len(), records.len());
    outcomes
}

pub async fn scan(
    source: &Arc<dyn Source>,
    selection: &Selection,
    limit: PageLimit,
    from: Option<Cursor>,
) -> Vec<Page> {
    rest(Arc::clone(source).scan(selection, limit, from)).await
}

/// All pages that a reader still has; none may fail.
pub async fn rest(mut pages: Box<dyn PageReader>) -> Vec<Page> {
    let mut read = Vec::new();
    while let Some(page) = pages.next_page().await.unwrap() {
        read.push(page);
    }
    read
}

pub fn keys_of<'a>(pages: impl IntoIterator<Item = &'a Page>) -> Vec<String> {
    let entries = pages.into_iter().flat_map(|page| &page.entries);
    entries.map(|entry| entry.key().to_string()).collect()
}

pub fn keys(records: &[Record]) -> BTreeSet<String> {
    records.iter().map(|record| record.key().to_string()).collect()
}

pub fn record_of(entry: &Entry) -> &Record {
    match entry {
        Entry::Record(record) => record,
        Entry::Invalid(invalid) => panic!("no record: {invalid:?}"),
    }
}

type Meanings = BTreeMap<String, BTreeMap<String, serde_json::Value>>;

fn meanings<'a>(records: impl IntoIterator<Item = &'a Record>) -> Meanings {
    records
        .into_iter()
        .map(|record| (record.key().to_string(), meaning(record)))
        .collect()
}

async fn get(place: &Place, workspace: &str, keys: &[&str]) -> Vec<Option<Entry>> {
    let keys: Vec<CacheKey> = keys.iter().map(|key| CacheKey::from(*key)).collect();
    source(place, workspace).await.get_many(&keys).await.unwrap()
}

/// What is not there is empty, and looking makes nothing.
pub async fn a_workspace_that_is_not_there_is_empty_and_stays_so(place: Place) {
    let workspace = place.workspace("none");
    let storage = connect(&place, Side::Target, OnInvalid::Reject).await;
    let named = Workspace::new(workspace.as_str()).unwrap();
    for _ in 0..2 {
        let target = storage.target(&named).await.unwrap();
        let reader = target.reader();
        let count = reader.count(&Selection::default(), &|_| ()).await.unwrap();
        assert_eq!((count.total(), count.exact), (0, true));
        let pages = scan(&reader, &Selection::default(), pages_of(10), None).await;
        assert!(pages.into_iter().all(|page| page.entries.is_empty()));
        assert_eq!(
            reader
                .get_many(&[CacheKey::from("default:extract:1")])
                .await
                .unwrap(),
            [None]
        );
        storage.physical_location(&named).await.unwrap();
    }
    if place.server.is_files() {
        assert!(!std::path::Path::new(&place.address).exists());
    } else {
        assert!(!storage.workspaces().await.unwrap().found.contains(&named));
    }
}

/// Pages of any size hold every record once, in full.
pub async fn a_scan_gives_every_record_once_at_every_page_size(place: Place) {
    let workspace = place.workspace("w");
    let records = plain(25);
    fill(&place, &workspace, &records).await;
    let source = source(&place, &workspace).await;
    for size in [1, 2, 3, 1000] {
        let pages = scan(&source, &Selection::default(), pages_of(size), None).await;
        assert!(
            pages.iter().all(|page| page.entries.len() <= size),
            "a page of more than {size}"
        );
        let found: Vec<&Record> = pages
            .iter()
            .flat_map(|page| &page.entries)
            .map(record_of)
            .collect();
        assert_eq!(found.len(), records.len(), "page size {size}");
        assert_eq!(meanings(found), meanings(&records), "page size {size}");
    }
}

/// A scan that goes on at a cursor gives what was not in the pages up to it.
pub async fn a_scan_goes_on_at_every_cursor(place: Place) {
    let workspace = place.workspace("w");
    let records = plain(25);
    fill(&place, &workspace, &records).await;
    let source = source(&place, &workspace).await;
    for size in [1, 3, 7] {
        let pages = scan(&source, &Selection::default(), pages_of(size), None).await;
        for (at, page) in pages.iter().enumerate() {
            // A storage without an order has cursors nowhere, another at some pages.
            let Some(cursor) = page.cursor.clone() else {
                continue;
            };
            let rest = scan(&source, &Selection::default(), pages_of(size), Some(cursor)).await;
            let mut seen = keys_of(&pages[..=at]);
            seen.extend(keys_of(&rest));
            assert_eq!(seen.len(), records.len(), "page {at} of size {size}");
            assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), keys(&records));
        }
    }
}

/// A record that is replaced while a scan is under way may move, and comes with its old or its new value, in this scan
/// and in one that goes on where another stopped.
pub async fn what_is_replaced_during_a_scan_is_not_missed(place: Place) {
    let place = Place::alone(place.server.name);
    let workspace = place.workspace("w");
    let records = plain(60);
    fill(&place, &workspace, &records).await;
    let source = source(&place, &workspace).await;
    let mut pages = Arc::clone(&source).scan(&Selection::default(), pages_of(5), None);
    let mut read = Vec::new();
    for _ in 0..4 {
        read.push(pages.next_page().await.unwrap().unwrap());
    }
    let replaced: Vec<Record> = records.iter().step_by(2).map(longer).collect();
    fill(&place, &workspace, &replaced).await;
    let cursor = read.last().and_then(|page| page.cursor.clone());

    let rest = rest(pages).await;
    let seen: BTreeSet<String> = keys_of(read.iter().chain(&rest)).into_iter().collect();
    assert_eq!(seen, keys(&records), "in the scan under way");

    if let Some(cursor) = cursor {
        let mut pages = Arc::clone(&source).scan(&Selection::default(), pages_of(5), Some(cursor));
        let read_on = async {
            let mut read_on = Vec::new();
            while let Some(page) = pages.next_page().await? {
                read_on.push(page);
            }
            Ok::<_, Error>(read_on)
        };
        match read_on.await {
            Ok(rest) => {
                let seen: BTreeSet<String> = keys_of(read.iter().chain(&rest)).into_iter().collect();
                assert_eq!(seen, keys(&records), "in a scan that goes on");
            }
            // A file that was replaced has no such place any more, and says so.
            Err(error) => assert_eq!(error.kind(), ErrorKind::Checkpoint, "{error}"),
        }
    }
}

/// The same record with a longer answer.
fn longer(record: &Record) -> Record {
    answering(record, &"longer ".repeat(40))
}

/// The same record with another answer.
pub fn answering(record: &Record, answer: &str) -> Record {
    let mut fields: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(record.value()).unwrap();
    fields.insert("return".to_owned(), json!(answer));
    let value = serde_json::to_vec(&fields).unwrap();
    Record::new(record.key().clone(), value.into()).unwrap()
}

/// A page ends when it has its bytes, so that large values do not fill the memory.
pub async fn a_page_goes_beyond_its_bytes_by_one_record_at_most(place: Place) {
    let workspace = place.workspace("w");
    let records: Vec<Record> = (0..12)
        .map(|n| {
            record(
                &key("extract", n),
                &json!({"return": "x".repeat(MEGABYTE), "cache_type": "extract"}),
            )
        })
        .collect();
    fill(&place, &workspace, &records).await;
    let source = source(&place, &workspace).await;
    let limit = PageLimit {
        records: number(1000),
        bytes: number(2 * MEGABYTE),
        ahead: number(2 * MEGABYTE),
    };
    let pages = scan(&source, &Selection::default(), limit, None).await;
    for page in &pages {
        let bytes: usize = page.entries.iter().map(Entry::size).sum();
        assert!(bytes < 4 * MEGABYTE, "{bytes} bytes in a page");
    }
    let found = keys_of(&pages);
    assert_eq!(found.len(), records.len());
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), keys(&records));
}

/// A selection leaves out other types and other modes.
#[expect(clippy::too_many_lines, reason = "a table of cases")]
pub async fn a_selection_is_kept_to(place: Place) {
    let workspace = place.workspace("w");
    let mut records = plain(9);
    let others = [
        "mix:query:1",
        "local:keywords:1",
        "global:query:2",
        "mix:extract:3",
        "default:other:4",
        "default",
        "default:extract",
        "defaultx:extract:5",
        "default:extractx:6",
    ];
    let value = json!({"return": "a", "cache_type": "query", "queryparam": {"mode": "mix"}});
    // Under `default` alone Redis has the old layout of a whole mode, and no entry.
    let others = others
        .iter()
        .filter(|key| place.kind != "redis" || **key != "default");
    records.extend(others.map(|key| record(key, &value)));
    fill(&place, &workspace, &records).await;
    let source = source(&place, &workspace).await;
    for (types, expected) in [
        (
            vec![CacheType::Extract, CacheType::Summary, CacheType::Analysis],
            9,
        ),
        (vec![CacheType::Summary], 3),
        (vec![CacheType::Query], 2),
        (vec![CacheType::Query, CacheType::Keywords, CacheType::Extract], 6),
    ] {
        let selection = Selection::new(types.clone()).unwrap();
        let found = keys_of(&scan(&source, &selection, pages_of(4), None).await);
        assert!(
            found.iter().all(|key| selection.of_key(key).is_some()),
            "{types:?}: {found:?}"
        );
        assert_eq!(found.len(), expected, "{types:?}: {found:?}");
        let count = source.count(&selection, &|_| ()).await.unwrap();
        assert_eq!((count.total(), count.exact), (expected as u64, true), "{types:?}");
        let mut by_type = BTreeMap::new();
        for key in &found {
            *by_type.entry(selection.of_key(key).unwrap()).or_insert(0_u64) += 1;
        }
        let counted = count.by_type.iter().filter(|(_, n)| *n > 0);
        let counted: BTreeMap<_, _> = counted.map(|(t, n)| (t.clone(), n)).collect();
        assert_eq!(counted, by_type, "{types:?}");
        let left_out = count.left_out.map(|left_out| left_out.total());
        assert_eq!(left_out, Some((records.len() - expected) as u64), "{types:?}");
    }
    // Everything of the mode of files, and everything.
    let all_of_files = ["default:other:4", "default:extract", "default:extractx:6"];
    for (selection, expected) in [
        (Selection::default(), 9 + all_of_files.len()),
        (Selection::all(), records.len()),
    ] {
        let found = keys_of(&scan(&source, &selection, pages_of(4), None).await);
        assert!(
            all_of_files.iter().all(|key| found.iter().any(|f| f == key)),
            "{found:?}"
        );
        assert_eq!(found.len(), expected, "{found:?}");
        let count = source.count(&selection, &|_| ()).await.unwrap();
        assert_eq!((count.total(), count.exact), (expected as u64, true));
        let left_out = count.left_out.map(|left_out| left_out.total());
        assert_eq!(left_out, Some((records.len() - expected) as u64));
    }
}

/// Records are found by key, in the order asked.
pub async fn records_are_got_by_key_in_order(place: Place) {
    let workspace = place.workspace("w");
    let records = plain(5);
    fill(&place, &workspace, &records).await;
    let asked = [
        records[3].key().as_str(),
        "default:extract:missing",
        records[0].key().as_str(),
        records[3].key().as_str(),
        "",
    ];
    let found = get(&place, &workspace, &asked).await;
    let found: Vec<_> = found
        .iter()
        .map(|entry| entry.as_ref().map(|entry| meaning(record_of(entry))))
        .collect();
    let third = Some(meaning(&records[3]));
    assert_eq!(
        found,
        [third.clone(), None, Some(meaning(&records[0])), third, None]
    );
    assert_eq!(get(&place, &workspace, &[]).await, []);
}

/// What a run asks after its last write, and a dry run before its first: which keys are there, and by how many records the
/// target has grown.
pub async fn what_was_written_is_found_at_once(place: Place) {
    let workspace = place.workspace("back");
    let records = plain(300);
    let keys: Vec<CacheKey> = records.iter().map(|record| record.key().clone()).collect();
    let target = target(&place, &workspace).await;
    assert_eq!(target.reader().contains(&keys[..3]).await.unwrap(), [false; 3]);
    target
        .reader()
        .count(&Selection::default(), &|_| ())
        .await
        .unwrap();
    target.prepare().await.unwrap();
    let before = target.size().await.unwrap();
    for half in [&records[..150], &records[150..]] {
        target.write(half, WriteMode::Upsert).await.unwrap();
    }
    target.flush().await.unwrap();
    target.finish().await.unwrap();
    let found = target.read_back(&keys).await.unwrap();
    assert!(found.iter().all(Option::is_some));
    for (given, kept) in records.iter().zip(&found) {
        assert_eq!(meaning(given), meaning(record_of(kept.as_ref().unwrap())));
    }
    let missing = CacheKey::from("default:extract:none");
    assert_eq!(
        target.read_back(std::slice::from_ref(&missing)).await.unwrap(),
        [None]
    );
    let asked = [&keys[..7], std::slice::from_ref(&missing), &keys[7..]].concat();
    let there = target.has(&asked).await.unwrap();
    let not_there: Vec<usize> = (0..there.len()).filter(|at| !there[*at]).collect();
    assert_eq!((there.len(), not_there), (301, vec![7]));
    match (before, target.size().await.unwrap()) {
        (Some(before), Some(after)) if before.grows_by_new_only => {
            assert_eq!(after.entries, before.entries + 300);
        }
        // Others write to the same server, or replacements count too.
        (Some(_), Some(_)) => {}
        (None, None) => {
            let count = target
                .reader()
                .count(&Selection::default(), &|_| ())
                .await
                .unwrap();
            assert_eq!(count.total(), 300);
        }
        (before, after) => panic!("{before:?} {after:?}"),
    }
    let mut asked = vec![missing, CacheKey::from("not even \0 a key")];
    asked.extend(keys.iter().take(5).cloned());
    let reader = source(&place, &workspace).await;
    let there = reader.contains(&asked).await.unwrap();
    assert_eq!(there, [false, false, true, true, true, true, true]);
}

/// An upsert replaces the whole record; writing the same again changes nothing.
pub async fn an_upsert_replaces_the_whole_record_and_may_be_repeated(place: Place) {
    let workspace = place.workspace("w");
    let name = key("extract", 1);
    let first = json!({"return": "old", "original_prompt": "p", "cache_type": "extract", "chunk_id": "c",
                       "queryparam": {"a": 1}, "create_time": 5, "update_time": 6});
    let second = record(
        &name,
        &json!({"return": "new", "cache_type": "extract", "create_time": 7}),
    );
    fill(&place, &workspace, &[record(&name, &first)]).await;
    for _ in 0..2 {
        let outcomes = write(
            &place,
            &workspace,
            std::slice::from_ref(&second),
            WriteMode::Upsert,
        )
        .await;
        assert_eq!(outcomes, [WriteOutcome::written()]);
        let found = get(&place, &workspace, &[&name]).await;
        assert_eq!(meaning(record_of(found[0].as_ref().unwrap())), meaning(&second));
    }
}

/// A record that is changed while it is read comes again in a later batch.
pub async fn a_record_that_comes_again_replaces_the_first(place: Place) {
    let workspace = place.workspace("w");
    let records = plain(6);
    let changed: Vec<Record> = records.iter().step_by(2).map(longer).collect();
    let target = target(&place, &workspace).await;
    target.prepare().await.unwrap();
    for batch in [&records, &changed] {
        let outcomes = target.write(batch, WriteMode::Upsert).await.unwrap();
        assert_eq!(outcomes, vec![WriteOutcome::written(); batch.len()]);
    }
    target.flush().await.unwrap();
    target.finish().await.unwrap();

    let source = source(&place, &workspace).await;
    let count = source.count(&Selection::default(), &|_| ()).await.unwrap();
    assert_eq!(count.total(), records.len() as u64);
    let expected = meanings(&records)
        .into_iter()
        .chain(meanings(&changed))
        .collect::<Meanings>();
    let pages = scan(&source, &Selection::default(), pages_of(4), None).await;
    let read: Vec<&Record> = pages
        .iter()
        .flat_map(|page| &page.entries)
        .map(record_of)
        .collect();
    assert_eq!(read.len(), records.len());
    assert_eq!(meanings(read), expected);
}

/// A record that is there is left as it is by a creation, and its neighbours are created.
pub async fn a_creation_leaves_what_is_there(place: Place) {
    let workspace = place.workspace("w");
    let old = plain(3);
    fill(&place, &workspace, &old[1..2]).await;
    let changed: Vec<Record> = old
        .iter()
        .map(|record| {
            raw(
                record.key().as_str(),
                r#"{"return": "changed", "cache_type": "extract"}"#,
            )
        })
        .collect();
    let outcomes = write(&place, &workspace, &changed, WriteMode::Create).await;
    assert_eq!(
        outcomes,
        [
            WriteOutcome::written(),
            WriteOutcome::Exists,
            WriteOutcome::written()
        ]
    );
    let keys: Vec<&str> = old.iter().map(|record| record.key().as_str()).collect();
    let found = get(&place, &workspace, &keys).await;
    let found: Vec<_> = found
        .iter()
        .map(|entry| meaning(record_of(entry.as_ref().unwrap())))
        .collect();
    assert_eq!(
        found,
        [meaning(&changed[0]), meaning(&old[1]), meaning(&changed[2])]
    );
}

/// Looked for together, each has its own records, and a later look sees what was written meanwhile.
pub async fn workspaces_that_were_gathered_are_counted_and_read_like_others(place: Place) {
    let names = ["a", "ab", "_", "none"].map(|name| place.workspace(name));
    for (at, name) in names.iter().take(3).enumerate() {
        let value = r#"{"return": "", "cache_type": "extract"}"#;
        let records: Vec<Record> = (0..=at as u64).map(|n| raw(&key("extract", n), value)).collect();
        fill(&place, name, &records).await;
    }
    let storage = connect(&place, Side::Source, OnInvalid::Reject).await;
    let workspaces = names.map(|name| Workspace::new(name).unwrap());
    let selection = Selection::default();
    for reading in [false, true, false] {
        let gathered = storage.gather(&workspaces).await.unwrap();
        assert!((1..=workspaces.len()).contains(&gathered), "{gathered}");
        for (at, workspace) in workspaces.iter().enumerate() {
            let source = storage.source(workspace).await.unwrap();
            let expected = if at < 3 { at + 1 } else { 0 };
            let found = if reading {
                keys_of(&scan(&source, &selection, pages_of(10), None).await).len()
            } else {
                source.count(&selection, &|_| ()).await.unwrap().total() as usize
            };
            assert_eq!(found, expected, "{workspace}, reading {reading}");
        }
    }
    // Each was looked at since, so what was gathered says nothing any more.
    let more = raw(&key("extract", 7), r#"{"return": "", "cache_type": "extract"}"#);
    fill(&place, workspaces[0].name(), &[more]).await;
    // What keeps a whole file in mind is opened anew.
    let source = storage.source(&workspaces[0]).await.unwrap();
    assert_eq!(source.count(&selection, &|_| ()).await.unwrap().total(), 2);
}

/// Workspaces whose names look alike, to a prefix or to a pattern, are kept apart and listed.
pub async fn workspaces_are_kept_apart(place: Place) {
    let all = ["", "_x", "*", "[a-z]", "?", "-y", "_llm_response_cache"].map(|name| place.workspace(name));
    // What index names of one server can tell apart is less; see its room.
    let names: Vec<&String> = match place.kind {
        "opensearch" => all
            .iter()
            .filter(|name| !name.contains(['*', '[', '?']))
            .collect(),
        _ => all.iter().collect(),
    };
    for (at, name) in names.iter().enumerate() {
        let value = format!(r#"{{"return": "{at}", "cache_type": "extract"}}"#);
        fill(
            &place,
            name,
            &[
                raw(&key("extract", at as u64), &value),
                raw(&key("summary", 99), &value),
            ],
        )
        .await;
    }
    for (at, name) in names.iter().enumerate() {
        let source = source(&place, name).await;
        let pages = scan(&source, &Selection::default(), pages_of(10), None).await;
        let expected = BTreeSet::from([key("extract", at as u64), key("summary", 99)]);
        assert_eq!(
            keys_of(&pages).into_iter().collect::<BTreeSet<_>>(),
            expected,
            "{name}"
        );
        assert_eq!(
            source
                .count(&Selection::default(), &|_| ())
                .await
                .unwrap()
                .total(),
            2,
            "{name}"
        );
    }
    let storage = connect(&place, Side::Source, OnInvalid::Reject).await;
    let listed = storage.workspaces().await.unwrap().found;
    let mut containers = BTreeSet::new();
    for name in names {
        let workspace = Workspace::new(name.as_str()).unwrap();
        assert!(listed.contains(&workspace), "{name} is not among {listed:?}");
        containers.insert(storage.physical_location(&workspace).await.unwrap());
    }
    assert!(listed.is_sorted());
    assert!(
        containers.len() >= 4,
        "workspaces share a container: {containers:?}"
    );
}

/// Records of every shape that a JSON file can contain. `has_decimals`: also numbers that only exact decimals represent.
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn records_of_every_shape(has_decimals: bool) -> Vec<Record> {
    let odd = [
        r#"{"return": null, "cache_type": "extract"}"#,
        r#"{"return": 12, "cache_type": "extract"}"#,
        r#"{"return": {"a": [1]}, "cache_type": "extract"}"#,
        r#"{"cache_type": "extract"}"#,
        "{}",
        r#"{"return": "a", "create_time": 1.7e9, "update_time": "1700000000"}"#,
        r#"{"return": "a", "create_time": -5, "update_time": null}"#,
        r#"{"return": "a", "create_time": 99999999999999}"#,
        r#"{"return": "a\u0000b"}"#,
        r#"{"return": "a\ud83db"}"#,
        r#"{"return": "a", "queryparam": {"a": "\u0000"}}"#,
        r#"{"return": "a", "queryparam": "{\"mode\": \"mix\"}"}"#,
        r#"{"return": "a", "queryparam": [1]}"#,
        r#"{"return": "a", "big": 123456789012345678901234567890}"#,
        r#"{"return": "a", "float": 1.5e-7, "negative": -0.0, "tiny": 5e-324}"#,
        r#"{"return": "a", "_id": "another key"}"#,
        r#"{"return": "a", "cache_type": "summary"}"#,
        r#"{"return": "a", "cache_type": 5, "chunk_id": ["x"]}"#,
        r#"{"return": "a", "": "empty name"}"#,
        r#"{"return": "a", "a.b": "dot"}"#,
        r#"{"return": "a", "$set": {"b": 1}}"#,
        r#"{"return": "a", "namespace": "n", "workspace": "w", "content": "c"}"#,
    ];
    let mut records: Vec<Record> = odd
        .iter()
        .filter(|text| has_decimals || !text.contains(r#""big""#))
        .enumerate()
        .map(|(n, text)| raw(&key("extract", n as u64), text))
        .collect();
    let deep = format!(
        r#"{{"return": "a", "deep": {}1{}}}"#,
        "[".repeat(90),
        "]".repeat(90)
    );
    records.push(raw(&key("extract", 1000), &deep));
    let long = format!(
        r#"{{"return": "a", "cache_type": "{0}", "chunk_id": "{0}"}}"#,
        "x".repeat(300)
    );
    records.push(raw(&key("extract", 1001), &long));
    for name in [
        "a b",
        "a\"b'c`d",
        "a:b:c",
        "100%",
        "a*b?[c]",
        "é日🚀",
        "a\\b",
        "a\nb",
    ] {
        records.push(raw(&format!("default:extract:{name}"), r#"{"return": "key"}"#));
    }
    records.push(raw(
        &format!("default:extract:{}", "k".repeat(600)),
        r#"{"return": "long key"}"#,
    ));
    records.extend(
        records::shapes()
            .iter()
            .enumerate()
            .map(|(n, (_, value))| record(&key("summary", n as u64), value)),
    );
    records.push(record(&key("summary", 1000), &records::unknown_fields()));
    records
}

/// Whatever shape a record has, the target keeps it as it is, says what it changed, or refuses it alone.
pub async fn no_shape_of_a_record_is_lost_or_changed_silently(place: Place) {
    let workspace = place.workspace("w");
    let records = records_of_every_shape(place.server.decimals);
    let outcomes = write(&place, &workspace, &records, WriteMode::Upsert).await;
    let keys: Vec<&str> = records.iter().map(|record| record.key().as_str()).collect();
    let found = get(&place, &workspace, &keys).await;
    let mut written = 0;
    for ((record, outcome), found) in records.iter().zip(&outcomes).zip(&found) {
        match outcome {
            WriteOutcome::Written(changes) => {
                written += 1;
                let found = found
                    .as_ref()
                    .unwrap_or_else(|| panic!("{} was written and no longer exists", record.key()));
                let (mut sent, mut kept) = (meaning(record), meaning(record_of(found)));
                for field in changes.sanitized.iter().chain(&changes.dropped_fields) {
                    sent.remove(field);
                    kept.remove(field);
                }
                // A storage may fill in the type that stands in the key.
                if !sent.contains_key("cache_type") {
                    kept.remove("cache_type");
                }
                assert_eq!(kept, sent, "{} {:?}: {changes:?}", record.key(), record.value());
            }
            WriteOutcome::Rejected { reason, .. } => {
                assert!(!reason.is_empty());
                assert_eq!(found, &None, "{} was rejected and is there", record.key());
            }
            WriteOutcome::Exists => panic!("{} was not there", record.key()),
        }
    }
    assert!(
        written >= 30,
        "only {written} of {} were written: {outcomes:?}",
        records.len()
    );
    // What was written is also what a scan finds.
    let source = source(&place, &workspace).await;
    let scanned = keys_of(&scan(&source, &Selection::default(), pages_of(7), None).await);
    assert_eq!(scanned.len(), written);
    assert_eq!(
        source
            .count(&Selection::default(), &|_| ())
            .await
            .unwrap()
            .total(),
        written as u64
    );
}

/// More records than any single request of a driver takes.
pub async fn thousands_of_records_are_moved_in_pages(place: Place) {
    let workspace = place.workspace("w");
    let records = plain(5000);
    fill(&place, &workspace, &records).await;
    let source = source(&place, &workspace).await;
    let pages = scan(&source, &Selection::default(), pages_of(700), None).await;
    assert_eq!(keys_of(&pages).len(), 5000);
    let found: Vec<&Record> = pages
        .iter()
        .flat_map(|page| &page.entries)
        .map(record_of)
        .collect();
    assert_eq!(meanings(found), meanings(&records));
}

/// Writes under way at the same time, and a flush beside them.
pub async fn writes_at_once_and_a_flush_beside_them_lose_nothing(place: Place) {
    let workspace = place.workspace("w");
    let target = target(&place, &workspace).await;
    target.prepare().await.unwrap();
    target.prepare().await.unwrap();
    let records = plain(400);
    let (first, second) = records.split_at(200);
    let write = async |half: &[Record]| {
        for batch in half.chunks(20) {
            let outcomes = target.write(batch, WriteMode::Upsert).await.unwrap();
            assert_eq!(outcomes.len(), batch.len());
        }
    };
    let flush = async {
        for _ in 0..3 {
            target.flush().await.unwrap();
        }
    };
    tokio::join!(write(first), write(second), flush);
    target.flush().await.unwrap();
    target.flush().await.unwrap();
    target.finish().await.unwrap();
    let source = source(&place, &workspace).await;
    let pages = scan(&source, &Selection::default(), pages_of(100), None).await;
    let read = keys_of(&pages);
    assert_eq!(read.len(), records.len());
    assert_eq!(read.into_iter().collect::<BTreeSet<_>>(), keys(&records));
}

/// Shards start at the same moment, and each of them finds neither table nor index nor collection.
pub async fn many_create_at_once_what_they_write_to(place: Place) {
    let workspace = place.workspace("w");
    let records = plain(80);
    let shards = records.chunks(10).map(async |shard| {
        let target = target(&place, &workspace).await;
        target.prepare().await.unwrap();
        let outcomes = target.write(shard, WriteMode::Upsert).await.unwrap();
        assert_eq!(outcomes, vec![WriteOutcome::written(); shard.len()]);
        target.flush().await.unwrap();
        target.finish().await.unwrap();
    });
    futures::future::join_all(shards).await;
    let source = source(&place, &workspace).await;
    let pages = scan(&source, &Selection::default(), pages_of(100), None).await;
    assert_eq!(
        keys_of(&pages).into_iter().collect::<BTreeSet<_>>(),
        keys(&records)
    );
}

/// A write whose time is over is dropped where it is, and made again; what is written after that stays.
pub async fn a_write_that_nobody_waits_for_may_be_repeated(place: Place) {
    let workspace = place.workspace("w");
    let target = target(&place, &workspace).await;
    target.prepare().await.unwrap();
    let records = plain(60);
    for (at, batch) in records.chunks(6).enumerate() {
        let time = Duration::from_micros(100 * at as u64 * at as u64);
        let _ = tokio::time::timeout(time, target.write(batch, WriteMode::Upsert)).await;
        let mut tries = 0;
        while let Err(error) = target.write(batch, WriteMode::Upsert).await {
            tries += 1;
            assert!(error.is_temporary() && tries < 20, "{error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    target.flush().await.unwrap();
    target.finish().await.unwrap();
    let asked: Vec<CacheKey> = records.iter().map(|record| record.key().clone()).collect();
    let found = source(&place, &workspace).await.get_many(&asked).await.unwrap();
    for (record, found) in records.iter().zip(found) {
        let found = found.unwrap_or_else(|| panic!("{} is not there", record.key()));
        assert_eq!(meaning(record_of(&found)), meaning(record));
    }
}

/// Nobody waits long enough for any page, and all come, each once.
pub async fn a_page_that_nobody_waits_for_is_not_lost(place: Place) {
    let workspace = place.workspace("w");
    let records = plain(120);
    fill(&place, &workspace, &records).await;
    let source = source(&place, &workspace).await;
    let mut pages = Arc::clone(&source).scan(&Selection::default(), pages_of(7), None);
    let (mut read, mut given_up) = (Vec::new(), 0_u64);
    // Nothing has had the time to read a page yet, so that at least this call is given up.
    match pages.next_page().now_or_never() {
        Some(page) => read.extend(keys_of([&page.unwrap().unwrap()])),
        None => given_up += 1,
    }
    loop {
        // Longer each time, so that a storage which begins anew comes to an end as well.
        let time = Duration::from_micros(50 * (given_up + 1).pow(2));
        match tokio::time::timeout(time, pages.next_page()).await {
            Ok(Ok(Some(page))) => read.extend(keys_of([&page])),
            Ok(Ok(None)) => break,
            Ok(Err(error)) => panic!("{error}"),
            Err(_) => given_up += 1,
        }
    }
    assert!(given_up > 0, "every page came at once");
    assert_eq!(read.len(), records.len());
    assert_eq!(read.into_iter().collect::<BTreeSet<_>>(), keys(&records));
    assert!(pages.next_page().await.unwrap().is_none(), "the end lasts");
}

/// Keys of every form, with so many hashes each, which are spread out as those of LightRAG are.
fn keys_of_every_form(hashes: u32) -> Vec<String> {
    let spread = |n: u32| n.wrapping_mul(0x9e37_79b9);
    let hash = |n: u32| format!("{:08x}{n:024x}", spread(n));
    let mut keys: Vec<String> = (0..100 + hashes)
        .map(|n| format!("default:extract:{}", hash(n)))
        .collect();
    // The first has no letter, and so no upper case.
    for hash in (1..=hashes).map(hash) {
        let upper = hash.to_uppercase();
        let short = &hash[1..];
        keys.extend([
            format!("default:summary:{hash}"),
            format!("default:of_tomorrow:{hash}"),
            format!("mix:query:{hash}"),
            format!("local:keywords:{hash}"),
            hash.clone(),
            format!("multimodal_query:{hash}"),
            format!("default:extract:of:{hash}"),
            format!("default:extract:x{hash}"),
            format!("default:extract:é{hash}"),
            format!("日本:ü:{hash}"),
            // No hashes of LightRAG's.
            format!("default:extract:{hash}\n"),
            format!("mix:query:{hash}\n"),
            format!("{hash}\n"),
            format!("default:extract:{hash}\r\n"),
            format!("default:extract:{hash}é"),
            format!("default:extract:{upper}"),
            format!("default:extract:{short}"),
            format!("default:extract:{short}\n"),
            format!("of no form\n{upper}"),
        ]);
    }
    keys.extend(
        [
            "default:extract:no hash",
            "default:extract:7",
            "default:summary:0f",
        ]
        .map(str::to_owned),
    );
    keys
}

/// The shards of a source are disjoint, and together they are everything, whatever form its keys have; also if each is
/// read on from a cursor of its own.
pub async fn shards_are_disjoint_and_complete(place: Place) {
    let workspace = place.workspace("shards");
    let value = r#"{"return": "", "cache_type": "extract"}"#;
    let stored: Vec<String> = keys_of_every_form(4);
    let records: Vec<Record> = stored.iter().map(|key| raw(key, value)).collect();
    fill(&place, &workspace, &records).await;
    let all = keys(&records);
    assert_eq!(all.len(), stored.len());
    for types in ["default", "all", "query,keywords,summary"] {
        let selection = Selection::parse(types.split(',')).unwrap();
        let selected: BTreeSet<String> = all
            .iter()
            .filter(|key| selection.contains(key))
            .cloned()
            .collect();
        for (count, size) in [(1, 40), (2, 7), (3, 30), (7, 10)] {
            let mut seen = BTreeSet::new();
            for index in 0..count {
                let selection = selection.clone().of_shard(Shard::new(index, count));
                let goes_on = types == "all";
                let found = keys_of_shard(&place, &workspace, &selection, size, goes_on).await;
                if index > 0 {
                    let most = 2 * selected.len() / count as usize + 5;
                    assert!(
                        found.len() < most,
                        "{index}/{count} of {types} has {}",
                        found.len()
                    );
                }
                for key in found {
                    assert!(
                        seen.insert(key.clone()),
                        "{key:?} is in two shards of {count} of {types}"
                    );
                }
            }
            assert_eq!(seen, selected, "{count} shards of {types}");
        }
    }
}

/// The keys of a selection, read in pages of this size. If it `goes_on`, the rest is read from the
/// cursor of each page too.
async fn keys_of_shard(
    place: &Place,
    workspace: &str,
    selection: &Selection,
    size: usize,
    goes_on: bool,
) -> Vec<String> {
    let of_shard = source(place, workspace).await;
    let count = of_shard.count(selection, &|_| ()).await.unwrap();
    let pages = scan(&of_shard, selection, pages_of(size), None).await;
    let found = keys_of(&pages);
    let (total, read) = (count.total(), found.len() as u64);
    assert!(
        if count.exact { total == read } else { total >= read },
        "{count:?}, but {read} were read"
    );
    let sorted: BTreeSet<String> = found.iter().cloned().collect();
    // A storage without an order has no cursors.
    for (at, page) in pages.iter().enumerate().filter(|_| goes_on) {
        if let Some(cursor) = page.cursor.clone() {
            let of_shard = source(place, workspace).await;
            let rest = scan(&of_shard, selection, pages_of(size), Some(cursor)).await;
            let mut read = keys_of(pages[..=at].iter().chain(&rest));
            read.sort_unstable();
            assert!(
                read.iter().eq(&sorted),
                "after page {at} of size {size}: {read:?}"
            );
        }
    }
    found
}

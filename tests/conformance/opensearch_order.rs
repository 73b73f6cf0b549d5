//! What holds of OpenSearch as a source, which is read in the order in which it was written.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use migrate_llm_cache::{
    model::{ErrorKind, Selection, record::Record},
    storage::{Page, PageReader},
};
use opensearch::http::Method;
use serde_json::{Value, json};

use crate::{
    cases::{answering, fill, keys, keys_of, pages_of, record_of, scan, source},
    support::{
        place::Place,
        records::{key, plain},
        state::ask_opensearch,
    },
};

fn index(workspace: &str) -> String {
    format!("{workspace}_llm_response_cache")
}

/// Makes an index as LightRAG does, but for the number of its shards.
async fn make(place: &Place, index: &str, shards: u32) {
    let body = json!({
        "settings": {"index": {"number_of_shards": shards, "number_of_replicas": 0}},
        "mappings": {"dynamic": true, "properties": {"__mirrored_id": {"type": "keyword"}}},
    });
    ask_opensearch(place, Method::Put, &format!("/{index}"), Some(body)).await;
}

async fn put(place: &Place, index: &str, id: &str, source: Value) {
    let path = format!("/{index}/_doc/{id}?refresh=true");
    ask_opensearch(place, Method::Put, &path, Some(source)).await;
}

async fn remove(place: &Place, index: &str, id: &str) {
    let path = format!("/{index}/_doc/{id}?refresh=true");
    ask_opensearch(place, Method::Delete, &path, None).await;
}

/// Whether the server keeps a view of an index as it was, a point in time: from OpenSearch 2.4 on.
async fn has_views(place: &Place) -> bool {
    let server = ask_opensearch(place, Method::Get, "/", None).await;
    let version = server["version"]["number"].as_str().unwrap();
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap());
    (parts.next(), parts.next()) >= (Some(2), Some(4))
}

fn answer(record: &Record) -> String {
    record.fields().string("return").unwrap().into_owned()
}

/// Every key with the answers that came under it.
fn answers(pages: &[Page]) -> BTreeMap<String, Vec<String>> {
    let mut answers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in pages.iter().flat_map(|page| &page.entries) {
        let came = answers.entry(entry.key().to_string()).or_default();
        came.push(answer(record_of(entry)));
    }
    answers
}

/// The rest of a scan, which goes on after errors that pass.
async fn rest(mut pages: Box<dyn PageReader>) -> (Vec<Page>, u32) {
    let (mut came, mut errors) = (Vec::new(), 0);
    loop {
        match pages.next_page().await {
            Ok(Some(page)) => came.push(page),
            Ok(None) => return (came, errors),
            Err(error) => {
                assert!(error.is_temporary() && errors < 20, "{error}");
                errors += 1;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_with_gaps_in_their_numbers_are_read_and_resumed() {
    let place = Place::new("opensearch");
    let workspace = place.workspace("w");
    let index = index(&workspace);
    make(&place, &index, 3).await;
    let records = plain(60);
    fill(&place, &workspace, &records).await;
    let mut expected = BTreeMap::new();
    for (n, record) in records.iter().enumerate() {
        let id = record.key().as_str();
        if n % 5 == 0 {
            remove(&place, &index, id).await;
            continue;
        }
        let mut text = answer(record);
        if n % 3 == 0 {
            text.push_str(" again");
            put(&place, &index, id, json!({"return": text, "__mirrored_id": id})).await;
        }
        expected.insert(id.to_owned(), vec![text]);
    }
    let all = Selection::default();
    let counted = source(&place, &workspace).await;
    assert_eq!(counted.count(&all, &|_| ()).await.unwrap().total(), 48);
    for size in [1, 2] {
        // One that was never counted is read in windows, however small it is.
        let source = crate::cases::source(&place, &workspace).await;
        let pages = scan(&source, &all, pages_of(size), None).await;
        assert_eq!(answers(&pages), expected, "page size {size}");
        assert!(pages.len() > 8, "{} pages of size {size}", pages.len());
        assert!(pages.iter().all(|page| page.entries.len() <= size));
        // There is a place to go on from at the end of each window.
        let cursors = pages.iter().enumerate();
        let cursors: Vec<_> = cursors
            .filter_map(|(at, page)| Some((at, page.cursor.clone()?)))
            .collect();
        assert!(cursors.len() > 1, "{} cursors at pages of {size}", cursors.len());
        for (at, cursor) in cursors {
            let again = crate::cases::source(&place, &workspace).await;
            let rest = scan(&again, &all, pages_of(size), Some(cursor)).await;
            let mut keys = keys_of(&pages[..=at]);
            keys.extend(keys_of(&rest));
            keys.sort();
            let expected: Vec<&String> = expected.keys().collect();
            assert_eq!(
                keys.iter().collect::<Vec<_>>(),
                expected,
                "page {at} of size {size}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_is_the_id_of_a_document_whatever_else_it_says() {
    let place = Place::new("opensearch");
    let all = Selection::default();
    let expected: BTreeMap<String, Vec<String>> = (0..4)
        .map(|n| (key("extract", n), vec![format!("answer {n}")]))
        .collect();
    for (workspace, has_all) in [("with", true), ("without", false)] {
        let workspace = place.workspace(workspace);
        let index = index(&workspace);
        make(&place, &index, 2).await;
        for (n, id) in expected.keys().enumerate() {
            let mut document = json!({"return": format!("answer {n}")});
            match n {
                // Another document's.
                0 => document["__mirrored_id"] = json!(key("extract", 1)),
                1 if !has_all => {}
                _ => document["__mirrored_id"] = json!(id),
            }
            put(&place, &index, id, document).await;
        }
        put(
            &place,
            &index,
            "mix:query:1",
            json!({"return": "q", "__mirrored_id": "mix:query:1"}),
        )
        .await;
        let source = source(&place, &workspace).await;
        let pages = scan(&source, &all, pages_of(1), None).await;
        assert_eq!(answers(&pages), expected, "{workspace}");
        let count = source.count(&all, &|_| ()).await.unwrap();
        assert_eq!((count.total(), count.exact), (4, true), "{workspace}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_that_is_changed_while_it_is_read_comes_again_only_where_there_are_no_views() {
    let place = Place::new("opensearch");
    let has_views = has_views(&place).await;
    let workspace = place.workspace("w");
    let records = plain(400);
    fill(&place, &workspace, &records).await;
    let source = source(&place, &workspace).await;
    let mut pages = Arc::clone(&source).scan(&Selection::default(), pages_of(2), None);
    let mut came = vec![pages.next_page().await.unwrap().unwrap()];
    let read = keys_of(&came)[0].clone();
    let unread = records[399].key().to_string();
    assert_ne!(read, unread);
    for id in [&read, &unread] {
        put(
            &place,
            &index(&workspace),
            id,
            json!({"return": "new", "__mirrored_id": id}),
        )
        .await;
    }
    let (others, errors) = rest(pages).await;
    assert_eq!(errors, 0);
    came.extend(others);
    let answers = answers(&came);
    assert_eq!(answers.len(), 400);
    for record in &records {
        let key = record.key().as_str();
        let came = &answers[key];
        let (old, new) = (answer(record), "new".to_owned());
        let allowed = match key {
            _ if key == read && !has_views => came == &[old.clone(), new] || came == &[old],
            // Without a view it is read as it is by then.
            _ if key == unread && !has_views => came == &[new],
            _ if key == unread => came == &[old] || came == &[new],
            _ => came == &[old],
        };
        assert!(allowed, "{key}: {came:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_server_loses_its_view() {
    let place = Place::new("opensearch");
    let workspace = place.workspace("w");
    let index = index(&workspace);
    let records = plain(400);
    fill(&place, &workspace, &records).await;
    let source = source(&place, &workspace).await;
    let mut pages = Arc::clone(&source).scan(&Selection::default(), pages_of(2), None);
    let mut came = vec![pages.next_page().await.unwrap().unwrap()];
    ask_opensearch(&place, Method::Post, &format!("/{index}/_close"), None).await;
    ask_opensearch(
        &place,
        Method::Post,
        &format!("/{index}/_open?wait_for_active_shards=1"),
        None,
    )
    .await;
    // One that is still to be read moves behind all others.
    let unread = records[399].key().to_string();
    put(
        &place,
        &index,
        &unread,
        json!({"return": "new", "__mirrored_id": unread}),
    )
    .await;
    let (others, errors) = rest(pages).await;
    assert_eq!(errors > 0, has_views(&place).await, "whether a view was lost");
    came.extend(others);
    let answers = answers(&came);
    for record in &records {
        let expected = match record.key().as_str() {
            key if key == unread => "new".to_owned(),
            _ => answer(record),
        };
        assert_eq!(answers[record.key().as_str()], [expected], "{}", record.key());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_in_an_index_that_was_made_anew_is_refused() {
    let place = Place::new("opensearch");
    let workspace = place.workspace("w");
    let records = plain(9);
    fill(&place, &workspace, &records).await;
    let before = source(&place, &workspace).await;
    let pages = scan(&before, &Selection::default(), pages_of(3), None).await;
    let cursor = pages.last().unwrap().cursor.clone().unwrap();
    ask_opensearch(&place, Method::Delete, &format!("/{}", index(&workspace)), None).await;
    fill(&place, &workspace, &records).await;
    let after = source(&place, &workspace).await;
    let mut pages = after.scan(&Selection::default(), pages_of(3), Some(cursor));
    let error = pages.next_page().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Checkpoint);
}

/// Also by a scan that nobody reads to its end. A server without views counts none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_are_given_back_where_a_server_has_them() {
    let place = Place::new("opensearch");
    let workspace = place.workspace("w");
    fill(&place, &workspace, &plain(9)).await;
    let path = format!("/{}/_stats/search", index(&workspace));
    let open = async || {
        let stats = ask_opensearch(&place, Method::Get, &path, None).await;
        stats["_all"]["total"]["search"]["point_in_time_current"].as_u64()
    };
    let (none, one) = match has_views(&place).await {
        true => (Some(0), Some(1)),
        false => (None, None),
    };
    // An index that was never counted is read with a view, however small it is.
    let read = source(&place, &workspace).await;
    scan(&read, &Selection::default(), pages_of(2), None).await;
    assert_eq!(open().await, none);
    let source = source(&place, &workspace).await;
    let mut pages = source.scan(&Selection::default(), pages_of(2), None);
    pages.next_page().await.unwrap().unwrap();
    assert_eq!(open().await, one);
    drop(pages);
    let mut tries = 0;
    while open().await != none {
        assert!(tries < 100, "a view is still there");
        tries += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Two of them are more than an answer may hold, in either half of the window.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_that_fill_an_answer_are_read_one_by_one() {
    let place = Place::new("opensearch");
    let workspace = place.workspace("w");
    let records: Vec<Record> = plain(6)
        .iter()
        .map(|record| answering(record, &"x".repeat(5 << 20)))
        .collect();
    for record in &records {
        fill(&place, &workspace, std::slice::from_ref(record)).await;
    }
    let source = source(&place, &workspace).await;
    // After the count, they are few enough to be asked for at once.
    for is_counted in [false, true] {
        if is_counted {
            source.count(&Selection::default(), &|_| ()).await.unwrap();
        }
        let pages = scan(&source, &Selection::default(), pages_of(100), None).await;
        let read = keys_of(&pages);
        assert_eq!(read.len(), records.len());
        assert_eq!(read.into_iter().collect::<BTreeSet<_>>(), keys(&records));
    }
}

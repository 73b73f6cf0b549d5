//! What MongoDB's storage makes of services that lack parts of MongoDB, and of collections that LightRAG did not make.

use std::{collections::BTreeSet, sync::Arc};

use migrate_llm_cache::{
    model::{ErrorKind, Selection, Shard, record::CacheKey},
    storage::{Entry, Page, Source, WriteMode, WriteOutcome},
};
use mongodb::{
    Client,
    bson::{DateTime, Document, doc},
};
use serde_json::Value;

use crate::{
    cases::{fill, keys, keys_of, pages_of, record_of, scan, source, target},
    support::{oracle, place::Place, records::plain},
};

/// A database of its own on a service that has no collations, as Amazon DocumentDB and Azure Cosmos DB have none.
fn ferretdb() -> Place {
    Place::alone("ferretdb")
}

async fn database(place: &Place) -> mongodb::Database {
    let client = Client::with_uri_str(&place.address).await.unwrap();
    let name = url::Url::parse(&place.address).unwrap();
    match name.path().trim_start_matches('/') {
        "" => client.database("LightRAG"),
        name => client.database(name),
    }
}

async fn insert(place: &Place, workspace: &str, documents: &[Document]) {
    let name = format!("{workspace}_llm_response_cache");
    let collection = database(place).await.collection::<Document>(&name);
    collection.insert_many(documents).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_without_collations_is_written_read_and_resumed() {
    let place = ferretdb();
    let workspace = place.workspace("w");
    let refused = database(&place)
        .await
        .run_command(doc! { "find": "c", "collation": { "locale": "simple" } })
        .await;
    assert!(refused.is_err(), "the service has collations, and proves nothing");

    let records = plain(25);
    fill(&place, &workspace, &records).await;
    // What is there is replaced, or left.
    fill(&place, &workspace, &records).await;
    let target = target(&place, &workspace).await;
    target.check_writable().await.unwrap();
    target.prepare().await.unwrap();
    let outcomes = target.write(&records[..3], WriteMode::Create).await.unwrap();
    assert_eq!(outcomes, vec![WriteOutcome::Exists; 3]);

    let source = source(&place, &workspace).await;
    let count = source.count(&Selection::default(), &|_| ()).await.unwrap();
    assert_eq!(count.total(), 25);
    let pages = scan(&source, &Selection::default(), pages_of(7), None).await;
    let found: BTreeSet<String> = keys_of(&pages).into_iter().collect();
    assert_eq!(found, keys(&records));
    let rest = scan(
        &source,
        &Selection::default(),
        pages_of(7),
        pages[1].cursor.clone(),
    )
    .await;
    assert_eq!(keys_of(&rest).len(), 25 - 14);
    // LightRAG's own class reads the same there.
    let asked: Vec<String> = keys(&records).into_iter().collect();
    let read = oracle::read(&place, &workspace, &asked);
    assert!(read.iter().all(Option::is_some));
    database(&place).await.drop().await.unwrap();
}

fn field(entry: &Entry, name: &str) -> Value {
    let value: Value = serde_json::from_slice(record_of(entry).value()).unwrap();
    value[name].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_date_in_a_time_is_read_as_the_seconds_that_it_stands_for() {
    let place = Place::new("mongo");
    let workspace = place.workspace("w");
    let time = DateTime::from_millis(1_700_000_000_999);
    let before_1970 = DateTime::from_millis(-1);
    insert(
        &place,
        &workspace,
        &[
            doc! { "_id": "default:extract:1", "return": "x", "create_time": time, "update_time": before_1970 },
            doc! { "_id": "default:extract:2", "return": "x", "create_time": 5, "extra": { "when": time } },
        ],
    )
    .await;
    let source = source(&place, &workspace).await;
    assert_eq!(source.warnings(), [""; 0]);
    let pages = scan(&source, &Selection::default(), pages_of(10), None).await;
    let entries = &pages[0].entries;
    assert_eq!(field(&entries[0], "create_time"), 1_700_000_000);
    assert_eq!(field(&entries[0], "update_time"), -1);
    assert_eq!(field(&entries[1], "create_time"), 5);
    assert!(field(&entries[1], "extra")["when"]["$date"].is_string());
    let said = source.warnings();
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(
        said[0].contains("Unix seconds") && said[0].contains("default:extract:1"),
        "{said:?}"
    );
    assert!(
        said[1].contains("extended JSON") && said[1].contains("default:extract:2"),
        "{said:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_under_an_old_key_is_the_record_of_todays_key() {
    let place = Place::new("mongo");
    let workspace = place.workspace("w");
    let hash = |n: u32| format!("{n:032x}");
    insert(
        &place,
        &workspace,
        &[
            doc! { "_id": format!("default_{}", hash(1)), "return": "old", "cache_type": "extract" },
            doc! { "_id": format!("default_{}", hash(2)), "return": "old" },
            doc! { "_id": format!("default_{}", hash(3)), "return": "old", "cache_type": "summary" },
            // One of today's counts, whatever stands under the old key.
            doc! { "_id": format!("default_{}", hash(4)), "return": "old", "cache_type": "extract" },
            doc! { "_id": format!("default:extract:{}", hash(4)), "return": "new", "cache_type": "extract" },
            doc! { "_id": "default_5", "return": "of another form" },
            doc! { "_id": "defaultX", "return": "between current and old keys" },
            doc! { "_id": format!("local_{}", hash(6)), "return": "a query" },
        ],
    )
    .await;
    let reader = source(&place, &workspace).await;
    let count = reader.count(&Selection::default(), &|_| ()).await.unwrap();
    assert_eq!(count.total(), 4);
    let mut found = Vec::new();
    for size in [1, 2, 10] {
        let pages = scan(&reader, &Selection::default(), pages_of(size), None).await;
        let entries = pages.iter().flat_map(|page| &page.entries);
        found = entries
            .map(|entry| {
                (
                    entry.key().to_string(),
                    field(entry, "return"),
                    field(entry, "_id"),
                )
            })
            .collect();
        let expected = [
            (format!("default:extract:{}", hash(4)), "new"),
            (format!("default:extract:{}", hash(1)), "old"),
            (format!("default:extract:{}", hash(2)), "old"),
            (format!("default:summary:{}", hash(3)), "old"),
        ];
        let expected = expected.map(|(key, answer)| (key.clone(), Value::from(answer), Value::from(key)));
        assert_eq!(found, expected, "pages of {size}");
        each_cursor_leads_to_the_rest(&reader, &pages, size).await;
    }
    let asked: Vec<CacheKey> = found
        .iter()
        .map(|(key, ..)| CacheKey::from(key.as_str()))
        .collect();
    let got = reader.get_many(&asked).await.unwrap();
    assert!(got.iter().all(Option::is_some), "{got:?}");
    assert!(reader.warnings()[0].contains("1.3.9"), "{:?}", reader.warnings());
    // LightRAG does not find them, so they are not there to a target.
    let target = target(&place, &workspace).await;
    let there = target.reader().get_many(&asked).await.unwrap();
    assert_eq!(there.iter().filter(|entry| entry.is_some()).count(), 1);
}

async fn each_cursor_leads_to_the_rest(reader: &Arc<dyn Source>, pages: &[Page], size: usize) {
    for (at, page) in pages.iter().enumerate() {
        let from = page.cursor.clone();
        let rest = scan(reader, &Selection::default(), pages_of(size), from).await;
        assert_eq!(keys_of(&rest), keys_of(&pages[at + 1..]), "pages of {size}");
    }
}

/// The key of an extraction, whose hash may belong to any shard.
fn extraction(n: u32) -> String {
    format!("default:extract:{}", md5(n))
}

fn md5(n: u32) -> String {
    format!("{:04x}{n:028x}", n * 40_503 % 0x1_0000)
}

/// Documents of every kind that counts differ in.
fn kinds() -> Vec<Document> {
    let current = [
        extraction(1),
        extraction(2),
        format!("default:summary:{}", md5(3)),
        format!("default:of_tomorrow:{}", md5(4)),
        format!("mix:query:{}", md5(5)),
        md5(6),
        "default:extract:".to_owned(),
        "default:extract;".to_owned(),
        "defaultX".to_owned(),
        "zzz".to_owned(),
    ];
    // The first is there under the current key too.
    let old = [
        (1, "extract"),
        (8, "extract"),
        (9, "summary"),
        (10, "of_tomorrow"),
    ];
    let current = current.map(|key| doc! { "_id": key, "return": "x" });
    let old = old.map(|(n, cache_type)| {
        let key = format!("default_{}", md5(n));
        doc! { "_id": key, "return": "old", "cache_type": cache_type }
    });
    let no_text = doc! { "_id": 7, "return": "x" };
    current.into_iter().chain(old).chain([no_text]).collect()
}

/// A small collection is counted from one answer, a larger one by type.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_is_counted_in_the_same_way_whatever_its_size() {
    const MORE: std::ops::Range<u32> = 100..1200;
    let more = MORE.map(|n| doc! { "_id": extraction(n), "return": "x" });
    let many: Vec<Document> = kinds().into_iter().chain(more).collect();
    for server in ["mongo", "ferretdb"] {
        let place = Place::new(server);
        let workspaces = ["small", "large"].map(|name| place.workspace(name));
        insert(&place, &workspaces[0], &kinds()).await;
        insert(&place, &workspaces[1], &many).await;
        for (names, shard) in [
            ("default", None),
            ("all", None),
            ("extract,query", None),
            ("default", Shard::new(0, 3)),
            ("all", Shard::new(2, 3)),
        ] {
            let selection = Selection::parse(names.split(',')).unwrap().of_shard(shard);
            let is_counted = |n: &u32| shard.is_none_or(|shard| shard.contains(&extraction(*n)));
            let added = MORE.filter(is_counted).count() as u64;
            for is_target in [false, true] {
                let mut counts = Vec::new();
                for workspace in &workspaces {
                    let reader = match is_target {
                        true => target(&place, workspace).await.reader(),
                        false => source(&place, workspace).await,
                    };
                    let count = reader.count(&selection, &|_| ()).await.unwrap();
                    let pages = scan(&reader, &selection, pages_of(100), None).await;
                    assert_eq!(
                        keys_of(&pages).len() as u64,
                        count.total(),
                        "{server}: {names}, {shard:?}"
                    );
                    counts.push(count);
                }
                assert!(counts[0].total() > 0, "{server}: {names}, {shard:?}");
                counts[0].add_kind(&selection, "default:extract:", added);
                assert_eq!(counts[1], counts[0], "{server}: {names}, {shard:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_that_keeps_no_documents_is_refused_before_the_first_write() {
    let place = Place::new("mongo");
    let database = database(&place).await;
    let collection = |name: &str| format!("{}_llm_response_cache", place.workspace(name));
    let made = [
        (
            "capped",
            doc! { "create": collection("capped"), "capped": true, "size": 65536 },
        ),
        (
            "view",
            doc! { "create": collection("view"), "viewOn": "some", "pipeline": [] },
        ),
    ];
    for (name, command) in made {
        database.run_command(command).await.unwrap();
        let target = target(&place, &place.workspace(name)).await;
        for refused in [target.check_writable().await, target.prepare().await] {
            let error = refused.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused, "{name}: {error}");
            assert!(error.message().contains(name), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_may_only_read_is_known_without_a_write() {
    let place = Place::new("mongo");
    let database = database(&place).await;
    let user = format!("{}reader", place.prefix);
    for (role, may_write) in [("read", false), ("readWrite", true)] {
        let roles = [doc! { "role": role, "db": database.name() }];
        let create = doc! { "createUser": &user, "pwd": "secret", "roles": roles.to_vec() };
        database.run_command(create).await.unwrap();
        let mut address = url::Url::parse(&place.address).unwrap();
        address.set_username(&user).unwrap();
        address.set_password(Some("secret")).unwrap();
        address.set_query(Some(&format!("authSource={}", database.name())));
        let mut by_user = Place::new("mongo");
        let address = std::mem::replace(&mut by_user.address, address.into());
        let target = target(&by_user, &place.workspace("w")).await;
        let checked = target.check_writable().await;
        by_user.address = address;
        database.run_command(doc! { "dropUser": &user }).await.unwrap();
        assert_eq!(checked.is_ok(), may_write, "{role}");
        if let Err(error) = checked {
            assert_eq!(error.kind(), ErrorKind::Permission, "{error}");
        }
    }
}

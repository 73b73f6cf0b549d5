//! A table of PostgreSQL is read along its heap, in which rows do not always stay where they are.

use std::{collections::BTreeSet, time::Duration};

use migrate_llm_cache::model::{Selection, Side, Workspace, record::OnInvalid};

use crate::{
    cases::{connect_to, fill, keys, keys_of, pages_of, rest as rest_of, scan, source},
    support::{
        place::Place,
        proxy::{Proxy, server_of},
        records::plain,
        state::postgres_connection,
    },
};

async fn execute(place: &Place, statement: &str) {
    let client = postgres_connection(&place.address).await;
    client.batch_execute(statement).await.unwrap();
}

/// How a server reads what it could read along the heap: from version 14 on that way, and before in the order of keys, since
/// it would look at the whole table for any part of it.
async fn along_the_heap(place: &Place) -> &'static str {
    let client = postgres_connection(&place.address).await;
    let version = "SELECT current_setting('server_version_num')::int";
    let version: i32 = client.query_one(version, &[]).await.unwrap().get(0);
    if version >= 140_000 { "heap" } else { "keys" }
}

/// Waits until no transaction is under way that was before the rows were written: as long as one is, they count as new, and
/// come in the order of keys. Other tests make their databases on the same server.
async fn settle(place: &Place) {
    let client = postgres_connection(&place.address).await;
    let is_settled = "SELECT bool_and(age(xmin) > age(pg_snapshot_xmin(pg_current_snapshot())::xid)) \
                      FROM lightrag_llm_cache";
    for _ in 0..600 {
        if client.query_one(is_settled, &[]).await.unwrap().get(0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("a transaction has been under way for a minute");
}

/// The table gets another file, with every row in another place: those that follow as well as those that were read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_written_anew_during_a_scan_is_read_again() {
    let place = Place::alone("postgres");
    let records = plain(60);
    fill(&place, "w", &records).await;
    // Leaves holes at the beginning, which the rows behind them fill.
    fill(&place, "w", &records[..30]).await;
    settle(&place).await;
    let source = source(&place, "w").await;
    let mut pages = source.clone().scan(&Selection::default(), pages_of(7), None);
    let mut read = vec![
        pages.next_page().await.unwrap().unwrap(),
        pages.next_page().await.unwrap().unwrap(),
    ];
    let cursor = read[1].cursor.clone().unwrap();
    assert!(cursor.0.contains(along_the_heap(&place).await), "{cursor:?}");

    execute(&place, "VACUUM FULL lightrag_llm_cache").await;
    let rest = scan(&source, &Selection::default(), pages_of(7), Some(cursor)).await;
    let seen: BTreeSet<String> = keys_of(read.iter().chain(&rest)).into_iter().collect();
    assert_eq!(seen, keys(&records), "in a scan that goes on");

    read.extend(rest_of(pages).await);
    let seen: BTreeSet<String> = keys_of(&read).into_iter().collect();
    assert_eq!(seen, keys(&records), "in the scan under way");
}

/// What is not one heap has no places: it is read in the order of keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_in_parts_is_read_in_the_order_of_keys() {
    let place = Place::alone("postgres");
    let records = plain(40);
    fill(&place, "w", &records).await;
    execute(
        &place,
        "ALTER TABLE lightrag_llm_cache RENAME TO whole;
         CREATE TABLE lightrag_llm_cache (LIKE whole) PARTITION BY HASH (id);
         CREATE TABLE one PARTITION OF lightrag_llm_cache FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE two PARTITION OF lightrag_llm_cache FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         INSERT INTO lightrag_llm_cache SELECT * FROM whole;",
    )
    .await;
    let source = source(&place, "w").await;
    let pages = scan(&source, &Selection::default(), pages_of(7), None).await;
    let read = keys_of(&pages);
    assert!(read.is_sorted(), "{read:?}");
    assert_eq!(read.into_iter().collect::<BTreeSet<_>>(), keys(&records));
}

/// A workspace that is a small part of a table is found by its keys; so is what others wrote into its heap passed over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_workspace_of_a_large_table_is_read_in_the_order_of_keys() {
    let place = Place::alone("postgres");
    let records = plain(200);
    fill(&place, "large", &records).await;
    fill(&place, "small", &records[..20]).await;
    execute(&place, "ANALYZE lightrag_llm_cache").await;
    settle(&place).await;
    let along_the_heap = along_the_heap(&place).await;
    for (workspace, records, along) in [
        ("large", &records[..], along_the_heap),
        ("small", &records[..20], "keys"),
    ] {
        let source = source(&place, workspace).await;
        let pages = scan(&source, &Selection::default(), pages_of(7), None).await;
        let cursor = pages[0].cursor.as_ref().unwrap();
        assert!(cursor.0.contains(along), "{workspace}: {cursor:?}");
        let read = keys_of(&pages);
        assert_eq!(read.len(), records.len(), "{workspace}");
        assert_eq!(read.into_iter().collect::<BTreeSet<_>>(), keys(records));
    }
}

/// The first half of the heap has nothing of the workspace, so ever larger ranges are read. Where its rows begin, they would be
/// far too large: the server would look at all rows of the rest of the heap for each part of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workspace_at_the_end_of_the_heap_is_read_in_small_ranges() {
    const ROWS: i64 = 20_000;
    let place = Place::alone("postgres");
    if along_the_heap(&place).await == "keys" {
        return;
    }
    fill(&place, "w", &plain(1)).await;
    let insert = |workspace: &str| {
        format!(
            "INSERT INTO lightrag_llm_cache (workspace, id, return_value, cache_type)
             SELECT '{workspace}', 'default:extract:' || md5(n::text), repeat(md5(n::text), 48), 'extract'
             FROM generate_series(1, {ROWS}) n;"
        )
    };
    let fill = format!(
        "ALTER TABLE lightrag_llm_cache ALTER return_value SET STORAGE PLAIN;
         DELETE FROM lightrag_llm_cache; {others} {ours}",
        others = insert("others"),
        ours = insert("w")
    );
    execute(&place, &fill).await;
    execute(&place, "VACUUM ANALYZE lightrag_llm_cache").await;
    settle(&place).await;

    let source = source(&place, "w").await;
    let pages = scan(&source, &Selection::default(), pages_of(100), None).await;
    let cursor = pages[0].cursor.as_ref().unwrap();
    assert!(cursor.0.contains("heap"), "{cursor:?}");
    assert_eq!(keys_of(&pages).len() as i64, ROWS);
    drop(source);
    let looked_at = rows_looked_at(&place).await;
    assert!(
        (ROWS..8 * ROWS).contains(&looked_at),
        "the server looked at {looked_at} rows of {}",
        2 * ROWS
    );
}

/// How many rows the server has read without an index since the table was created, when all sessions have ended: then it has
/// counted what they read.
async fn rows_looked_at(place: &Place) -> i64 {
    let client = postgres_connection(&place.address).await;
    let sessions = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
    for _ in 0..600 {
        if client.query_one(sessions, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            let rows = "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'lightrag_llm_cache'";
            return client.query_one(rows, &[]).await.unwrap().get(0);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("sessions have not ended in a minute");
}

/// After a restore, a table may have no statistics for a while. Reading the whole heap for each of many workspaces would take
/// as many times as long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_table_without_statistics_only_a_lone_workspace_is_read_along_the_heap() {
    let place = Place::alone("postgres");
    let records = plain(200);
    fill(&place, "w", &records).await;
    execute(
        &place,
        "ALTER TABLE lightrag_llm_cache SET (autovacuum_enabled = false)",
    )
    .await;
    settle(&place).await;
    for (others, along) in [(&[][..], along_the_heap(&place).await), (&records[..20], "keys")] {
        if !others.is_empty() {
            fill(&place, "other", others).await;
            settle(&place).await;
        }
        let source = source(&place, "w").await;
        let pages = scan(&source, &Selection::default(), pages_of(7), None).await;
        let cursor = pages[0].cursor.as_ref().unwrap();
        assert!(cursor.0.contains(along), "{} others: {cursor:?}", others.len());
        assert_eq!(
            keys_of(&pages).into_iter().collect::<BTreeSet<_>>(),
            keys(&records)
        );
    }
}

/// A login takes several round trips. The ranges that will be read at the same time do not wait for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_to_a_distant_server_are_opened_before_ranges_need_them() {
    let place = Place::alone("postgres");
    if along_the_heap(&place).await == "keys" {
        return;
    }
    let records = plain(20);
    fill(&place, "w", &records).await;
    settle(&place).await;
    let proxy = Proxy::distant(server_of(&place.address), Duration::from_millis(5));
    let distant = connect_to(&proxy.instead_of(&place.address), Side::Source, OnInvalid::Reject).await;
    let source = distant.source(&Workspace::new("w").unwrap()).await.unwrap();
    // All rows are in one range, which one connection reads.
    let pages = scan(&source, &Selection::default(), pages_of(100), None).await;
    assert_eq!(keys_of(&pages).len(), records.len());

    let client = postgres_connection(&place.address).await;
    let connections = "SELECT count(*) FROM pg_stat_activity \
                       WHERE datname = current_database() AND application_name = 'migrate-llm-cache'";
    // One more than there are writes at once is as many as the pool takes.
    for _ in 0..600 {
        let open: i64 = client.query_one(connections, &[]).await.unwrap().get(0);
        assert!(open <= 3, "{open}");
        if open == 3 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("no connections were opened in a minute");
}

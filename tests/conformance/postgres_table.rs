//! Tables of PostgreSQL that are not quite LightRAG's: with triggers, rules, policies, columns and rights of somebody's own,
//! of older versions, or in databases of another encoding. What the server answers to a write is not taken for what the table
//! has.

use migrate_llm_cache::{
    model::{
        ErrorKind, Selection,
        record::{Record, RejectKind},
    },
    storage::{Entry, WriteMode, WriteOutcome},
};
use serde_json::json;

use crate::{
    cases::{fill, keys, keys_of, pages_of, record_of, scan, source, target, write},
    support::{
        place::{Place, service},
        records::{key, meaning, plain, record},
        state::postgres_connection,
        tool::Tool,
    },
};

async fn execute(place: &Place, statement: &str) {
    let client = postgres_connection(&place.address).await;
    client.batch_execute(statement).await.unwrap();
}

async fn rows(place: &Place, workspace: &str) -> i64 {
    let client = postgres_connection(&place.address).await;
    let sql = "SELECT count(*) FROM lightrag_llm_cache WHERE workspace = $1";
    client.query_one(sql, &[&workspace]).await.unwrap().get(0)
}

/// A place with LightRAG's table, and 10 records of no workspace yet.
async fn with_table() -> (Place, Vec<Record>) {
    let place = Place::alone("postgres");
    target(&place, "w").await.prepare().await.unwrap();
    (place, plain(10))
}

fn refusal(outcome: &WriteOutcome) -> &str {
    match outcome {
        WriteOutcome::Rejected {
            kind: RejectKind::RefusedByTarget,
            reason,
        } => reason,
        other => panic!("not refused by the target: {other:?}"),
    }
}

fn is_written(outcome: &WriteOutcome) -> bool {
    matches!(outcome, WriteOutcome::Written(_))
}

const TRIGGER: &str = "CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON lightrag_llm_cache \
                       FOR EACH ROW EXECUTE FUNCTION guard()";

async fn add_trigger(place: &Place, body: &str) {
    let function = format!(
        "CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$; {TRIGGER}"
    );
    execute(place, &function).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_a_trigger_swallows_is_rejected() {
    let (place, records) = with_table().await;
    add_trigger(
        &place,
        "IF new.id LIKE '%3' THEN RETURN NULL; END IF; RETURN new;",
    )
    .await;
    for (mode, workspace) in [(WriteMode::Upsert, "a"), (WriteMode::Create, "b")] {
        let outcomes = write(&place, workspace, &records, mode).await;
        for (record, outcome) in records.iter().zip(&outcomes) {
            if record.key().as_str().ends_with('3') {
                let reason = refusal(outcome);
                assert!(reason.contains("the trigger guard"), "{reason}");
                assert!(reason.contains("does not exist"), "{reason}");
            } else {
                assert!(is_written(outcome), "{outcome:?}");
            }
        }
        assert_eq!(rows(&place, workspace).await, 9);
    }
    let target = target(&place, "c").await;
    target.check_writable().await.unwrap();
    target
        .reader()
        .count(&Selection::default(), &|_| ())
        .await
        .unwrap();
    let warning = target.warning().unwrap();
    assert!(warning.contains("the trigger guard"), "{warning}");
}

/// PostgreSQL answers `INSERT 0 0`, and refuses to return the rows of a table with such a rule.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_a_rule_swallows_is_rejected() {
    let (place, records) = with_table().await;
    execute(
        &place,
        "CREATE RULE nothing AS ON INSERT TO lightrag_llm_cache WHERE new.workspace = 'x' DO INSTEAD NOTHING",
    )
    .await;
    for mode in [WriteMode::Upsert, WriteMode::Create] {
        for outcome in write(&place, "x", &records, mode).await {
            assert!(refusal(&outcome).contains("the rule nothing"), "{outcome:?}");
        }
        let outcomes = write(&place, &format!("{mode:?}"), &records, mode).await;
        assert!(outcomes.iter().all(is_written), "{outcomes:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_that_a_trigger_swallows_is_rejected() {
    let (place, records) = with_table().await;
    fill(&place, "w", &records).await;
    add_trigger(
        &place,
        "IF tg_op = 'UPDATE' THEN RETURN NULL; END IF; RETURN new;",
    )
    .await;
    let new = serde_json::json!({"return": "new"});
    let changed: Vec<Record> = records
        .iter()
        .map(|old| record(old.key().as_str(), &new))
        .collect();
    for outcome in write(&place, "w", &changed, WriteMode::Upsert).await {
        assert!(refusal(&outcome).contains("different values"), "{outcome:?}");
    }
    // What is there already as it should be is not written again, and is there.
    let again = write(&place, "w", &records, WriteMode::Upsert).await;
    assert!(again.iter().all(is_written), "{again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_a_trigger_routes_elsewhere_is_written() {
    let (place, records) = with_table().await;
    execute(&place, "CREATE TABLE part () INHERITS (lightrag_llm_cache)").await;
    add_trigger(&place, "INSERT INTO part SELECT (new).*; RETURN NULL;").await;
    for mode in [WriteMode::Create, WriteMode::Upsert] {
        let workspace = format!("{mode:?}");
        let outcomes = write(&place, &workspace, &records, mode).await;
        assert!(outcomes.iter().all(is_written), "{outcomes:?}");
        assert_eq!(rows(&place, &workspace).await, 10);
    }
    let again = write(&place, "Create", &records, WriteMode::Create).await;
    assert!(
        again.iter().all(|outcome| *outcome == WriteOutcome::Exists),
        "{again:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_a_trigger_changes_is_rejected_unless_it_is_a_time() {
    let (place, records) = with_table().await;
    add_trigger(
        &place,
        "new.update_time = now(); IF new.workspace = 'changed' THEN new.return_value = 'x'; END IF; RETURN new;",
    )
    .await;
    for outcome in write(&place, "changed", &records, WriteMode::Upsert).await {
        assert!(
            refusal(&outcome).contains("different values in return"),
            "{outcome:?}"
        );
    }
    let outcomes = write(&place, "kept", &records, WriteMode::Upsert).await;
    assert!(outcomes.iter().all(is_written), "{outcomes:?}");
}

/// The statement has its row, and the commit has not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_a_trigger_deletes_at_the_commit_is_rejected() {
    let (place, records) = with_table().await;
    execute(
        &place,
        "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           DELETE FROM lightrag_llm_cache t WHERE t.workspace = new.workspace AND t.id = new.id; RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER late AFTER INSERT ON lightrag_llm_cache DEFERRABLE INITIALLY DEFERRED
           FOR EACH ROW EXECUTE FUNCTION late()",
    )
    .await;
    for outcome in write(&place, "w", &records, WriteMode::Upsert).await {
        assert!(refusal(&outcome).contains("does not exist"), "{outcome:?}");
    }
    assert_eq!(rows(&place, "w").await, 0);
}

/// PostgreSQL holds what is written against the policy for what may be read, and says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_a_policy_hides_end_the_run() {
    let (place, records) = with_table().await;
    fill(&place, "hidden", &records).await;
    execute(
        &place,
        "ALTER TABLE lightrag_llm_cache ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
         CREATE POLICY visible ON lightrag_llm_cache USING (workspace = 'open') WITH CHECK (true)",
    )
    .await;
    for mode in [WriteMode::Create, WriteMode::Upsert] {
        let outcomes = write(&place, "open", &records, mode).await;
        assert!(outcomes.iter().all(is_written), "{outcomes:?}");
        execute(&place, "DELETE FROM lightrag_llm_cache").await;
        let error = target(&place, "hidden")
            .await
            .write(&records, mode)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Permission, "{error}");
        assert!(
            error.remedy().unwrap().contains("row-level security"),
            "{error:?}"
        );
    }
}

/// What a dry run and the first step of a move say of a table that cannot be written to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn a_table_that_cannot_be_written_to_is_refused_without_a_write() {
    for (change, kind, says) in [
        (
            "CREATE TABLE log (id text);
             CREATE RULE also AS ON INSERT TO lightrag_llm_cache DO ALSO INSERT INTO log VALUES (new.id)",
            ErrorKind::Refused,
            "cannot be written to",
        ),
        (
            "ALTER TABLE lightrag_llm_cache ADD tenant int NOT NULL",
            ErrorKind::Refused,
            "a column tenant that must have a value",
        ),
        (
            "ALTER TABLE lightrag_llm_cache DROP chunk_id;
             ALTER TABLE lightrag_llm_cache ADD chunk_id text GENERATED ALWAYS AS (id) STORED",
            ErrorKind::Refused,
            "the column chunk_id",
        ),
        (
            "ALTER TABLE lightrag_llm_cache DROP CONSTRAINT lightrag_llm_cache_pk",
            ErrorKind::Refused,
            "no primary key",
        ),
        (
            "ALTER TABLE lightrag_llm_cache RENAME TO t; CREATE VIEW lightrag_llm_cache AS SELECT * FROM t LIMIT 10",
            ErrorKind::Refused,
            "cannot be written to",
        ),
        (
            "REVOKE INSERT ON lightrag_llm_cache FROM current_user",
            ErrorKind::Permission,
            "may not INSERT on",
        ),
        (
            "REVOKE UPDATE ON lightrag_llm_cache FROM current_user",
            ErrorKind::Permission,
            "may not UPDATE on",
        ),
        (
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', \
             current_database()); END $$",
            ErrorKind::Refused,
            "cannot write",
        ),
        (
            "DROP TABLE lightrag_llm_cache; CREATE SCHEMA closed; REVOKE CREATE ON SCHEMA closed FROM current_user;
             DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = closed', current_database()); END $$",
            ErrorKind::Permission,
            "may not create it in the schema closed",
        ),
    ] {
        let (place, _) = with_table().await;
        execute(&place, change).await;
        let target = target(&place, "w").await;
        for error in [
            target.check_writable().await.unwrap_err(),
            target.prepare().await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), kind, "{change}: {error}");
            assert!(error.message().contains(says), "{change}: {error}");
        }
    }
}

/// LightRAG may start between the check and the preparation, and its table may be of any form by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_another_process_creates_after_the_check_is_checked_too() {
    let records = plain(10);
    for (change, refusal) in [
        ("", None),
        ("ALTER TABLE lightrag_llm_cache DROP chunk_id", None),
        (
            "ALTER TABLE lightrag_llm_cache ADD tenant int NOT NULL",
            Some("a column tenant that must have a value"),
        ),
        (
            "REVOKE INSERT ON lightrag_llm_cache FROM current_user",
            Some("may not INSERT on"),
        ),
    ] {
        let place = Place::alone("postgres");
        let late = target(&place, "w").await;
        let count = late.reader().count(&Selection::default(), &|_| ()).await;
        assert_eq!(count.unwrap().total(), 0);
        late.check_writable().await.unwrap();
        target(&place, "w").await.prepare().await.unwrap();
        execute(&place, change).await;
        match (late.prepare().await, refusal) {
            (Ok(()), None) => {
                let outcomes = late.write(&records, WriteMode::Upsert).await.unwrap();
                assert!(outcomes.iter().all(is_written), "{change}: {outcomes:?}");
                let asked: Vec<_> = records.iter().map(|record| record.key().clone()).collect();
                let found = late.reader().get_many(&asked).await.unwrap();
                for (record, found) in records.iter().zip(&found) {
                    assert_eq!(meaning(record_of(found.as_ref().unwrap())), meaning(record));
                }
            }
            (Err(error), Some(says)) => assert!(error.message().contains(says), "{change}: {error}"),
            (prepared, _) => panic!("{change}: {prepared:?}"),
        }
    }
}

/// LightRAG needs no more than the columns that it names, and nothing of the table's owner.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_on_the_columns_are_enough() {
    let (place, records) = with_table().await;
    let columns = "workspace, id, original_prompt, return_value, chunk_id, cache_type, queryparam, create_time, \
                   update_time";
    execute(
        &place,
        &format!(
            "ALTER TABLE lightrag_llm_cache ADD secret text;
             REVOKE ALL ON lightrag_llm_cache FROM current_user;
             GRANT SELECT ({columns}), INSERT ({columns}), UPDATE ({columns}) ON lightrag_llm_cache TO current_user"
        ),
    )
    .await;
    let target = target(&place, "w").await;
    target.check_writable().await.unwrap();
    fill(&place, "w", &records).await;
    let source = source(&place, "w").await;
    let pages = scan(&source, &Selection::default(), pages_of(7), None).await;
    assert_eq!(keys_of(&pages).len(), records.len());
}

/// The columns that a table of an older LightRAG lacks are added, and read from then on: by the check of what was written,
/// and where triggers have every record read back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_without_the_columns_of_later_versions_takes_whole_records() {
    let file = Place::new("json");
    let records = (0..12).map(|n| {
        let value = json!({
            "return": format!("answer {n}"), "original_prompt": format!("question {n}"), "cache_type": "extract",
            "chunk_id": format!("chunk-{n}"), "queryparam": {"mode": "mix", "n": n},
            "create_time": 1_700_000_000 + n, "update_time": 1_700_000_100 + n,
        });
        record(&key("extract", n), &value)
    });
    let records: Vec<Record> = records.collect();
    fill(&file, "", &records).await;
    let all = "DROP chunk_id, DROP cache_type, DROP queryparam";
    for (columns, has_trigger) in [
        ("DROP chunk_id", false),
        ("DROP queryparam", true),
        (all, false),
        (all, true),
    ] {
        let (place, _) = with_table().await;
        execute(&place, &format!("ALTER TABLE lightrag_llm_cache {columns}")).await;
        if has_trigger {
            add_trigger(&place, "RETURN new;").await;
        }
        let arguments = [
            ["--source", &file.address, "--source-workspace", ""],
            ["--target", &place.address, "--target-workspace", "w"],
        ];
        let mut arguments = arguments.concat();
        arguments.push("--yes");
        let run = Tool::new(&arguments).run().expect(0);
        assert_eq!(run.total("written"), records.len() as u64, "{columns}");
        let asked: Vec<_> = records.iter().map(|record| record.key().clone()).collect();
        let found = source(&place, "w").await.get_many(&asked).await.unwrap();
        for (record, found) in records.iter().zip(&found) {
            assert_eq!(
                meaning(record_of(found.as_ref().unwrap())),
                meaning(record),
                "{columns}"
            );
        }
        // A full comparison opens the target again after the columns were added.
        let arguments = [&arguments[..], &["--verify", "full"]].concat();
        execute(&place, &format!("ALTER TABLE lightrag_llm_cache {columns}")).await;
        Tool::new(&arguments).run().expect(0);
    }
}

/// As LightRAG names them when it brings such a table up to date.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_a_table_with_modes_are_read_by_the_names_that_lightrag_gives_them() {
    let place = Place::alone("postgres");
    execute(
        &place,
        "CREATE TABLE lightrag_llm_cache (workspace varchar(255) NOT NULL, id varchar(255) NOT NULL,
           mode varchar(32) NOT NULL, original_prompt text, return_value text,
           create_time timestamp DEFAULT now(), update_time timestamp, PRIMARY KEY (workspace, mode, id));
         INSERT INTO lightrag_llm_cache (workspace, mode, id, original_prompt, return_value) VALUES
           ('w', 'default', md5('same'), 'same', 'a'), ('w', 'default', 'older', 'prompt', 'b'),
           ('w', 'default', 'another', 'prompt', 'b'), ('w', 'mix', md5('q'), 'q', 'c'),
           ('w', 'default', 'default:extract:1', 'today', 'd')",
    )
    .await;
    let source = source(&place, "w").await;
    let expected = [
        "default:extract:1".to_owned(),
        format!("default:extract:{}", md5(&place, "prompt").await),
        format!("default:extract:{}", md5(&place, "same").await),
    ];
    let pages = scan(&source, &Selection::default(), pages_of(2), None).await;
    let mut read = keys_of(&pages);
    read.sort();
    let mut sorted = expected.clone();
    sorted.sort();
    assert_eq!(read, sorted);
    let count = source.count(&Selection::default(), &|_| ()).await.unwrap();
    assert_eq!(count.total(), 3);
    let wanted: Vec<_> = expected.iter().map(|key| key.as_str().into()).collect();
    let got = source.get_many(&wanted).await.unwrap();
    assert!(got.iter().all(Option::is_some), "{got:?}");
    assert!(source.warnings()[0].contains("older LightRAG"));
}

/// LightRAG 1.3 left such ids behind when the mode went.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_without_a_colon_are_read_where_they_are_the_hash_of_their_prompt() {
    let (place, records) = with_table().await;
    fill(&place, "w", &records).await;
    execute(
        &place,
        "INSERT INTO lightrag_llm_cache (workspace, id, original_prompt, return_value) VALUES
           ('w', md5('prompt'), 'prompt', 'bare'), ('w', 'unknown', 'prompt', 'lost'),
           ('w', md5('both'), 'both', 'bare'), ('w', 'default:extract:' || md5('both'), 'both', 'today')",
    )
    .await;
    let bare = format!("default:extract:{}", md5(&place, "prompt").await);
    let both = format!("default:extract:{}", md5(&place, "both").await);
    let mut expected = keys(&records);
    expected.extend([bare.clone(), both.clone()]);
    // Counted before it is read, as in a run, and after.
    let counted = source(&place, "w").await;
    let count = counted.count(&Selection::default(), &|_| ()).await.unwrap();
    assert_eq!(count.total(), expected.len() as u64);
    assert!(counted.warnings()[0].contains("default:extract:{id}"));
    let pages = scan(&counted, &Selection::default(), pages_of(3), None).await;
    assert_eq!(keys_of(&pages).len(), expected.len());
    let source = source(&place, "w").await;
    let pages = scan(&source, &Selection::default(), pages_of(3), None).await;
    let read = keys_of(&pages);
    assert_eq!(read.len(), expected.len());
    assert_eq!(
        read.into_iter().collect::<std::collections::BTreeSet<_>>(),
        expected
    );
    let count = source.count(&Selection::default(), &|_| ()).await.unwrap();
    assert_eq!(count.total(), expected.len() as u64);
    let got = source
        .get_many(&[bare.as_str().into(), both.as_str().into()])
        .await
        .unwrap();
    let texts: Vec<String> = got
        .iter()
        .map(|entry| String::from_utf8_lossy(entry.as_ref().unwrap().raw()).into_owned())
        .collect();
    assert!(
        texts[0].contains("bare") && texts[1].contains("today"),
        "{texts:?}"
    );
    assert!(source.warnings()[0].contains("default:extract:{id}"));
    // A target has what LightRAG finds there.
    let target = target(&place, "w").await;
    assert_eq!(
        target.reader().get_many(&[bare.as_str().into()]).await.unwrap(),
        [None]
    );
}

/// One text that is not UTF-8 costs one record, wherever the row is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_that_is_not_utf8_costs_one_record() {
    let place = Place::alone("postgres");
    let server = postgres_connection(&service("postgres")).await;
    for statement in [
        format!("DROP DATABASE {} WITH (FORCE)", place.prefix),
        format!(
            "CREATE DATABASE {} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0",
            place.prefix
        ),
    ] {
        server.batch_execute(&statement).await.unwrap();
    }
    let records = plain(20);
    fill(&place, "w", &records).await;
    execute(
        &place,
        "INSERT INTO lightrag_llm_cache (workspace, id, return_value) VALUES
           ('w', 'default:extract:bad', E'caf\\xe9'), ('w', E'default:extract:\\xff', 'r')",
    )
    .await;
    for view in [false, true] {
        if view {
            // Read in the order of keys.
            execute(
                &place,
                "ALTER TABLE lightrag_llm_cache RENAME TO t; CREATE VIEW lightrag_llm_cache AS SELECT * FROM t",
            )
            .await;
        }
        let source = source(&place, "w").await;
        let pages = scan(&source, &Selection::default(), pages_of(1), None).await;
        let entries: Vec<&Entry> = pages.iter().flat_map(|page| &page.entries).collect();
        assert_eq!(entries.len(), records.len() + 2);
        let invalid: Vec<_> = entries
            .iter()
            .filter_map(|entry| match entry {
                Entry::Invalid(invalid) => Some(invalid),
                Entry::Record(_) => None,
            })
            .collect();
        assert_eq!(invalid.len(), 2);
        assert!(
            invalid
                .iter()
                .all(|invalid| invalid.kind == RejectKind::InvalidUtf8)
        );
        assert!(
            invalid
                .iter()
                .any(|invalid| invalid.raw.windows(4).any(|raw| raw == b"caf\xe9"))
        );
        // A later run goes on behind it.
        for page in &pages {
            scan(&source, &Selection::default(), pages_of(5), page.cursor.clone()).await;
        }
    }
}

/// Somebody made the table with json, which has no operator `=`, and with text; LightRAG writes to both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn query_parameters_may_be_json_or_text_where_lightrag_makes_jsonb() {
    for column in ["json", "text"] {
        let (place, _) = with_table().await;
        let change = format!("ALTER TABLE lightrag_llm_cache ALTER queryparam TYPE {column}");
        execute(&place, &change).await;
        let of = |mode: &str| {
            let value =
                json!({"return": "a", "cache_type": "query", "queryparam": {"mode": mode, "k": [1, null]}});
            [record("default:query:1", &value)]
        };
        target(&place, "w").await.check_writable().await.unwrap();
        for mode in ["mix", "mix", "local"] {
            fill(&place, "w", &of(mode)).await;
            let asked = ["default:query:1".into()];
            let found = source(&place, "w").await.get_many(&asked).await.unwrap();
            let read = meaning(record_of(found[0].as_ref().unwrap()));
            assert_eq!(
                read["queryparam"],
                json!({"mode": mode, "k": [1, null]}),
                "{column}"
            );
        }
        let outcomes = write(&place, "w", &of("naive"), WriteMode::Create).await;
        assert_eq!(outcomes, [WriteOutcome::Exists], "{column}");
    }
}

/// A view that shows the table elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_is_a_source_and_a_target() {
    let (place, records) = with_table().await;
    execute(
        &place,
        "CREATE SCHEMA hidden; ALTER TABLE lightrag_llm_cache SET SCHEMA hidden;
         CREATE VIEW lightrag_llm_cache AS SELECT * FROM hidden.lightrag_llm_cache",
    )
    .await;
    let outcomes = write(&place, "w", &records, WriteMode::Upsert).await;
    assert!(outcomes.iter().all(is_written), "{outcomes:?}");
    let source = source(&place, "w").await;
    let pages = scan(&source, &Selection::default(), pages_of(3), None).await;
    assert_eq!(
        keys_of(&pages)
            .into_iter()
            .collect::<std::collections::BTreeSet<_>>(),
        keys(&records)
    );
}

/// A null says nothing, so that nothing is lost with it; a type that comes from the key alone is told, and only that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_null_without_a_column_is_no_loss_and_a_type_from_the_key_is_counted() {
    let place = Place::alone("postgres");
    let file = Place::new("json");
    let fields = [
        // As LightRAG 1.1 wrote them.
        json!({"return": "a", "cache_type": "extract", "embedding": null, "embedding_shape": null, "embedding_min": null}),
        json!({"return": "b", "embedding": null}),
        json!({"return": "c", "embedding": "00ff"}),
        // It has a type, of which it says that there is none.
        json!({"return": "d", "cache_type": null}),
    ];
    let records = (0..)
        .zip(&fields)
        .map(|(n, value)| record(&key("summary", n), value));
    let records: Vec<Record> = records.collect();
    fill(&file, "", &records).await;

    let target = target(&place, "outcomes").await;
    target.prepare().await.unwrap();
    let outcomes = target.write(&records, WriteMode::Upsert).await.unwrap();
    for (outcome, (dropped, filled)) in outcomes.iter().zip([
        (&[][..], &[][..]),
        (&[], &["cache_type"]),
        (&["embedding"], &["cache_type"]),
        (&[], &[]),
    ]) {
        let WriteOutcome::Written(changes) = outcome else {
            panic!("not written: {outcome:?}");
        };
        assert_eq!(changes.dropped_fields, dropped, "{outcome:?}");
        assert_eq!(changes.filled_fields, filled, "{outcome:?}");
    }

    let arguments = [
        "--source",
        &file.address,
        "--target",
        &place.address,
        "--target-workspace",
        "w",
    ];
    let line = [&arguments[..], &["--source-workspace", "", "--yes"]].concat();
    let run = Tool::new(&line).run().expect(0);
    let warned: Vec<_> = run
        .events_of("warning")
        .map(|warning| json!([warning["kind"], warning["field"], warning["count"]]))
        .collect();
    assert_eq!(
        warned,
        [
            json!(["dropped_field", "embedding", 1]),
            json!(["filled_field", "cache_type", 2]),
        ]
    );
    let client = postgres_connection(&place.address).await;
    let sql = "SELECT cache_type FROM lightrag_llm_cache WHERE workspace = 'w' ORDER BY id";
    let rows = client.query(sql, &[]).await.unwrap();
    let types: Vec<Option<String>> = rows.iter().map(|row| row.get(0)).collect();
    let types: Vec<Option<&str>> = types.iter().map(Option::as_deref).collect();
    assert_eq!(types, [Some("extract"), Some("summary"), Some("summary"), None]);
}

async fn md5(place: &Place, text: &str) -> String {
    let client = postgres_connection(&place.address).await;
    client.query_one("SELECT md5($1)", &[&text]).await.unwrap().get(0)
}

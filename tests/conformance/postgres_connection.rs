//! What is said where no connection to PostgreSQL can be made, and what a connection asks of a server.

use std::{num::NonZeroUsize, time::Duration};

use migrate_llm_cache::{
    model::{Error, ErrorKind, Side, record::OnInvalid},
    storage::{ConnectOptions, Endpoint, SilentWaiter},
};

use crate::{
    cases::{fill, keys, keys_of, pages_of, scan, source},
    support::{
        place::{Place, service},
        records::plain,
        state::postgres_connection,
    },
};

async fn connect(address: &str) -> Result<(), Error> {
    let options = ConnectOptions {
        timeout: Duration::from_secs(3),
        concurrency: NonZeroUsize::new(2).unwrap(),
        on_invalid: OnInvalid::Reject,
        salvage: false,
        waiter: SilentWaiter::shared(0),
    };
    let endpoint = Endpoint::named(Side::Target, address).unwrap();
    endpoint.connect(&options).await.map(|_| ())
}

fn url(address: &str) -> url::Url {
    url::Url::parse(address).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_service_at_the_port_is_said_to_be_one() {
    // Redis waits for the end of a line, and MongoDB for a longer message, or hangs up: that is all that is known of them.
    for (kind, says) in [
        ("redis", &["did not answer"][..]),
        ("mongo", &["did not answer", "Connection reset"]),
        ("opensearch", &["not as PostgreSQL"]),
    ] {
        let other = url(&service(kind));
        let port = other.port().unwrap();
        for mode in ["prefer", "disable"] {
            let address = format!("postgres://rag:hidden@127.0.0.1:{port}/rag?sslmode={mode}");
            let error = connect(&address).await.unwrap_err();
            assert!(
                says.iter().any(|says| error.message().contains(says)),
                "{kind}, {mode}: {error}"
            );
            assert!(error.message().contains(&port.to_string()), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_does_not_resolve_is_said_not_to() {
    let error = connect("postgres://rag:hidden@postgres-of-compose:5432/rag")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.message().contains("does not resolve"), "{error}");
    assert!(error.remedy().unwrap().contains("Docker Compose"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_password_is_said_to_be_that_of_its_origin() {
    let mut address = url(&service("postgres"));
    address.set_password(Some("wrong")).unwrap();
    let error = connect(address.as_str()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Login);
    assert!(
        error.message().contains("password, database from --target"),
        "{error}"
    );
    assert!(!error.message().contains("wrong"), "{error}");
}

/// A pooler refuses options at the login; what is in them is set in each transaction then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_of_the_user_hold_behind_a_pooler_that_refuses_options() {
    for pooler in ["pgbouncer_session", "pgbouncer_transaction"] {
        let mut place = Place::alone(pooler);
        let client = postgres_connection(&place.data_address).await;
        client.batch_execute("CREATE SCHEMA rag").await.unwrap();
        let mut address = url(&place.address);
        address.set_query(Some("options=-c%20search_path%3Drag"));
        place.address = address.into();
        let records = plain(40);
        fill(&place, pooler, &records).await;
        let source = source(&place, pooler).await;
        let read = keys_of(&scan(&source, &Default::default(), pages_of(7), None).await);
        assert_eq!(
            read.into_iter().collect::<std::collections::BTreeSet<_>>(),
            keys(&records)
        );
        let sql = "SELECT count(*) FROM rag.lightrag_llm_cache WHERE workspace = $1";
        let rows: i64 = client.query_one(sql, &[&pooler]).await.unwrap().get(0);
        assert_eq!(rows, 40);
    }
    let mut address = url(&service("pgbouncer_session"));
    address.set_query(Some("options=reference%3Dproject"));
    let error = connect(address.as_str()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
}

//! What stands at a place, as its own server tells it: equal states mean that nothing was touched.

use std::{collections::BTreeMap, fmt::Write as _, os::unix::fs::MetadataExt, path::Path};

use futures::TryStreamExt;
use mongodb::bson::{RawDocumentBuf, doc};
use opensearch::{
    OpenSearch,
    http::{
        Method, Url,
        headers::HeaderMap,
        transport::{SingleNodeConnectionPool, TransportBuilder},
    },
};
use serde_json::Value;
use tokio_postgres::SimpleQueryMessage;

use super::{
    oracle::{BUSY_TRIES, BUSY_WAIT},
    place::{Place, service},
};

/// Everything at a place, by name: folders, files, tables, indexes, collections, keys and documents. What a name stands for
/// changes with every write, also with one that writes the same again.
///
/// JSON: bytes, time of change, mode and inode. Redis: the value and when it expires. PostgreSQL: the row and the
/// transaction that wrote it. MongoDB: the raw document. OpenSearch: version, sequence number and source.
pub type State = BTreeMap<String, String>;

/// The state of all of a place's workspaces.
pub fn of(place: &Place) -> State {
    match place.kind {
        "json" => of_files(place.address.as_ref()),
        "redis" => of_redis(place),
        "postgres" => on_thread(of_postgres(place)),
        "mongo" => on_thread(of_mongo(place)),
        "opensearch" => on_thread(of_opensearch(place)),
        "archive" => of_archive(place.address.as_ref()),
        other => panic!("the state of {other} is not known"),
    }
}

/// The part of a state whose names have this in them.
pub fn part(state: &State, text: &str) -> State {
    let wanted = |(name, _): &(&String, &String)| name.contains(text);
    state
        .iter()
        .filter(wanted)
        .map(|(name, what)| (name.clone(), what.clone()))
        .collect()
}

/// Removes everything that was made at a place. Where that fails, the panic of this thread tells, and the test goes on.
pub fn remove(place: &Place) {
    let remove = || match place.kind {
        "redis" => remove_redis(place),
        "postgres" => on_thread(remove_postgres(place)),
        "mongo" => on_thread(remove_mongo(place)),
        "opensearch" => on_thread(remove_opensearch(place)),
        _ => {}
    };
    let _ = std::thread::scope(|scope| scope.spawn(remove).join());
}

/// Gives a place a database of its own, where its kind has any.
pub(super) fn make_database(place: &mut Place) {
    if !matches!(place.kind, "postgres" | "mongo") {
        return;
    }
    if place.kind == "postgres" {
        let statement = format!("CREATE DATABASE {}", place.prefix);
        on_thread(postgres_statement(&place.data_address, &statement));
    }
    for address in [&mut place.address, &mut place.data_address] {
        let mut url = url::Url::parse(address).unwrap();
        url.set_path(&place.prefix);
        *address = url.into();
    }
    place.own_database = true;
}

/// The database in an address of MongoDB, or LightRAG's default.
pub(super) fn mongo_database(address: &str) -> String {
    let url = url::Url::parse(address).unwrap();
    match url.path().trim_start_matches('/') {
        "" => "LightRAG".to_owned(),
        name => name.to_owned(),
    }
}

/// Runs a future wherever this is called, also where another runtime is at work.
pub fn on_thread<T: Send>(future: impl Future<Output = T> + Send) -> T {
    std::thread::scope(|scope| {
        let work = || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            runtime.enable_all().build().unwrap().block_on(future)
        };
        scope.spawn(work).join().expect("the server answers")
    })
}

/// Large values as a digest, so that a difference can be read.
fn digest(bytes: &[u8]) -> String {
    format!(
        "{} bytes {:032x}",
        bytes.len(),
        xxhash_rust::xxh3::xxh3_128(bytes)
    )
}

// --- JSON -------------------------------------------------------------------------------------------------------------

fn of_files(folder: &Path) -> State {
    let mut state = State::new();
    add_files(folder, &mut state);
    state
}

fn add_files(path: &Path, state: &mut State) {
    let Ok(metadata) = path.metadata() else { return };
    let mut what = format!(
        "mode {:o} inode {} changed {}.{:09}",
        metadata.mode(),
        metadata.ino(),
        metadata.mtime(),
        metadata.mtime_nsec()
    );
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path).unwrap().map(Result::unwrap) {
            add_files(&entry.path(), state);
        }
    } else {
        let _ = write!(what, " {}", digest(&std::fs::read(path).unwrap()));
    }
    state.insert(path.display().to_string(), what);
}

// --- Archive ----------------------------------------------------------------------------------------------------------

/// The records alone: the file changes with every write, wherever that was.
fn of_archive(file: &Path) -> State {
    let Ok(packed) = std::fs::read(file) else {
        return State::new();
    };
    let text = zstd::stream::decode_all(&packed[..]).unwrap();
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let lines = lines.map(|line| serde_json::from_slice::<Value>(line).unwrap());
    let records = lines.filter(|line| line.get("key").is_some());
    records
        .map(|line| {
            let name = format!("{} {}", line["workspace"], line["key"]);
            (name, line["record"].to_string())
        })
        .collect()
}

// --- Redis ------------------------------------------------------------------------------------------------------------

pub fn redis_connection(place: &Place) -> redis::Connection {
    let client = redis::Client::open(place.address.as_str()).unwrap();
    client.get_connection().expect("Redis answers")
}

fn redis_keys(place: &Place, connection: &mut redis::Connection) -> Vec<Vec<u8>> {
    let mut command = redis::cmd("SCAN");
    let pattern = format!("{}*", place.prefix);
    command
        .cursor_arg(0)
        .arg("MATCH")
        .arg(pattern)
        .arg("COUNT")
        .arg(1000);
    let keys = command.iter(connection).expect("Redis scans");
    keys.map(|key| key.expect("a key")).collect()
}

fn of_redis(place: &Place) -> State {
    let mut connection = redis_connection(place);
    let keys = redis_keys(place, &mut connection);
    let entry = |key: Vec<u8>| {
        let value: Vec<u8> = redis::cmd("GET").arg(&key).query(&mut connection).unwrap();
        let expires: i64 = redis::cmd("PEXPIRETIME")
            .arg(&key)
            .query(&mut connection)
            .unwrap();
        let what = format!("expires {expires} {}", digest(&value));
        (String::from_utf8_lossy(&key).into_owned(), what)
    };
    keys.into_iter().map(entry).collect()
}

/// Makes a key of a Redis place expire in the year 2100.
pub fn expire(place: &Place, key: &str) {
    let mut connection = redis_connection(place);
    let mut command = redis::cmd("EXPIREAT");
    let set: bool = command
        .arg(key)
        .arg(4_102_444_800_i64)
        .query(&mut connection)
        .unwrap();
    assert!(set, "{key} is not there");
}

fn remove_redis(place: &Place) {
    let mut connection = redis_connection(place);
    for key in redis_keys(place, &mut connection) {
        let _: i64 = redis::cmd("UNLINK").arg(key).query(&mut connection).unwrap();
    }
}

// --- PostgreSQL -------------------------------------------------------------------------------------------------------

pub async fn postgres_connection(address: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(address, tokio_postgres::NoTls)
        .await
        .expect("PostgreSQL answers");
    tokio::spawn(connection);
    client
}

async fn postgres_statement(address: &str, statement: &str) {
    let client = postgres_connection(address).await;
    client.batch_execute(statement).await.expect("PostgreSQL obeys");
}

/// The address of the server behind a pooler: TEST_POSTGRES_URI where that is it, else where that server itself says that
/// it listens. So the tests of poolers hold whichever version TEST_POSTGRES_URI has.
pub(super) fn address_behind(pooler: &str) -> String {
    let identity = async |address: &str| {
        let client = postgres_connection(address).await;
        let sql =
            "SELECT pg_postmaster_start_time()::text, host(inet_server_addr()), inet_server_port()::text";
        let answers = client.simple_query(sql).await.expect("PostgreSQL answers");
        let row = answers.iter().find_map(|answer| match answer {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let text = |column| row.unwrap().get(column).map(str::to_owned);
        (text(0), text(1), text(2))
    };
    on_thread(async {
        let (started, host, port) = identity(pooler).await;
        let direct = service("postgres");
        let (started_direct, ..) = identity(&direct).await;
        if started == started_direct {
            return direct;
        }
        let mut address = url::Url::parse(pooler).unwrap();
        let host = host.expect("the pooler reaches its server by TCP");
        address.set_host(Some(&host)).unwrap();
        address.set_port(Some(port.unwrap().parse().unwrap())).unwrap();
        address.into()
    })
}

async fn has_table(client: &tokio_postgres::Client) -> bool {
    let row = client
        .query_one("SELECT to_regclass('lightrag_llm_cache') IS NOT NULL", &[])
        .await
        .unwrap();
    row.get(0)
}

async fn of_postgres(place: &Place) -> State {
    let client = postgres_connection(&place.data_address).await;
    let mut state = State::new();
    if place.own_database {
        // In a shared database the tables are everybody's.
        let relations = "SELECT relname::text, relkind::text || ' ' || oid::text FROM pg_class
            WHERE relnamespace = 'public'::regnamespace";
        for row in client.query(relations, &[]).await.unwrap() {
            state.insert(format!("relation {}", row.get::<_, String>(0)), row.get(1));
        }
    }
    if !has_table(&client).await {
        return state;
    }
    let rows = "SELECT workspace || '/' || id, xmin::text, t::text FROM lightrag_llm_cache t
        WHERE $2 OR starts_with(workspace, $1)";
    for row in client
        .query(rows, &[&place.prefix, &place.own_database])
        .await
        .unwrap()
    {
        let (xmin, text): (String, String) = (row.get(1), row.get(2));
        state.insert(
            row.get(0),
            format!("written by {xmin} {}", digest(text.as_bytes())),
        );
    }
    state
}

async fn remove_postgres(place: &Place) {
    if place.own_database {
        let mut server = url::Url::parse(&place.data_address).unwrap();
        server.set_path(url::Url::parse(&service(place.server.name)).unwrap().path());
        let statement = format!("DROP DATABASE {} WITH (FORCE)", place.prefix);
        postgres_statement(server.as_str(), &statement).await;
        return;
    }
    let client = postgres_connection(&place.data_address).await;
    if has_table(&client).await {
        let delete = "DELETE FROM lightrag_llm_cache WHERE starts_with(workspace, $1)";
        client.execute(delete, &[&place.prefix]).await.unwrap();
    }
}

// --- MongoDB ----------------------------------------------------------------------------------------------------------

async fn mongo_database_of(place: &Place) -> mongodb::Database {
    let client = mongodb::Client::with_uri_str(&place.address).await.unwrap();
    client.database(&mongo_database(&place.address))
}

async fn mongo_collections(place: &Place, database: &mongodb::Database) -> Vec<String> {
    let mut names = database
        .list_collection_names()
        .await
        .expect("MongoDB lists collections");
    names.retain(|name| place.own_database || name.starts_with(&place.prefix));
    names
}

async fn of_mongo(place: &Place) -> State {
    let database = mongo_database_of(place).await;
    let mut state = State::new();
    for name in mongo_collections(place, &database).await {
        let collection = database.collection::<RawDocumentBuf>(&name);
        let documents: Vec<RawDocumentBuf> = collection
            .find(doc! {})
            .await
            .unwrap()
            .try_collect()
            .await
            .unwrap();
        for document in documents {
            let id = document.get_str("_id").unwrap();
            state.insert(format!("{name}/{id}"), digest(document.as_bytes()));
        }
        state.insert(name, "collection".to_owned());
    }
    state
}

async fn remove_mongo(place: &Place) {
    let database = mongo_database_of(place).await;
    for name in mongo_collections(place, &database).await {
        database.collection::<RawDocumentBuf>(&name).drop().await.unwrap();
    }
    if place.own_database {
        database.drop().await.unwrap();
    }
}

// --- OpenSearch -------------------------------------------------------------------------------------------------------

/// Asks the server of a place, again while it is busy. It must obey.
pub async fn ask_opensearch(place: &Place, method: Method, path: &str, body: Option<Value>) -> Value {
    // The client makes ready for TLS also where there is none.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let url = Url::parse(&place.data_address).unwrap();
    let transport = TransportBuilder::new(SingleNodeConnectionPool::new(url))
        .disable_proxy()
        .build()
        .unwrap();
    let body = body.map(|body| body.to_string());
    let client = OpenSearch::new(transport);
    let mut tries = 0;
    loop {
        let response = client
            .send(method, path, HeaderMap::new(), None::<&()>, body.clone(), None)
            .await
            .expect("OpenSearch answers");
        if response.status_code().as_u16() != 429 || tries == BUSY_TRIES {
            let answer = response.error_for_status_code().expect("OpenSearch obeys");
            return answer.json().await.expect("JSON");
        }
        tries += 1;
        tokio::time::sleep(BUSY_WAIT).await;
    }
}

async fn opensearch_indexes(place: &Place) -> BTreeMap<String, String> {
    let path = format!(
        "/_cat/indices/{}*?format=json&h=index,uuid",
        place.prefix.to_lowercase()
    );
    let answer = ask_opensearch(place, Method::Get, &path, None).await;
    let text = |index: &Value, name: &str| index[name].as_str().unwrap().to_owned();
    answer
        .as_array()
        .unwrap()
        .iter()
        .map(|index| (text(index, "index"), text(index, "uuid")))
        .collect()
}

async fn of_opensearch(place: &Place) -> State {
    let mut state = State::new();
    for (index, uuid) in opensearch_indexes(place).await {
        // A refresh shows what was written, and changes nothing of it.
        ask_opensearch(place, Method::Post, &format!("/{index}/_refresh"), None).await;
        let all = serde_json::json!({"size": 10_000, "version": true, "seq_no_primary_term": true});
        let answer = ask_opensearch(place, Method::Post, &format!("/{index}/_search"), Some(all)).await;
        for hit in answer["hits"]["hits"].as_array().unwrap() {
            let what = format!(
                "version {} number {} {}",
                hit["_version"],
                hit["_seq_no"],
                digest(hit["_source"].to_string().as_bytes())
            );
            state.insert(format!("{index}/{}", hit["_id"].as_str().unwrap()), what);
        }
        state.insert(index, uuid);
    }
    state
}

async fn remove_opensearch(place: &Place) {
    for index in opensearch_indexes(place).await.into_keys() {
        ask_opensearch(place, Method::Delete, &format!("/{index}"), None).await;
    }
}

//! What a login on Redis may do: everything, which is faster, or no more than LightRAG needs.

use migrate_llm_cache::model::ErrorKind;
use redis::cmd;
use url::Url;

use crate::{
    cases::{fill, keys, keys_of, pages_of, scan, source, target},
    support::{oracle, place::Place, records::plain, state::redis_connection},
};

/// A user of the server, removed when it is dropped.
struct User {
    name: String,
    /// The server, by this user's login.
    place: Place,
    /// The server, by the login that may do everything.
    address: String,
    connection: redis::Connection,
}

impl User {
    fn who_may(rules: &[&str]) -> Self {
        let mut place = Place::new("redis");
        let mut connection = redis_connection(&place);
        let name = format!("{}user", place.prefix);
        let made = cmd("ACL")
            .arg("SETUSER")
            .arg(&name)
            .arg("reset")
            .arg("on")
            .arg(">secret")
            .arg("~*")
            .arg(rules)
            .exec(&mut connection);
        made.unwrap();
        let mut address = Url::parse(&place.address).unwrap();
        address.set_username(&name).unwrap();
        address.set_password(Some("secret")).unwrap();
        let address = std::mem::replace(&mut place.address, address.into());
        Self {
            name,
            place,
            address,
            connection,
        }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let gone = cmd("ACL")
            .arg("DELUSER")
            .arg(&self.name)
            .exec(&mut self.connection);
        gone.unwrap();
        // The place removes what was written there.
        self.place.address = std::mem::take(&mut self.address);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_may_not_set_many_keys_at_once_sets_them_one_by_one() {
    let user = User::who_may(&["+@all", "-mset"]);
    let mut connection = redis_connection(&user.place);
    let refused = cmd("MSET").arg("k").arg("v").exec(&mut connection);
    assert_eq!(refused.unwrap_err().code(), Some("NOPERM"));
    let workspace = user.place.workspace("w");
    let records = plain(300);
    fill(&user.place, &workspace, &records).await;
    let source = source(&user.place, &workspace).await;
    let pages = scan(&source, &Default::default(), pages_of(100), None).await;
    let mut read = keys_of(&pages);
    read.sort();
    assert!(read.into_iter().eq(keys(&records)));
}

/// What LightRAG's own class calls: to connect (`PING`, `CONFIG`, which may fail), to look for old keys (`KEYS`), to read and
/// to write.
const LIGHTRAG: [&str; 10] = [
    "-@all", "+ping", "+keys", "+get", "+exists", "+set", "+multi", "+exec", "+hello", "+del",
];

/// Writes and reads records as a user, and has LightRAG read them as the same user.
async fn moves_with(rules: &[&str]) {
    let user = User::who_may(rules);
    let workspace = user.place.workspace("w");
    let records = plain(300);
    fill(&user.place, &workspace, &records).await;
    let source = source(&user.place, &workspace).await;
    let count = source.count(&Default::default(), &|_| ()).await.unwrap();
    assert_eq!(count.total(), 300, "{rules:?}");
    let pages = scan(&source, &Default::default(), pages_of(100), None).await;
    let mut read = keys_of(&pages);
    read.sort();
    assert!(read.into_iter().eq(keys(&records)), "{rules:?}");
    let asked: Vec<String> = keys(&records).into_iter().collect();
    let found = oracle::read(&user.place, &workspace, &asked);
    assert!(found.iter().all(Option::is_some), "{rules:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_may_do_no_more_than_lightrag_needs_reads_and_writes() {
    moves_with(&LIGHTRAG).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_may_not_ask_for_sizes_reads_and_writes() {
    moves_with(&["+@all", "-strlen"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_may_not_ask_about_the_server_reads_and_writes() {
    moves_with(&["+@all", "-info", "-config", "-type", "-cluster"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_another_type_is_told_where_sizes_are_not() {
    let user = User::who_may(&["+@all", "-strlen", "-type"]);
    let workspace = user.place.workspace("w");
    let mut connection = redis_connection(&user.place);
    let key = format!("{workspace}_llm_response_cache:default:extract:1");
    cmd("RPUSH").arg(&key).arg("x").exec(&mut connection).unwrap();
    let source = source(&user.place, &workspace).await;
    let pages = scan(&source, &Default::default(), pages_of(100), None).await;
    let entries: Vec<_> = pages.iter().flat_map(|page| &page.entries).collect();
    assert!(
        matches!(entries[..], [migrate_llm_cache::storage::Entry::Invalid(_)]),
        "{entries:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_may_only_read_is_known_without_a_write() {
    let user = User::who_may(&["+@all", "-@write"]);
    let target = target(&user.place, &user.place.workspace("w")).await;
    let error = target.check_writable().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission, "{error}");
    let writer = User::who_may(&["+@all"]);
    let workspace = writer.place.workspace("w");
    let target = crate::cases::target(&writer.place, &workspace).await;
    target.check_writable().await.unwrap();
    let mut connection = redis_connection(&writer.place);
    let pattern = format!("{workspace}*");
    let there: Vec<String> = cmd("KEYS").arg(pattern).query(&mut connection).unwrap();
    assert_eq!(there, [""; 0]);
}

//! Records go to Redis many at a time, where the server lets them.

use redis::cmd;
use url::Url;

use crate::{
    cases::{fill, keys, keys_of, pages_of, scan, source},
    support::{place::Place, records::plain, state::redis_connection},
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

//! What can be known of a collection before it is read or written. Each question is asked of servers that may not answer
//! it, and what a server does not say is no reason to refuse.

use std::collections::HashMap;

use mongodb::{
    bson::{Bson, Document, RawDocument, doc},
    options::SelectionCriteria,
};

use super::server::{Server, integer};
use crate::model::{Error, ErrorKind, Result};

/// What writing needs.
const ACTIONS: [&str; 2] = ["insert", "update"];

/// Roles without write access.
const READ_ONLY_ROLES: [&str; 4] = [
    "read",
    "readAnyDatabase",
    "clusterMonitor",
    "directShardOperations",
];

/// The fewest collections for which a server is asked about all that it has. To find one by its name, some servers look at
/// all of them.
const FEWEST_LISTED: usize = 16;

/// The most collections of which facts are kept from one list: about 4 MB.
const MOST_LISTED: usize = 20_000;

/// What a server says about a collection. Requested once for each: with many collections, a server is slow to answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// Whether the collection is there; `None` if the server does not say.
    pub(super) is_there: Option<bool>,
    /// Whether it compares texts otherwise than byte by byte, as far as the server says.
    pub(super) has_own_order: bool,
    /// Why it does not keep documents, and what to do.
    unkept: Option<(&'static str, &'static str)>,
}

impl Facts {
    /// Asks one of these members. That it does not know the command or refuses it to this login is no error. `None` if it may
    /// answer next time.
    ///
    /// # Errors
    /// As [`Server::ask`].
    pub(super) async fn of(
        server: &Server,
        collection: &str,
        members: SelectionCriteria,
    ) -> Result<Option<Self>> {
        let command = doc! { "listCollections": 1, "filter": { "name": collection } };
        let answer = server.ask(command, members, "list the collections of").await?;
        Ok(answer.map(|answer| Self::read(&answer, collection)))
    }

    /// What an answer says about the collection.
    fn read(answer: &Document, collection: &str) -> Self {
        let Ok(cursor) = answer.get_document("cursor") else {
            return Self::default();
        };
        let Ok(found) = cursor.get_array("firstBatch") else {
            return Self::default();
        };
        // A service may not know the filter.
        let is_it = |found: &&Document| found.get_str("name").is_ok_and(|name| name == collection);
        match found.iter().filter_map(Bson::as_document).find(is_it) {
            Some(described) => Self::of_description(described),
            // Without the filter, there may be more than the first batch.
            None if integer(cursor.get("id")) == Some(0) => Self::of_none(),
            None => Self::default(),
        }
    }

    fn of_description(described: &Document) -> Self {
        let options = described.get_document("options").ok();
        Self {
            is_there: Some(true),
            has_own_order: options.is_some_and(|options| options.contains_key("collation")),
            unkept: unkept(described),
        }
    }

    /// Where there is no collection.
    fn of_none() -> Self {
        Self {
            is_there: Some(false),
            ..Self::default()
        }
    }

    /// Refuses a collection that does not keep what is written to it.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] where it is such a collection.
    pub(super) fn keeps_documents(&self, server: &Server, collection: &str) -> Result<()> {
        let Some((what, remedy)) = self.unkept else {
            return Ok(());
        };
        let database = server.database_name();
        let message = format!("{database}.{collection} of {} {what}", server.location());
        Err(Error::new(ErrorKind::Refused, message).with_remedy(remedy))
    }
}

/// Lists all collections once for the facts of these, unless they are few. Gives of how many that is, from the first on. It
/// needs no permission that LightRAG does not need, which lists all collections too, if only by name. Where that fails or
/// takes too long, each is asked about by itself.
///
/// # Errors
/// As [`Server::list_collections`].
pub(super) async fn list(
    server: &Server,
    collections: &[String],
    members: SelectionCriteria,
) -> Result<usize> {
    server.listed.clear();
    if collections.len() < FEWEST_LISTED {
        return Ok(collections.len());
    }
    let collections = &collections[..collections.len().min(MOST_LISTED)];
    let missing = |name: &String| (name.clone(), Facts::of_none());
    let mut facts: HashMap<String, Facts> = collections.iter().map(missing).collect();
    let look = |described: &RawDocument| {
        let Ok(name) = described.get_str("name") else {
            return;
        };
        if let Some(known) = facts.get_mut(name) {
            // What cannot be read says nothing.
            *known = Document::try_from(described)
                .map(|described| Facts::of_description(&described))
                .unwrap_or_default();
        }
    };
    if server.list_collections(members, look).await? {
        server.listed.replace(facts);
    }
    Ok(collections.len())
}

/// Why a collection does not keep documents, and what to do; `None` for one that does.
fn unkept(described: &Document) -> Option<(&'static str, &'static str)> {
    let options = described.get_document("options").ok();
    let has = |name| options.is_some_and(|options| options.contains_key(name));
    let is = |name| options.is_some_and(|options| options.get_bool(name).unwrap_or(false));
    match described.get_str("type") {
        Ok("view") => Some((
            "is a view, which cannot be written",
            "use the database or workspace of the collection itself, or drop the view",
        )),
        Ok("timeseries") => Some((
            "is a time-series collection, which does not store documents by key",
            "choose another workspace, or drop the collection",
        )),
        _ if has("timeseries") => Some((
            "is a time-series collection, which does not store documents by key",
            "choose another workspace, or drop the collection",
        )),
        _ if is("capped") => Some((
            "is a capped collection, which drops its oldest documents when it is full",
            "choose another workspace, or replace the collection by one that is not capped",
        )),
        _ => None,
    }
}

/// Checks whether the login may write, where the server says what it may do.
///
/// # Errors
/// [`ErrorKind::Permission`] where it may not.
pub(super) async fn may_write(server: &Server, collection: &str) -> Result<()> {
    let status = server.login_status().await?;
    let Some(missing) = missing_action(&status, server.database_name(), collection) else {
        return Ok(());
    };
    let message = format!(
        "{} does not allow this login to {missing} documents of the collection {collection}",
        server.location()
    );
    Err(Error::new(ErrorKind::Permission, message)
        .with_remedy("give the user the role readWrite on the database"))
}

/// The first action that writing needs and the login may not do.
fn missing_action(status: &Document, database: &str, collection: &str) -> Option<&'static str> {
    let about = status.get_document("authInfo").ok()?;
    // A server without authentication has no users.
    if about.get_array("authenticatedUsers").ok()?.is_empty() {
        return None;
    }
    let privileges = about.get_array("authenticatedUserPrivileges").ok();
    let privileges: Vec<&Document> = documents(privileges);
    if privileges.is_empty() {
        let roles = documents(about.get_array("authenticatedUserRoles").ok());
        let reads_only = |role: &&Document| {
            role.get_str("role")
                .is_ok_and(|name| READ_ONLY_ROLES.contains(&name))
        };
        return (!roles.is_empty() && roles.iter().all(reads_only)).then_some(ACTIONS[0]);
    }
    ACTIONS.into_iter().find(|action| {
        !privileges.iter().any(|privilege| {
            covers(privilege, database, collection)
                && privilege.get_array("actions").is_ok_and(|actions| {
                    actions.iter().any(
                    |known| matches!(known.as_str(), Some(known) if known == *action || known == "anyAction"),
                )
                })
        })
    })
}

fn documents(array: Option<&Vec<Bson>>) -> Vec<&Document> {
    array
        .into_iter()
        .flatten()
        .filter_map(Bson::as_document)
        .collect()
}

/// Whether a privilege covers this collection. An empty name means all.
fn covers(privilege: &Document, database: &str, collection: &str) -> bool {
    let Ok(resource) = privilege.get_document("resource") else {
        return false;
    };
    if resource.get_bool("anyResource").unwrap_or(false) {
        return true;
    }
    let is = |name, wanted: &str| {
        resource
            .get_str(name)
            .is_ok_and(|said| said.is_empty() || said == wanted)
    };
    is("db", database) && is("collection", collection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collections_that_keep_nothing_by_key_are_known_by_their_description() {
        let why = |described: Document| unkept(&described).map(|(what, _)| what);
        assert_eq!(
            why(doc! { "name": "c", "type": "collection", "options": {} }),
            None
        );
        let validated = doc! { "type": "collection", "options": { "validator": {}, "capped": false } };
        assert_eq!(why(validated), None);
        assert!(
            why(doc! { "type": "view", "options": { "viewOn": "c" } })
                .unwrap()
                .contains("view")
        );
        let capped = doc! { "type": "collection", "options": { "capped": true, "size": 4096 } };
        assert!(why(capped).unwrap().contains("capped"));
        let series = doc! { "type": "timeseries", "options": { "timeseries": { "timeField": "t" } } };
        assert!(why(series).unwrap().contains("time-series"));
        assert_eq!(why(Document::new()), None);
    }

    #[test]
    fn a_login_that_may_not_write_is_known_by_what_the_server_says_of_it() {
        let status = |privileges: Vec<Document>, role: &str| {
            doc! { "authInfo": {
                "authenticatedUsers": [{ "user": "u", "db": "admin" }],
                "authenticatedUserRoles": [{ "role": role, "db": "admin" }],
                "authenticatedUserPrivileges": privileges,
            } }
        };
        let on = |db: &str, collection: &str, actions: &[&str]| {
            doc! { "resource": { "db": db, "collection": collection }, "actions": actions }
        };
        let missing = |status: &Document| missing_action(status, "d", "c");
        assert_eq!(
            missing(&status(vec![on("d", "", &["find", "insert", "update"])], "x")),
            None
        );
        assert_eq!(
            missing(&status(vec![on("d", "c", &["insert"])], "x")),
            Some("update")
        );
        assert_eq!(
            missing(&status(vec![on("e", "", &["insert", "update"])], "x")),
            Some("insert")
        );
        let anything = doc! { "resource": { "anyResource": true }, "actions": ["anyAction"] };
        assert_eq!(missing(&status(vec![anything], "x")), None);
        // A server that says no more than the roles.
        assert_eq!(missing(&status(vec![], "readAnyDatabase")), Some("insert"));
        assert_eq!(missing(&status(vec![], "root")), None);
        let unauthenticated = doc! { "authInfo": { "authenticatedUsers": [], "authenticatedUserRoles": [] } };
        assert_eq!(missing(&unauthenticated), None);
        assert_eq!(missing(&Document::new()), None);
    }
}

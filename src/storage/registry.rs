//! The list of storages: the one place above the rooms that names them.

use super::{Backend, json, mongo, opensearch, postgres, redis};

/// Every storage, in the order of LightRAG's own list.
static BACKENDS: &[&dyn Backend] = &[
    &json::Json,
    &redis::Redis,
    &postgres::Postgres,
    &mongo::Mongo,
    &opensearch::OpenSearch,
];

/// Every storage, in the order in which they are listed to people.
pub fn backends() -> &'static [&'static dyn Backend] {
    BACKENDS
}

/// The storage of this name: its kind, an alias or LightRAG's class, in any case.
pub fn find(name: &str) -> Option<&'static dyn Backend> {
    BACKENDS.iter().copied().find(|backend| {
        [backend.kind(), backend.class_name()]
            .iter()
            .chain(backend.aliases())
            .any(|known| known.eq_ignore_ascii_case(name))
    })
}

/// The kinds, for messages: `json, redis, …`.
pub fn names() -> String {
    BACKENDS
        .iter()
        .map(|backend| backend.kind())
        .collect::<Vec<_>>()
        .join(", ")
}

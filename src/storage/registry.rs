//! The list of storages: the only place outside their folders that names them.

#[cfg(not(all(
    feature = "archive",
    feature = "redis",
    feature = "postgres",
    feature = "mongo",
    feature = "opensearch"
)))]
use super::not_compiled::NotCompiled;
use super::{Connector, archive, json, mongo, opensearch, postgres, redis};

/// Every storage, in the order of LightRAG's own list, followed by those that LightRAG does not have.
static CONNECTORS: &[&dyn Connector] = &[
    &json::Json,
    #[cfg(feature = "redis")]
    &redis::Redis,
    #[cfg(not(feature = "redis"))]
    &NotCompiled(&redis::info::INFO),
    #[cfg(feature = "postgres")]
    &postgres::Postgres,
    #[cfg(not(feature = "postgres"))]
    &NotCompiled(&postgres::info::INFO),
    #[cfg(feature = "mongo")]
    &mongo::Mongo,
    #[cfg(not(feature = "mongo"))]
    &NotCompiled(&mongo::info::INFO),
    #[cfg(feature = "opensearch")]
    &opensearch::OpenSearch,
    #[cfg(not(feature = "opensearch"))]
    &NotCompiled(&opensearch::info::INFO),
    #[cfg(feature = "archive")]
    &archive::Archive,
    #[cfg(not(feature = "archive"))]
    &NotCompiled(&archive::info::INFO),
];

/// Every storage, in the order in which they are listed.
pub fn connectors() -> &'static [&'static dyn Connector] {
    CONNECTORS
}

/// The storage of this name: its kind, an alias or LightRAG's class, in any case.
pub fn find(name: &str) -> Option<&'static dyn Connector> {
    CONNECTORS.iter().copied().find(|connector| {
        let info = connector.info();
        [info.kind]
            .iter()
            .chain(&info.class_name)
            .chain(info.aliases)
            .any(|known| known.eq_ignore_ascii_case(name))
    })
}

/// The storage that a path belongs to.
pub fn of_path(path: &str) -> Option<&'static dyn Connector> {
    let lower = path.to_ascii_lowercase();
    let by_ending = |known: &&&'static dyn Connector| {
        let endings = known.info().path_endings;
        endings.iter().any(|ending| lower.ends_with(ending))
    };
    let connectors = CONNECTORS.iter();
    let found = connectors.clone().find(by_ending);
    found
        .or_else(|| connectors.clone().find(|known| known.info().takes_other_paths))
        .copied()
}

/// The kinds, for messages: `json, redis, …`.
pub fn names() -> String {
    CONNECTORS
        .iter()
        .map(|connector| connector.kind())
        .collect::<Vec<_>>()
        .join(", ")
}

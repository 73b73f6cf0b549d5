//! What is asked of a server beyond what LightRAG itself asks, and done without where a server does not know it.
//!
//! Services that speak MongoDB's protocol (FerretDB, Amazon DocumentDB, Azure Cosmos DB) lack parts of it. LightRAG's
//! class needs `find`, `update`, `listCollections` and `create` with few options, and so nothing more may be needed here.

use std::sync::atomic::{AtomicU8, Ordering};

use mongodb::error::{Error as DriverError, ErrorKind as DriverErrorKind};

use super::server::kind_of_code;

/// The options of a query that make it faster, or its order certain, in the order in which they are given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct QueryExtras {
    /// Name the index of keys. Left to choose, a server may sort every document, where it has only to follow the index.
    pub(super) hint: bool,
    /// Compare keys byte by byte, where the collection has another order for people. Not asked of any other collection:
    /// not every server knows collations.
    pub(super) collation: bool,
}

impl QueryExtras {
    const LEVELS: [Self; 3] = [
        Self {
            hint: true,
            collation: true,
        },
        Self {
            hint: false,
            collation: true,
        },
        Self {
            hint: false,
            collation: false,
        },
    ];
}

/// What a server was found not to know.
#[derive(Debug, Default)]
pub(super) struct Extras {
    query: AtomicU8,
    count: AtomicU8,
    concern: AtomicU8,
}

/// A query on its way, asked with fewer extras until the server takes it.
pub(super) struct Attempt<'a> {
    extras: &'a Extras,
    has_own_order: bool,
    level: usize,
}

impl Attempt<'_> {
    /// What to ask for now.
    pub(super) fn extras(&self) -> QueryExtras {
        let level = QueryExtras::LEVELS[self.level.min(QueryExtras::LEVELS.len() - 1)];
        QueryExtras {
            collation: level.collation && self.has_own_order,
            ..level
        }
    }

    /// The outcome of the query; `None` where it is to be asked again with fewer extras.
    pub(super) fn settle<T>(&mut self, answer: Result<T, DriverError>) -> Option<Result<T, DriverError>> {
        match &answer {
            Ok(_) => {
                let level = u8::try_from(self.level).unwrap_or(u8::MAX);
                if self.extras.query.fetch_max(level, Ordering::Relaxed) < level {
                    tracing::info!(
                        "the server supports fewer options of a query: {:?}",
                        self.extras()
                    );
                }
            }
            Err(error) if is_about_the_request(error) && self.level + 1 < QueryExtras::LEVELS.len() => {
                self.level += 1;
                return None;
            }
            Err(_) => {}
        }
        Some(answer)
    }
}

impl Extras {
    /// A query with as many extras as the server is known to take, of a collection that may have an order of its own.
    pub(super) fn query(&self, has_own_order: bool) -> Attempt<'_> {
        Attempt {
            extras: self,
            has_own_order,
            level: usize::from(self.query.load(Ordering::Relaxed)),
        }
    }

    /// Whether the server is known to lack the command `count`.
    pub(super) fn lacks_count(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    pub(super) fn has_no_count(&self) {
        self.count.store(1, Ordering::Relaxed);
    }

    /// Whether the server refused a write concern that was not configured.
    pub(super) fn lacks_concern(&self) -> bool {
        self.concern.load(Ordering::Relaxed) > 0
    }

    pub(super) fn has_no_concern(&self) {
        self.concern.store(1, Ordering::Relaxed);
    }
}

/// Whether an error is about what a command asked for, so that another command with the same end may pass, and not
/// about the server's state, the login, or a connection.
pub(super) fn is_about_the_request(error: &DriverError) -> bool {
    match &*error.kind {
        DriverErrorKind::Command(error) => kind_of_code(error.code).is_none(),
        // The driver knows what the version of a server lacks, and does not send it.
        DriverErrorKind::IncompatibleServer { .. } | DriverErrorKind::InvalidArgument { .. } => true,
        _ => false,
    }
}

//! What is asked of a server beyond what LightRAG itself asks, and done without where a server does not know it.
//!
//! Services that speak MongoDB's protocol (FerretDB, Amazon DocumentDB, Azure Cosmos DB) lack parts of it. LightRAG's
//! class needs `find`, `update`, `listCollections` and `create` with few options, and so nothing more may be needed here.

use std::sync::atomic::{AtomicU8, Ordering};

use mongodb::{
    error::{Error as DriverError, ErrorKind as DriverErrorKind},
    options::WriteConcern,
};

use super::server::{is_labelled_temporary, kind_of_code};

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

    /// How many of them a query can be made without.
    const MOST_GIVEN_UP: u8 = Self::LEVELS.len() as u8 - 1;
}

/// What a server was found not to know: of each kind of request, how many of the extras are given up.
#[derive(Debug, Default)]
pub(super) struct Extras {
    query: AtomicU8,
    count: AtomicU8,
    concern: AtomicU8,
}

/// A request on its way, made with fewer extras until the server takes it.
pub(super) struct Attempt<'a> {
    /// How many extras are given up in all requests of this kind.
    given_up: &'a AtomicU8,
    /// How many this request is made without.
    without: u8,
    /// How many it can be made without.
    most: u8,
    /// What the server does not know if it refuses the extras.
    what: &'static str,
}

impl<'a> Attempt<'a> {
    fn new(given_up: &'a AtomicU8, most: u8, what: &'static str) -> Self {
        Self {
            given_up,
            without: given_up.load(Ordering::Relaxed).min(most),
            most,
            what,
        }
    }
}

impl Attempt<'_> {
    /// Whether the request is to be made with everything now.
    pub(super) fn is_whole(&self) -> bool {
        self.without == 0
    }

    /// The outcome of the request; `None` where it is to be made again with fewer extras.
    pub(super) fn settle<T>(&mut self, answer: Result<T, DriverError>) -> Option<Result<T, DriverError>> {
        match &answer {
            Err(error) if is_about_the_request(error) && self.without < self.most => {
                self.without += 1;
                return None;
            }
            Err(error) if !was_executed(error) => {}
            _ => self.succeeded(),
        }
        Some(answer)
    }

    /// Gives up for good what the request was made without. Not before it succeeded: the server may have refused it for
    /// another reason, such as a document that it cannot read.
    pub(super) fn succeeded(&self) {
        if self.given_up.fetch_max(self.without, Ordering::Relaxed) < self.without {
            tracing::info!(
                "the server does not support {}: requests are made without from now on",
                self.what
            );
        }
    }
}

/// A query on its way.
pub(super) struct QueryAttempt<'a> {
    attempt: Attempt<'a>,
    has_own_order: bool,
}

impl QueryAttempt<'_> {
    /// What to ask for now.
    pub(super) fn extras(&self) -> QueryExtras {
        let extras = QueryExtras::LEVELS[usize::from(self.attempt.without)];
        QueryExtras {
            collation: extras.collation && self.has_own_order,
            ..extras
        }
    }

    /// As [`Attempt::settle`].
    pub(super) fn settle<T>(&mut self, answer: Result<T, DriverError>) -> Option<Result<T, DriverError>> {
        self.attempt.settle(answer)
    }
}

/// A write on its way.
pub(super) struct WriteAttempt<'a> {
    attempt: Attempt<'a>,
    concern: &'a WriteConcern,
}

impl WriteAttempt<'_> {
    /// How it is to be acknowledged; `None` if the server decides, since it refused a write concern that the address does
    /// not ask for.
    pub(super) fn concern(&self) -> Option<WriteConcern> {
        self.attempt.is_whole().then(|| self.concern.clone())
    }

    /// As [`Attempt::settle`].
    pub(super) fn settle<T>(&mut self, answer: Result<T, DriverError>) -> Option<Result<T, DriverError>> {
        self.attempt.settle(answer)
    }
}

impl Extras {
    /// A query of a collection that may have an order of its own.
    pub(super) fn query(&self, has_own_order: bool) -> QueryAttempt<'_> {
        QueryAttempt {
            attempt: Attempt::new(&self.query, QueryExtras::MOST_GIVEN_UP, "some options of queries"),
            has_own_order,
        }
    }

    /// The command `count`, which can be done without.
    pub(super) fn count(&self) -> Attempt<'_> {
        Attempt::new(&self.count, 1, "the command count")
    }

    /// A write with this write concern, and without it if that is allowed and the server refuses it.
    pub(super) fn write<'a>(&'a self, concern: &'a WriteConcern, may_do_without: bool) -> WriteAttempt<'a> {
        WriteAttempt {
            attempt: Attempt::new(
                &self.concern,
                u8::from(may_do_without),
                "the write concern of writes",
            ),
            concern,
        }
    }
}

/// Whether a command was executed although not all of its documents were written.
fn was_executed(error: &DriverError) -> bool {
    matches!(&*error.kind, DriverErrorKind::InsertMany(_))
}

/// Whether an error is about what a command asked for, so that another command with the same end may pass, and not
/// about the server's state, the login, or a connection.
pub(super) fn is_about_the_request(error: &DriverError) -> bool {
    match &*error.kind {
        DriverErrorKind::Command(command) => {
            kind_of_code(command.code).is_none() && !is_labelled_temporary(error)
        }
        // The driver knows what the version of a server lacks, and does not send it.
        DriverErrorKind::IncompatibleServer { .. } | DriverErrorKind::InvalidArgument { .. } => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::mongo::server::tests::command_error;

    /// The server refuses the request: BadValue.
    fn refused() -> Result<(), DriverError> {
        Err(command_error(2))
    }

    #[test]
    fn a_write_concern_is_given_up_only_when_a_write_succeeded_without_it() {
        let (extras, concern) = (Extras::default(), WriteConcern::majority());
        let is_asked_for = || extras.write(&concern, true).concern().is_some();

        // A document that the server cannot read: the write concern is not the reason.
        let mut attempt = extras.write(&concern, true);
        assert!(attempt.settle(refused()).is_none());
        assert!(attempt.concern().is_none());
        assert!(matches!(attempt.settle(refused()), Some(Err(_))));
        assert!(is_asked_for());

        // NotWritablePrimary says nothing about the write concern.
        let mut attempt = extras.write(&concern, true);
        assert!(matches!(
            attempt.settle::<()>(Err(command_error(10107))),
            Some(Err(_))
        ));
        assert!(is_asked_for());

        let mut attempt = extras.write(&concern, true);
        assert!(attempt.settle(refused()).is_none());
        assert!(matches!(attempt.settle(Ok(())), Some(Ok(()))));
        assert!(!is_asked_for());
    }

    #[test]
    fn a_write_concern_of_the_address_is_never_given_up() {
        let (extras, concern) = (Extras::default(), WriteConcern::majority());
        let mut attempt = extras.write(&concern, false);
        assert!(matches!(attempt.settle(refused()), Some(Err(_))));
        assert!(attempt.concern().is_some());
    }

    #[test]
    fn options_of_queries_are_given_up_only_when_a_query_succeeded_without_them() {
        let extras = Extras::default();
        let asked = |has_own_order| {
            let QueryExtras { hint, collation } = extras.query(has_own_order).extras();
            (hint, collation)
        };
        let mut attempt = extras.query(true);
        for _ in 0..2 {
            assert!(attempt.settle(refused()).is_none());
        }
        assert!(matches!(attempt.settle(refused()), Some(Err(_))));
        assert_eq!(asked(true), (true, true));
        assert_eq!(asked(false), (true, false));

        let mut attempt = extras.query(true);
        assert!(attempt.settle(refused()).is_none());
        assert!(matches!(attempt.settle(Ok(())), Some(Ok(()))));
        assert_eq!(asked(true), (false, true));
    }

    #[test]
    fn a_command_is_given_up_only_when_its_substitute_succeeded() {
        let extras = Extras::default();
        let mut attempt = extras.count();
        assert!(attempt.settle(refused()).is_none());
        assert!(!attempt.is_whole());
        assert!(extras.count().is_whole());
        attempt.succeeded();
        assert!(!extras.count().is_whole());
    }
}

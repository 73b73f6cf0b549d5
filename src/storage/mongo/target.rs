//! Writing a collection: what is new is inserted, what is there replaced.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use mongodb::{
    Collection,
    action::Action,
    bson::{Document, RawArrayBuf, RawDocumentBuf, raw::cstr, rawdoc, serialize_to_raw_document_buf},
    error::{Error as DriverError, ErrorKind as DriverErrorKind, InsertManyError},
    options::WriteConcern,
};

use super::{
    checks,
    codec::{self, Encoded},
    server::{Server, integer, kind_of, kind_of_code, kind_of_concern},
    source::MongoSource,
};
use crate::{
    model::{
        Error, ErrorKind, Result,
        record::{CacheKey, OnInvalid, Record, RejectKind},
    },
    storage::{Changes, Halving, Size, Source, Target, WriteMode, WriteOutcome},
};

/// DuplicateKey.
const DUPLICATE: i32 = 11000;

/// NamespaceExists.
const COLLECTION_EXISTS: i32 = 48;

/// Bytes of documents that are sent at once. To the server, a command that replaces is one document and may not be larger
/// than one; the driver copies what it sends more than once, and larger pieces are not faster.
const AT_ONCE: usize = 2 << 20;

/// Bytes that an operation of a command has besides key and document.
const OPERATION_BYTES: usize = 64;

/// The collection of a workspace, to read and write.
pub(super) struct MongoTarget {
    source: Arc<MongoSource>,
    server: Arc<Server>,
    collection: Collection<RawDocumentBuf>,
    on_invalid: OnInvalid,
    /// Whether most of the last batch was there already, so that inserting would mostly be refused.
    mostly_there: AtomicBool,
    /// Whether the collection was created here and nothing was written to it yet.
    is_empty: AtomicBool,
}

/// A document that the server did not take.
#[derive(Debug, PartialEq, Eq)]
struct Refused {
    index: usize,
    code: i32,
    message: String,
}

impl Refused {
    fn is_duplicate(&self) -> bool {
        self.code == DUPLICATE
    }

    /// Whether the reason is a document with this key. If it is one that a unique index of the user considers equal,
    /// nothing is known about the key.
    fn is_there_already(&self) -> bool {
        let of_another_index = self.message.contains(" index: ") && !self.message.contains(" index: _id_");
        self.is_duplicate() && !of_another_index
    }

    fn outcome(self) -> WriteOutcome {
        // BSONObjectTooLarge, and what an update says instead
        let kind = match self.code {
            10334 | 17419 | 17420 => RejectKind::ValueTooLarge,
            _ => RejectKind::RefusedByTarget,
        };
        WriteOutcome::rejected(
            kind,
            format!("MongoDB refused it: {} (code {})", self.message, self.code),
        )
    }
}

impl MongoTarget {
    pub(super) fn new(
        server: Arc<Server>,
        collection: Collection<RawDocumentBuf>,
        on_invalid: OnInvalid,
    ) -> Self {
        Self {
            source: Arc::new(MongoSource::of_target(Arc::clone(&server), collection.clone())),
            server,
            collection,
            on_invalid,
            mostly_there: AtomicBool::new(false),
            is_empty: AtomicBool::new(false),
        }
    }

    /// Inserts documents, and gives those that the server did not take.
    async fn insert(&self, documents: &[&RawDocumentBuf]) -> Result<Vec<Refused>> {
        let mut attempt = self.server.write();
        let inserted = loop {
            let inserted = self
                .collection
                .insert_many(documents.iter().copied())
                .ordered(false)
                .optional(attempt.concern(), |insert, concern| insert.write_concern(concern))
                .await;
            if let Some(inserted) = attempt.settle(inserted) {
                break inserted;
            }
        };
        let Err(error) = inserted else {
            return Ok(Vec::new());
        };
        match &*error.kind {
            DriverErrorKind::InsertMany(InsertManyError {
                write_errors,
                write_concern_error,
                ..
            }) => {
                if let Some(concern) = write_concern_error {
                    return Err(self.not_acknowledged(kind_of(&error), concern.code, &concern.message));
                }
                let refused = write_errors.iter().flatten().map(|error| Refused {
                    index: error.index,
                    code: error.code,
                    message: error.message.clone(),
                });
                self.about_records(refused.collect())
            }
            _ => Err(self.refused_as_a_whole(error)),
        }
    }

    /// Replaces documents, or inserts them where there is none, and gives those that the server did not take and how many
    /// were there.
    ///
    /// The driver's own bulk write needs a server of version 8, so this is the command that all of them know. The driver
    /// does not try it again when the connection breaks; a replacement may be repeated by whoever called.
    async fn replace(&self, documents: &[&RawDocumentBuf]) -> Result<(Vec<Refused>, usize)> {
        let mut attempt = self.server.write();
        let replaced = loop {
            let command = self.update_command(documents, attempt.concern())?;
            let replaced = self.server.database().run_raw_command(command).await;
            if let Some(replaced) = attempt.settle(replaced) {
                break replaced;
            }
        };
        let reply = replaced.map_err(|error| self.refused_as_a_whole(error))?;
        if let Ok(concern) = reply.get_document("writeConcernError") {
            let (code, message) = code_and_message(concern);
            return Err(self.not_acknowledged(kind_of_concern(code), code, &message));
        }
        let errors = reply.get_array("writeErrors").ok().into_iter().flatten();
        let refused = errors.map(|error| {
            let error = error.as_document()?;
            let (code, message) = code_and_message(error);
            let index = usize::try_from(integer(error.get("index"))?).ok()?;
            Some(Refused { index, code, message })
        });
        let refused: Option<Vec<Refused>> = refused.collect();
        let done = integer(reply.get("n")).and_then(|n| usize::try_from(n).ok());
        // A record is written when the server has said so, and at no other time.
        let (Some(refused), Some(done)) = (refused, done) else {
            return Err(self.unreadable());
        };
        let refused = self.about_records(refused)?;
        if done + refused.len() != documents.len() {
            return Err(self.unreadable());
        }
        let new = reply.get_array("upserted").map_or(0, Vec::len);
        Ok((refused, done.saturating_sub(new)))
    }

    fn update_command(
        &self,
        documents: &[&RawDocumentBuf],
        concern: Option<WriteConcern>,
    ) -> Result<RawDocumentBuf> {
        let mut command = RawDocumentBuf::new();
        command.append(cstr!("update"), self.collection.name());
        command.append(cstr!("ordered"), false);
        if let Some(concern) = concern {
            let concern = serialize_to_raw_document_buf(&concern).map_err(|error| {
                Error::new(ErrorKind::Internal, "a write concern cannot be serialized").caused_by(error)
            })?;
            command.append(cstr!("writeConcern"), &concern);
        }
        command.append(cstr!("updates"), updates(documents));
        Ok(command)
    }

    fn unreadable(&self) -> Error {
        let message = format!(
            "{} does not say which records it has written to the collection {}",
            self.server.location(),
            self.collection.name()
        );
        // FerretDB answers so while an earlier request for the same keys is still under way; the write may be repeated.
        Error::new(ErrorKind::Busy, message)
    }

    /// Which of the refused documents have keys that are there already.
    async fn there_already(
        &self,
        documents: &[&RawDocumentBuf],
        refused: &[Refused],
    ) -> Result<HashSet<usize>> {
        let duplicates = || refused.iter().filter(|refused| refused.is_duplicate());
        let (mut there, unclear): (HashSet<usize>, Vec<usize>) = (
            duplicates()
                .filter(|refused| refused.is_there_already())
                .map(|refused| refused.index)
                .collect(),
            duplicates()
                .filter(|refused| !refused.is_there_already())
                .map(|refused| refused.index)
                .collect(),
        );
        let keys = unclear
            .iter()
            .filter_map(|at| codec::key(documents.get(*at)?))
            .map(CacheKey::from);
        let found = self.source.get_many(&keys.collect::<Vec<_>>()).await?;
        there.extend(
            unclear
                .into_iter()
                .zip(found)
                .filter_map(|(at, found)| found.map(|_| at)),
        );
        Ok(there)
    }

    /// The refusals where each is about its record; where one is about the server, that ends the batch.
    fn about_records(&self, refused: Vec<Refused>) -> Result<Vec<Refused>> {
        let about_server = refused.iter().find_map(|refused| {
            let kind = kind_of_code(refused.code)?;
            (!kind.is_splittable()).then_some((kind, refused))
        });
        match about_server {
            None => Ok(refused),
            Some((kind, refused)) => Err(Error::new(
                kind,
                format!(
                    "cannot write the collection {} of {}: {} (code {})",
                    self.collection.name(),
                    self.server.location(),
                    refused.message,
                    refused.code
                ),
            )),
        }
    }

    fn not_acknowledged(&self, kind: ErrorKind, code: i32, message: &str) -> Error {
        let message = format!(
            "{} has written to the collection {}, but not with the requested write concern: {message} (code {code})",
            self.server.location(),
            self.collection.name(),
        );
        let error = Error::new(kind, message);
        match kind {
            ErrorKind::Config => error.with_remedy("correct w in the address, or leave it out"),
            ErrorKind::Timeout => {
                error.with_remedy("check the health of the replica set, or raise wtimeoutMS")
            }
            _ => error,
        }
    }

    /// An error of a whole command. What the server could not even read, it may read without one of the records.
    fn refused_as_a_whole(&self, error: DriverError) -> Error {
        let code = match &*error.kind {
            DriverErrorKind::Command(error) => error.code,
            _ => 0,
        };
        let error = self.source.failed("write", error);
        match code {
            // BadValue, FailedToParse, TypeMismatch, Overflow, InvalidBSON, Location40415 (an unknown field)
            2 | 9 | 14 | 15 | 22 | 40415 => Error::new(ErrorKind::BatchRefused, error.message()),
            _ => error,
        }
    }
}

/// The operations of an `update` command that replace documents, or insert them where there is none.
fn updates(documents: &[&RawDocumentBuf]) -> RawArrayBuf {
    let mut updates = RawArrayBuf::new();
    for document in documents {
        let mut update = RawDocumentBuf::new();
        let key = codec::key(document).unwrap_or_default();
        update.append(cstr!("q"), &rawdoc! { "_id": key });
        update.append(cstr!("u"), *document);
        update.append(cstr!("upsert"), true);
        updates.push(&update);
    }
    updates
}

fn code_and_message(error: &Document) -> (i32, String) {
    let code = integer(error.get("code")).and_then(|code| i32::try_from(code).ok());
    (
        code.unwrap_or(0),
        error.get_str("errmsg").unwrap_or_default().to_owned(),
    )
}

/// A record on its way: its place among the answers, its document, and what was changed in it.
struct Pending {
    at: usize,
    document: RawDocumentBuf,
    changes: Changes,
}

#[async_trait]
impl Target for MongoTarget {
    fn reader(&self) -> Arc<dyn Source> {
        Arc::clone(&self.source) as Arc<dyn Source>
    }

    async fn check_writable(&self) -> Result<()> {
        let name = self.collection.name();
        let facts = self.source.facts().await?;
        facts.keeps_documents(&self.server, name)?;
        checks::may_write(&self.server, name).await
    }

    /// Makes the collection where there is none, as LightRAG does.
    async fn prepare(&self) -> Result<()> {
        let name = self.collection.name();
        let facts = self.source.facts().await?;
        facts.keeps_documents(&self.server, name)?;
        let is_there = match facts.is_there {
            Some(is_there) => is_there,
            // A login that may write a collection need not be allowed to ask for it, nor to list any.
            None => {
                let names = self.server.collection_names().await;
                names.is_ok_and(|names| names.iter().any(|known| known == name))
            }
        };
        if is_there {
            return Ok(());
        }
        let database = self.server.database();
        match database.create_collection(name).await {
            // That it is empty is known only of one that was not there: some servers succeed if it is.
            Ok(()) => self
                .is_empty
                .store(facts.is_there == Some(false), Ordering::Relaxed),
            Err(error) if is_command_error(&error, COLLECTION_EXISTS) => {}
            Err(error) => return Err(self.source.failed("make", error)),
        }
        self.source.set_made();
        Ok(())
    }

    async fn write(&self, batch: &[Record], mode: WriteMode) -> Result<Vec<WriteOutcome>> {
        self.is_empty.store(false, Ordering::Relaxed);
        let limits = self.server.limits;
        let mut outcomes = vec![WriteOutcome::written(); batch.len()];
        let (mut piece, mut bytes) = (Vec::new(), 0);
        for (at, record) in batch.iter().enumerate() {
            let Encoded { document, changes } = match codec::encode(record, self.on_invalid, limits.document)
            {
                Ok(encoded) => encoded,
                Err((kind, reason)) => {
                    outcomes[at] = WriteOutcome::rejected(kind, reason);
                    continue;
                }
            };
            let size = record.key().as_str().len() + document.as_bytes().len() + OPERATION_BYTES;
            if bytes + size > AT_ONCE.min(limits.document) || piece.len() >= limits.operations {
                self.write_piece(std::mem::take(&mut piece), mode, &mut outcomes)
                    .await?;
                bytes = 0;
            }
            bytes += size;
            piece.push(Pending {
                at,
                document,
                changes,
            });
        }
        self.write_piece(piece, mode, &mut outcomes).await?;
        Ok(outcomes)
    }

    fn preview(&self, record: &Record) -> WriteOutcome {
        match codec::encode(record, self.on_invalid, self.server.limits.document) {
            Ok(Encoded { changes, .. }) => WriteOutcome::Written(changes),
            Err((kind, reason)) => WriteOutcome::rejected(kind, reason),
        }
    }

    /// Nothing is left to do: a write is answered when it is as durable as the address asks, by default on the disks of a
    /// majority.
    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn finish(&self) -> Result<()> {
        Ok(())
    }

    /// What the collection's metadata says. Some services do without it.
    async fn size(&self) -> Result<Option<Size>> {
        let documents = match self.is_empty.load(Ordering::Relaxed) {
            true => Some(0),
            false => self.collection.estimated_document_count().await.ok(),
        };
        Ok(documents.map(|entries| Size {
            entries,
            grows_by_new_only: true,
        }))
    }
}

impl MongoTarget {
    /// Writes a piece of a batch and enters what became of it. A piece that the server cannot read is sent in halves, down
    /// to the one document that it cannot read: the other pieces of the batch may be written already, so that whoever
    /// asked could not begin anew with fewer records.
    async fn write_piece(
        &self,
        piece: Vec<Pending>,
        mode: WriteMode,
        outcomes: &mut [WriteOutcome],
    ) -> Result<()> {
        let documents: Vec<&RawDocumentBuf> = piece.iter().map(|pending| &pending.document).collect();
        let mut failures = HashMap::new();
        let mut halving = Halving::of(&documents);
        // Parts come in order: of so many documents it is known what became of them.
        let mut known = 0;
        while let Some(part) = halving.next() {
            match self.send(part, mode).await {
                Ok(failed) => {
                    failures.extend(failed.into_iter().map(|(at, what)| (known + at, what)));
                    known += part.len();
                }
                Err(error) => {
                    let error = self.as_refusal(error, part, mode).await;
                    if let Some((kind, reason)) = halving.refused(part, error)? {
                        failures.insert(known, WriteOutcome::rejected(kind, reason));
                        known += 1;
                    }
                }
            }
        }
        for (index, Pending { at, changes, .. }) in piece.into_iter().enumerate() {
            outcomes[at] = failures.remove(&index).unwrap_or(WriteOutcome::Written(changes));
        }
        Ok(())
    }

    /// A connection that was lost, as a batch that was refused, where the server hangs up because of what these documents
    /// hold; any other error as it is.
    async fn as_refusal(&self, error: Error, documents: &[&RawDocumentBuf], mode: WriteMode) -> Error {
        let may_hang_up = error.kind() == ErrorKind::ConnectionLost
            && documents.iter().any(|document| codec::holds_decimal(document));
        if may_hang_up && (documents.len() > 1 || self.hangs_up_again(documents, mode).await) {
            return Error::new(ErrorKind::BatchRefused, error.message());
        }
        error
    }

    /// Whether a server that answers otherwise hangs up on these documents once more. FerretDB does on a decimal.
    async fn hangs_up_again(&self, documents: &[&RawDocumentBuf], mode: WriteMode) -> bool {
        let again = self.server.answers().await && self.send(documents, mode).await.is_err();
        again && self.server.answers().await
    }

    /// Writes documents, and gives by their place what became of those that were not.
    async fn send(
        &self,
        documents: &[&RawDocumentBuf],
        mode: WriteMode,
    ) -> Result<Vec<(usize, WriteOutcome)>> {
        if documents.is_empty() {
            return Ok(Vec::new());
        }
        let (refused, there) = match mode {
            WriteMode::Upsert => (self.upsert(documents).await?, HashSet::new()),
            WriteMode::Create => {
                let refused = self.insert(documents).await?;
                let there = self.there_already(documents, &refused).await?;
                (refused, there)
            }
        };
        let outcome = |refused: Refused| {
            let index = refused.index;
            let there = there.contains(&index);
            (
                index,
                if there {
                    WriteOutcome::Exists
                } else {
                    refused.outcome()
                },
            )
        };
        Ok(refused.into_iter().map(outcome).collect())
    }

    /// Inserts documents and replaces those that are there; where most were there the last time, replaces them all at
    /// once, which saves a round trip.
    async fn upsert(&self, documents: &[&RawDocumentBuf]) -> Result<Vec<Refused>> {
        let mostly = |part: usize| part * 2 > documents.len();
        if self.mostly_there.load(Ordering::Relaxed) {
            let (refused, there) = self.replace(documents).await?;
            self.mostly_there.store(mostly(there), Ordering::Relaxed);
            return Ok(refused);
        }
        let (there, mut refused): (Vec<Refused>, Vec<Refused>) = self
            .insert(documents)
            .await?
            .into_iter()
            .partition(Refused::is_there_already);
        self.mostly_there.store(mostly(there.len()), Ordering::Relaxed);
        let again: Vec<usize> = there.into_iter().map(|refused| refused.index).collect();
        let replacing: Vec<&RawDocumentBuf> = again
            .iter()
            .filter_map(|at| documents.get(*at).copied())
            .collect();
        let (not_replaced, _) = if replacing.is_empty() {
            Default::default()
        } else {
            self.replace(&replacing).await?
        };
        refused.extend(not_replaced.into_iter().filter_map(|refused| {
            let index = *again.get(refused.index)?;
            Some(Refused { index, ..refused })
        }));
        Ok(refused)
    }
}

fn is_command_error(error: &DriverError, code: i32) -> bool {
    matches!(&*error.kind, DriverErrorKind::Command(error) if error.code == code)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mongodb::{bson::doc, options::Acknowledgment};

    use super::*;

    #[test]
    fn a_write_concern_is_sent_under_the_servers_names() {
        let mut concern = WriteConcern::majority();
        concern.w_timeout = Some(Duration::from_secs(5));
        concern.journal = Some(true);
        let sent: Document = serialize_to_raw_document_buf(&concern)
            .unwrap()
            .try_into()
            .unwrap();
        assert_eq!(sent, doc! { "w": "majority", "wtimeout": 5000, "j": true });
        let two: WriteConcern = Acknowledgment::Nodes(2).into();
        let sent: Document = serialize_to_raw_document_buf(&two).unwrap().try_into().unwrap();
        assert_eq!(sent, doc! { "w": 2 });
    }

    #[test]
    fn a_key_that_is_there_is_told_from_what_another_index_holds_to_be_equal() {
        let refused = |code, message: &str| Refused {
            index: 0,
            code,
            message: message.to_owned(),
        };
        let own = "E11000 duplicate key error collection: db.c index: _id_ dup key: { _id: \"k\" }";
        assert!(refused(DUPLICATE, own).is_there_already());
        // A server leaves the text out where there are many.
        assert!(refused(DUPLICATE, "").is_there_already());
        let other =
            "E11000 duplicate key error collection: db.c index: chunk_id_1 dup key: { chunk_id: \"c\" }";
        assert!(!refused(DUPLICATE, other).is_there_already());
        assert!(!refused(121, "Document failed validation").is_there_already());
        let outcome = refused(10334, "too large").outcome();
        assert!(matches!(
            outcome,
            WriteOutcome::Rejected {
                kind: RejectKind::ValueTooLarge,
                ..
            }
        ));
    }
}

//! Writing a collection: what is new is inserted, what is there replaced.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use mongodb::{
    Collection,
    bson::{Bson, Document, RawArrayBuf, RawDocumentBuf, raw::cstr, rawdoc, serialize_to_raw_document_buf},
    error::{Error as DriverError, ErrorKind as DriverErrorKind, InsertManyError},
};

use super::{
    layout::{self, Encoded},
    server::{Server, integer, kind_of_code, kind_of_concern},
    source::MongoSource,
};
use crate::{
    error::{Error, ErrorKind, Result},
    record::{CacheKey, OnInvalid, Record, RejectKind, Selection},
    storage::{
        Changes, Count, Cursor, Entry, Outcome, PageLimit, PageStream, Progress, Source, Target, WriteMode,
    },
};

/// DuplicateKey.
const DUPLICATE: i32 = 11000;

/// NamespaceExists.
const COLLECTION_EXISTS: i32 = 48;

/// Bytes of a message that are not documents: more than the driver and the server add to a command.
const COMMAND_BYTES: usize = 16 << 10;

/// The collection of a workspace, to read and write.
pub(super) struct MongoTarget {
    source: Arc<MongoSource>,
    server: Arc<Server>,
    collection: Collection<RawDocumentBuf>,
    on_invalid: OnInvalid,
    /// Whether most of the last batch was there already, so that inserting would mostly be refused.
    mostly_there: AtomicBool,
}

/// A document that the server did not take.
#[derive(Debug, PartialEq, Eq)]
struct Refused {
    index: usize,
    code: i32,
    message: String,
}

impl Refused {
    /// Whether the reason is a document with this key, and not another one that some index of the user's holds to be equal.
    fn is_there_already(&self) -> bool {
        let of_another_index = self.message.contains(" index: ") && !self.message.contains(" index: _id_");
        self.code == DUPLICATE && !of_another_index
    }

    fn outcome(self) -> Outcome {
        // BSONObjectTooLarge, and what an update says instead
        let kind = match self.code {
            10334 | 17419 | 17420 => RejectKind::ValueTooLarge,
            _ => RejectKind::RefusedByTarget,
        };
        Outcome::rejected(
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
            source: Arc::new(MongoSource::new(Arc::clone(&server), collection.clone())),
            server,
            collection,
            on_invalid,
            mostly_there: AtomicBool::new(false),
        }
    }

    /// Inserts documents, and gives those that the server did not take.
    async fn insert(&self, documents: &[&RawDocumentBuf]) -> Result<Vec<Refused>> {
        let inserting = self
            .collection
            .insert_many(documents.iter().copied())
            .ordered(false)
            .write_concern(self.server.write_concern.clone());
        let Err(error) = inserting.await else {
            return Ok(Vec::new());
        };
        match &*error.kind {
            DriverErrorKind::InsertMany(InsertManyError {
                write_errors,
                write_concern_error,
                ..
            }) => {
                if let Some(concern) = write_concern_error {
                    return Err(self.not_acknowledged(concern.code, &concern.message));
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
        let mut updates = RawArrayBuf::new();
        for document in documents {
            let mut update = RawDocumentBuf::new();
            let key = document.get_str("_id").unwrap_or_default();
            update.append(cstr!("q"), &rawdoc! { "_id": key });
            update.append(cstr!("u"), *document);
            update.append(cstr!("upsert"), true);
            updates.push(&update);
        }
        let mut command = RawDocumentBuf::new();
        command.append(cstr!("update"), self.collection.name());
        command.append(cstr!("ordered"), false);
        let concern = serialize_to_raw_document_buf(&self.server.write_concern).map_err(|error| {
            Error::new(ErrorKind::Internal, "a write concern has no BSON form").caused_by(error)
        })?;
        command.append(cstr!("writeConcern"), &concern);
        command.append(cstr!("updates"), &updates);
        let reply = self
            .server
            .database()
            .run_raw_command(command)
            .await
            .map_err(|error| self.refused_as_a_whole(error))?;
        if let Ok(concern) = reply.get_document("writeConcernError") {
            let (code, message) = code_and_message(concern);
            return Err(self.not_acknowledged(code, &message));
        }
        let new = reply.get_array("upserted").map_or(0, Vec::len);
        let errors = reply.get_array("writeErrors").ok().into_iter().flatten();
        let refused = errors.filter_map(Bson::as_document).filter_map(|error| {
            let (code, message) = code_and_message(error);
            let index = usize::try_from(integer(error.get("index"))?).ok()?;
            Some(Refused { index, code, message })
        });
        let refused = self.about_records(refused.collect())?;
        let there = documents.len().saturating_sub(new + refused.len());
        Ok((refused, there))
    }

    /// Replaces documents in as many commands as their bytes need: one command is one document to the server.
    async fn replace_all(&self, documents: &[&RawDocumentBuf]) -> Result<(Vec<Refused>, usize)> {
        let (mut refused, mut there, mut done) = (Vec::new(), 0, 0);
        while done < documents.len() {
            let mut bytes = 0;
            let fits = documents[done..]
                .iter()
                .take(self.server.limits.operations)
                .take_while(|document| {
                    // The key stands twice, and each operation has some words of its own.
                    let key = document.get_str("_id").map_or(0, str::len);
                    bytes += document.as_bytes().len() + key + 64;
                    bytes <= self.server.limits.document
                });
            let end = done + fits.count().max(1);
            let (piece, piece_there) = self.replace(&documents[done..end]).await?;
            refused.extend(piece.into_iter().map(|piece| Refused {
                index: done + piece.index,
                ..piece
            }));
            there += piece_there;
            done = end;
        }
        Ok((refused, there))
    }

    /// The refusals where each is about its record; where one is about the server, that ends the batch.
    fn about_records(&self, refused: Vec<Refused>) -> Result<Vec<Refused>> {
        let about_server = refused.iter().find_map(|refused| {
            let kind = kind_of_code(refused.code)?;
            (!kind.asks_for_less()).then_some((kind, refused))
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

    fn not_acknowledged(&self, code: i32, message: &str) -> Error {
        let kind = kind_of_concern(code);
        let message = format!(
            "{} has written to the collection {} but not as safely as it was to: {message} (code {code})",
            self.server.location(),
            self.collection.name(),
        );
        let error = Error::new(kind, message);
        match kind {
            ErrorKind::Config => error.with_remedy("correct w in the address, or leave it out"),
            ErrorKind::Timeout => {
                error.with_remedy("look at the health of the replica set, or raise wtimeoutMS")
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
impl Source for MongoTarget {
    async fn count(&self, selection: &Selection, progress: Progress<'_>) -> Result<Count> {
        self.source.count(selection, progress).await
    }

    fn scan(self: Arc<Self>, selection: &Selection, limit: PageLimit, from: Option<Cursor>) -> PageStream {
        Arc::clone(&self.source).scan(selection, limit, from)
    }

    async fn get_many(&self, keys: &[CacheKey]) -> Result<Vec<Option<Entry>>> {
        self.source.get_many(keys).await
    }
}

#[async_trait]
impl Target for MongoTarget {
    /// Makes the collection where there is none, as LightRAG does.
    async fn prepare(&self) -> Result<()> {
        let name = self.collection.name();
        let database = self.server.database();
        // A login that may write a collection need not be allowed to list any.
        let names = database
            .list_collection_names()
            .authorized_collections(true)
            .await;
        if names.is_ok_and(|names| names.iter().any(|known| known == name)) {
            return Ok(());
        }
        match database.create_collection(name).await {
            Ok(()) => Ok(()),
            Err(error) if is_command_error(&error, COLLECTION_EXISTS) => Ok(()),
            Err(error) => Err(self.source.failed("make", error)),
        }
    }

    async fn write(&self, batch: &[Record], mode: WriteMode) -> Result<Vec<Outcome>> {
        let mut outcomes = vec![Outcome::written(); batch.len()];
        let mut pending = Vec::with_capacity(batch.len());
        let mut bytes = COMMAND_BYTES;
        for (at, record) in batch.iter().enumerate() {
            match layout::encode(record, self.on_invalid, self.server.limits.document) {
                Err((kind, reason)) => outcomes[at] = Outcome::rejected(kind, reason),
                Ok(Encoded { document, changes }) => {
                    bytes += document.as_bytes().len();
                    pending.push(Pending {
                        at,
                        document,
                        changes,
                    });
                }
            }
        }
        let limits = self.server.limits;
        // Said before anything is sent, so that a batch is one message, which is refused or taken as one.
        if pending.len() > 1 && (bytes > limits.message || pending.len() > limits.operations) {
            let message = format!(
                "{} records of {bytes} bytes are more than {} takes at once",
                pending.len(),
                self.server.location()
            );
            return Err(Error::new(ErrorKind::RequestTooLarge, message));
        }
        let documents: Vec<&RawDocumentBuf> = pending.iter().map(|pending| &pending.document).collect();
        if !documents.is_empty() {
            let refused = match mode {
                WriteMode::Create => self.insert(&documents).await?,
                WriteMode::Upsert => self.upsert(&documents).await?,
            };
            for Pending { at, changes, .. } in &mut pending {
                outcomes[*at] = Outcome::Written(std::mem::take(changes));
            }
            for refused in refused {
                let Some(pending) = pending.get(refused.index) else {
                    continue;
                };
                outcomes[pending.at] = match mode {
                    WriteMode::Create if refused.is_there_already() => Outcome::Exists,
                    _ => refused.outcome(),
                };
            }
        }
        Ok(outcomes)
    }

    /// Nothing is left to do: a write is answered when it is as durable as the address asks, by default on the disks of a
    /// majority.
    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn finish(&self) -> Result<()> {
        Ok(())
    }
}

impl MongoTarget {
    /// Inserts documents and replaces those that are there; where most were there the last time, replaces them all at
    /// once, which saves a round trip.
    async fn upsert(&self, documents: &[&RawDocumentBuf]) -> Result<Vec<Refused>> {
        let mostly = |part: usize| part * 2 > documents.len();
        if self.mostly_there.load(Ordering::Relaxed) {
            let (refused, there) = self.replace_all(documents).await?;
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
        let (not_replaced, _) = self.replace_all(&replacing).await?;
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

//! Reading a workspace's rows.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::OnceCell;
use tokio_postgres::{Row, types::ToSql};
use tokio_util::task::AbortOnDropHandle;

use super::{
    connection::{Phase, Server},
    layout::Stored,
    schema::Schema,
};
use crate::{
    error::{Error, ErrorKind, Result},
    record::{CacheKey, CacheType, Selection},
    storage::{Count, Cursor, Entry, Page, PageBuilder, PageLimit, PageStream, Progress, Source, Workspace},
};

/// LightRAG's name for the empty workspace in this storage. Both names stand for the same rows.
pub(super) const EMPTY_WORKSPACE: &str = "default";

/// What LightRAG puts in the column `workspace`.
pub(super) fn stored_name(workspace: &Workspace) -> &str {
    match workspace.name() {
        "" => EMPTY_WORKSPACE,
        name => name,
    }
}

/// The most rows of one request.
const MOST_ROWS: usize = 1000;

/// The least and the most bytes that one request asks for; a row may go beyond.
const CHUNK_BYTES: std::ops::RangeInclusive<usize> = (1 << 20)..=(4 << 20);

/// A workspace's rows, to read.
pub(super) struct PgSource {
    server: Arc<Server>,
    /// As it stands in the column.
    workspace: String,
    /// What the table looks like, once it is there.
    schema: OnceCell<Arc<Schema>>,
}

impl PgSource {
    pub(super) fn new(server: Arc<Server>, workspace: &Workspace) -> Self {
        Self {
            server,
            workspace: stored_name(workspace).to_owned(),
            schema: OnceCell::new(),
        }
    }

    pub(super) fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// The workspace as it stands in the column.
    pub(super) fn workspace(&self) -> &str {
        &self.workspace
    }

    /// What the table looks like, if anybody has looked.
    pub(super) fn known_schema(&self) -> Option<&Schema> {
        self.schema.get().map(Arc::as_ref)
    }

    /// What the table looks like; `None` as long as there is none.
    pub(super) async fn schema(&self) -> Result<Option<Arc<Schema>>> {
        if let Some(schema) = self.schema.get() {
            return Ok(Some(Arc::clone(schema)));
        }
        let client = self.server.client().await?;
        let Some(schema) = Schema::look_up(&self.server, &client).await? else {
            return Ok(None);
        };
        // Whoever was first is right: the table does not change between two looks.
        let _ = self.schema.set(Arc::new(schema));
        Ok(self.schema.get().cloned())
    }
}

#[async_trait]
impl Source for PgSource {
    async fn count(&self, selection: &Selection, _: Progress<'_>) -> Result<Count> {
        let Some(schema) = self.schema().await? else {
            return Ok(Count::none());
        };
        let mut client = self.server.client().await?;
        let sql = format!(
            "SELECT split_part(({key}) COLLATE \"C\", ':', 2)::text, count(*) FROM {table} t \
             WHERE t.workspace = $1 AND {selected}{first} GROUP BY 1",
            key = schema.key(),
            table = schema.table,
            selected = schema.selected(selection),
            first = schema.first_of_its_key(),
        );
        let counting = async {
            // It takes as long as the table is large.
            let transaction = client.build_transaction().read_only(true).start().await?;
            transaction
                .batch_execute("SET LOCAL statement_timeout = 0")
                .await?;
            let rows = transaction.query(&sql, &[&self.workspace]).await?;
            transaction.commit().await?;
            let mut count = Count::none();
            for row in rows {
                let (name, records): (&str, i64) = (row.try_get(0)?, row.try_get(1)?);
                if let Some(cache_type) = CacheType::ALL.into_iter().find(|t| t.as_str() == name) {
                    count.by_type.insert(cache_type, records.unsigned_abs());
                }
            }
            Ok(count)
        };
        match counting.await {
            Ok(count) => Ok(count),
            Err(error) => Err(self
                .server
                .failed_on(client, Phase::Reading, "count the records", error)),
        }
    }

    fn scan(self: Arc<Self>, selection: &Selection, limit: PageLimit, from: Option<Cursor>) -> PageStream {
        let scan = Scan {
            source: self,
            selection: selection.clone(),
            start: from,
            position: None,
            rows: Vec::new().into_iter(),
            ahead: None,
            page: PageBuilder::new(limit),
            chunk: Chunk::new(limit),
        };
        stream::unfold(scan, |mut scan| async {
            let page = scan.next_page().await.transpose()?;
            Some((page, scan))
        })
        .boxed()
    }

    async fn get_many(&self, keys: &[CacheKey]) -> Result<Vec<Option<Entry>>> {
        let Some(schema) = self.schema().await? else {
            return Ok(vec![None; keys.len()]);
        };
        // No row has a NUL in its id, and the server would not even read such a question.
        let wanted = || {
            keys.iter()
                .map(CacheKey::as_str)
                .filter(|key| !key.contains('\0'))
        };
        let ids: Vec<&str> = wanted().collect();
        // The ids of old rows are the last parts of their keys.
        let old_ids: Vec<&str> = match schema.has_mode() {
            true => wanted().filter_map(|key| key.splitn(3, ':').nth(2)).collect(),
            false => Vec::new(),
        };
        let sql = format!(
            "SELECT {fields} FROM {table} t WHERE t.workspace = $1 AND (t.id = ANY($2) OR t.id = ANY($3)){first}",
            fields = schema.fields(),
            table = schema.table,
            first = schema.first_of_its_key(),
        );
        let client = self.server.client().await?;
        let reading = async {
            let statement = client.prepare_cached(&sql).await?;
            let parameters: [&(dyn ToSql + Sync); 3] = [&self.workspace, &ids, &old_ids];
            let rows = client.query_raw(&statement, parameters).await?;
            let mut rows = std::pin::pin!(rows);
            let mut found = HashMap::new();
            while let Some(row) = rows.try_next().await? {
                let entry = Stored::from_row(&row)?.to_entry();
                found.insert(entry.key().clone(), entry);
            }
            Ok(found)
        };
        match reading.await {
            Ok(found) => Ok(keys.iter().map(|key| found.get(key).cloned()).collect()),
            Err(error) => Err(self
                .server
                .failed_on(client, Phase::Reading, "read records", error)),
        }
    }
}

/// A scan under way: where it is, and what was read and is in no page yet.
struct Scan {
    source: Arc<PgSource>,
    selection: Selection,
    /// Where to begin, until that was read.
    start: Option<Cursor>,
    /// The last row in a page.
    position: Option<Position>,
    rows: std::vec::IntoIter<Row>,
    /// The rows behind these, under way while these become records. A failed request is made again when it is asked for
    /// again, and not before.
    ahead: Option<AbortOnDropHandle<Result<Vec<Row>>>>,
    page: PageBuilder,
    chunk: Chunk,
}

impl Scan {
    /// The next page; `None` at the end. After an error it may be called again, and goes on where it failed.
    async fn next_page(&mut self) -> Result<Option<Page>> {
        let Some(schema) = self.source.schema().await? else {
            return Ok(None);
        };
        if let Some(cursor) = self.start.take() {
            self.position = Some(Position::from_cursor(&cursor, self.source.server())?);
        }
        let mut is_empty = self.page.is_empty();
        loop {
            for row in self.rows.by_ref() {
                let failed = |error| self.source.server.failed(Phase::Reading, "read records", error);
                self.page.push(Stored::from_row(&row).map_err(failed)?.to_entry());
                self.position = Some(Position::of(&row).map_err(failed)?);
                is_empty = false;
                if self.page.is_full() {
                    return Ok(Some(self.take_page()));
                }
            }
            let rows = match &mut self.ahead {
                Some(ahead) => ahead.await,
                None => self.read_ahead(&schema, self.position.clone()).await,
            };
            self.ahead = None;
            let rows = rows.map_err(|error| {
                Error::new(ErrorKind::Internal, "reading from PostgreSQL panicked").caused_by(error)
            })??;
            let Some(last) = rows.last() else {
                return Ok((!is_empty).then(|| self.take_page()));
            };
            let last = Position::of(last)
                .map_err(|error| self.source.server.failed(Phase::Reading, "read records", error))?;
            self.chunk.adapt(&rows);
            self.ahead = Some(self.read_ahead(&schema, Some(last)));
            self.rows = rows.into_iter();
        }
    }

    fn read_ahead(
        &self,
        schema: &Arc<Schema>,
        after: Option<Position>,
    ) -> AbortOnDropHandle<Result<Vec<Row>>> {
        let (source, schema) = (Arc::clone(&self.source), Arc::clone(schema));
        let (selection, chunk) = (self.selection.clone(), self.chunk);
        AbortOnDropHandle::new(tokio::spawn(async move {
            source
                .read_chunk(&schema, &selection, after.as_ref(), &chunk)
                .await
        }))
    }

    fn take_page(&mut self) -> Page {
        self.page.take(self.position.as_ref().map(Position::to_cursor))
    }
}

impl PgSource {
    /// Reads the rows behind a position: no more than a number of them, nor of bytes. Each request stands for itself,
    /// so that no transaction is open while a target takes its time.
    async fn read_chunk(
        &self,
        schema: &Schema,
        selection: &Selection,
        after: Option<&Position>,
        chunk: &Chunk,
    ) -> Result<Vec<Row>> {
        let order = if schema.has_mode() { "t.id, t.mode" } else { "t.id" };
        let mode = if schema.has_mode() {
            "t.mode::text"
        } else {
            "NULL::text"
        };
        let rows = i64::try_from(chunk.rows).unwrap_or(i64::MAX);
        let bytes = i64::try_from(chunk.bytes).unwrap_or(i64::MAX);
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&self.workspace, &rows, &bytes];
        // In the column's own order, which is the index's, whatever collation it has.
        let behind = match after {
            None => "",
            Some(Position { id, mode: None }) => {
                parameters.push(id);
                " AND t.id > $4"
            }
            Some(Position { id, mode: Some(mode) }) => {
                parameters.push(id);
                parameters.push(mode);
                " AND (t.id, t.mode) > ($4, $5)"
            }
        };
        // The inner query touches no long text, so that rows beyond the bytes cost an index entry each and are sent
        // to nobody.
        let sql = format!(
            "SELECT {fields}, t.id::text, {mode} FROM ( \
               SELECT t.*, sum({size}) OVER (ORDER BY {order} ROWS UNBOUNDED PRECEDING) - {size} AS bytes_before \
               FROM (SELECT t.* FROM {table} t WHERE t.workspace = $1{behind} AND {selected}{first} \
                     ORDER BY {order} LIMIT $2) t \
             ) t WHERE t.bytes_before < $3 ORDER BY {order}",
            fields = schema.fields(),
            size = schema.size(),
            table = schema.table,
            selected = schema.selected(selection),
            first = schema.first_of_its_key(),
        );
        let client = self.server.client().await?;
        let reading = async {
            let statement = client.prepare_cached(&sql).await?;
            client.query(&statement, &parameters).await
        };
        // Given up a little before whoever asks for the page does: the next try then has another connection.
        match tokio::time::timeout(self.server.patience(), reading).await {
            Ok(Ok(rows)) => Ok(rows),
            Ok(Err(error)) => Err(self
                .server
                .failed_on(client, Phase::Reading, "read records", error)),
            Err(_) => Err(self.server.given_up(client, "read records")),
        }
    }
}

/// How much the next request asks for.
#[derive(Clone, Copy)]
struct Chunk {
    rows: usize,
    bytes: usize,
    most_rows: usize,
}

impl Chunk {
    fn new(limit: PageLimit) -> Self {
        let most_rows = limit.records.get().min(MOST_ROWS);
        Self {
            rows: most_rows,
            bytes: limit.bytes.get().clamp(*CHUNK_BYTES.start(), *CHUNK_BYTES.end()),
            most_rows,
        }
    }

    /// Asks for about as many rows as will fit, by the size of those that came.
    fn adapt(&mut self, rows: &[Row]) {
        let bytes: usize = rows.iter().map(Row::raw_size_bytes).sum();
        let average = (bytes / rows.len().max(1)).max(1);
        self.rows = (self.bytes / average * 3 / 2 + 8).min(self.most_rows);
    }
}

/// The last row of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Position {
    id: String,
    /// In an old table, where a row's mode is part of its name.
    mode: Option<String>,
}

impl Position {
    /// Reads the two columns behind those of [`Stored`].
    fn of(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            id: row.try_get(8)?,
            mode: row.try_get(9)?,
        })
    }

    /// `["id"]` or `["id","mode"]`.
    fn to_cursor(&self) -> Cursor {
        let parts: Vec<&String> = [&self.id].into_iter().chain(&self.mode).collect();
        // A list of strings always has a JSON form.
        Cursor(serde_json::to_string(&parts).unwrap_or_default())
    }

    fn from_cursor(cursor: &Cursor, server: &Server) -> Result<Self> {
        match serde_json::from_str::<Vec<String>>(&cursor.0).as_deref() {
            Ok([id]) => Ok(Self {
                id: id.clone(),
                mode: None,
            }),
            Ok([id, mode]) => Ok(Self {
                id: id.clone(),
                mode: Some(mode.clone()),
            }),
            _ => {
                let message = format!("`{}` is no position in {}", cursor.0, server.name());
                Err(Error::new(ErrorKind::Checkpoint, message)
                    .with_remedy("leave out --resume to begin anew"))
            }
        }
    }
}

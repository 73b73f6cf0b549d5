//! Reading all rows of a workspace in pages. [`super::position`] explains their order.

use std::{collections::VecDeque, sync::Arc};

use async_trait::async_trait;
use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    codec::entry_of,
    connection::Parameters,
    position::{HeapPosition, Horizon, KeyPosition, Position, RowId, RowName, TupleId},
    schema::Schema,
    source::{PgSource, READ},
};
use crate::{
    model::{Error, ErrorKind, Result, Selection},
    storage::{
        Cursor, Page, PageBuilder, PageLimit, PageReader,
        prefetch::Prefetch,
        window::{Passage, Window, WindowLimit},
    },
};

/// The most rows of one request in the order of keys.
const MOST_ROWS: usize = 1000;

/// The heap blocks of the first request, and the most of one: 64 MiB where each has 8 KiB. For one request, the server looks
/// at all rows of its blocks and sorts them, also those that do not fit into the answer.
const FIRST_BLOCKS: u32 = 64;
const MOST_BLOCKS: u32 = 1 << 13;

/// A range is read to its end unless that would take more than so many further requests.
const MOST_REQUESTS_OF_A_RANGE: u32 = 4;

/// How many rows are looked at at once for whether they were written since the horizon.
const STRETCH: i64 = 20_000;

/// The column after those of [`Stored`].
const PLACE: usize = 8;

/// A workspace is read along the heap if it has at least one row in so many of the table.
const LEAST_SHARE: f64 = 4.0;

/// How many ranges of a heap are read at the same time, at most, each on a connection of its own.
const MOST_RANGES: usize = 5;

/// Reads chunk after chunk.
struct Chunks {
    source: Arc<PgSource>,
    selection: Arc<Selection>,
    /// What to read next, once that is known.
    next: Next,
    size: ChunkSize,
    /// Consecutive ranges of the heap that are being read, from the next position on.
    ranges: VecDeque<Range>,
    window: Arc<Window>,
}

/// A range of the heap that is being read.
struct Range {
    from: HeapPosition,
    /// The block after it.
    end: u32,
    reading: AbortOnDropHandle<Result<Chunk>>,
}

enum Next {
    Start(Option<Cursor>),
    At(Position),
    End,
}

/// What one request read.
struct Chunk {
    rows: Vec<Row>,
    /// Where to read on; `None` at the end.
    next: Option<Position>,
    /// How much to ask for then.
    size: ChunkSize,
    /// Its part of what may be read ahead, until its rows are records.
    passage: Option<Passage>,
}

#[async_trait]
impl PageReader<(Position, Chunk)> for Chunks {
    /// The next chunk, with the position before it.
    async fn next_page(&mut self) -> Result<Option<(Position, Chunk)>> {
        let Some(schema) = self.source.schema().await? else {
            return Ok(None);
        };
        let from = match &self.next {
            Next::Start(cursor) => {
                self.source
                    .start(&schema, &self.selection, cursor.as_ref())
                    .await?
            }
            Next::At(position) => position.clone(),
            Next::End => return Ok(None),
        };
        let chunk = match &from {
            Position::Heap(from) => self.next_range(&schema, *from).await?,
            Position::Keys(from) => {
                let reading = self
                    .source
                    .read_keys(&schema, &self.selection, from.clone(), self.size);
                reading.await?
            }
        };
        self.size = chunk.size;
        self.next = chunk.next.clone().map_or(Next::End, Next::At);
        Ok(Some((from, chunk)))
    }
}

impl Chunks {
    /// Reads what follows a position in the heap, and prefetches what follows that: as many ranges as the
    /// distance takes.
    async fn next_range(&mut self, schema: &Arc<Schema>, from: HeapPosition) -> Result<Chunk> {
        if from.after.block >= from.blocks {
            return Ok(Chunk {
                rows: Vec::new(),
                next: self.source.behind_heap(schema, &self.selection, from).await?,
                size: self.size,
                passage: None,
            });
        }
        if self.ranges.front().is_none_or(|range| range.from != from) {
            self.ranges.clear();
            let passage = Arc::clone(&self.window).enter(self.size.range_bytes()).await;
            let end = from.after.block.saturating_add(self.size.blocks);
            self.begin_range(schema, from, end, passage);
        }
        while let Some(end) = self
            .ranges
            .back()
            .map(|range| range.end)
            .filter(|end| *end < from.blocks)
            && let Some(passage) = self.window.try_enter(self.size.range_bytes())
        {
            let after = TupleId::begin_of(end);
            let next_end = end.saturating_add(self.size.blocks);
            self.begin_range(schema, HeapPosition { after, ..from }, next_end, passage);
        }
        let Some(range) = self.ranges.front_mut() else {
            return Err(Error::new(ErrorKind::Internal, "no range of the heap is read"));
        };
        // If the call is cancelled, the next one finds it here.
        let chunk = match (&mut range.reading).await {
            Ok(chunk) => chunk,
            Err(error) => Err(Error::panicked("reading from PostgreSQL").caused_by(error)),
        };
        let end = range.end;
        self.ranges.pop_front();
        let chunk = chunk.inspect_err(|_| self.ranges.clear())?;
        if let Some(Position::Heap(next)) = chunk.next
            && next.after < TupleId::begin_of(end)
        {
            // The limit of bytes was reached.
            let rest = end.saturating_sub(next.after.block);
            if rest / MOST_REQUESTS_OF_A_RANGE > chunk.size.blocks {
                // The workspace has far more rows here than before, so this range and the following ones are too large.
                self.ranges.clear();
                return Ok(chunk);
            }
            // The rest comes before the following ranges.
            let passage = self.window.enter_anyway(self.size.range_bytes());
            self.begin_range(schema, next, end, passage);
            self.ranges.rotate_right(1);
        }
        Ok(chunk)
    }

    fn begin_range(&mut self, schema: &Arc<Schema>, from: HeapPosition, end: u32, mut passage: Passage) {
        let end = end.min(from.blocks);
        let size = ChunkSize {
            blocks: end.saturating_sub(from.after.block).max(1),
            ..self.size
        };
        let (source, schema) = (Arc::clone(&self.source), Arc::clone(schema));
        let selection = Arc::clone(&self.selection);
        let reading = tokio::spawn(async move {
            passage.send();
            let mut chunk = source.read_heap(&schema, &selection, from, size).await?;
            passage.answer();
            chunk.passage = Some(passage);
            Ok(chunk)
        });
        self.ranges.push_back(Range {
            from,
            end,
            reading: AbortOnDropHandle::new(reading),
        });
    }
}

/// Cuts chunks into pages. While the rows of one chunk become records, the next one is on its way.
pub(super) struct Scan {
    source: Arc<PgSource>,
    chunks: Prefetch<(Position, Chunk)>,
    /// After the last row that became a record.
    position: Position,
    rows: std::vec::IntoIter<Row>,
    /// That of the rows.
    passage: Option<Passage>,
    page: PageBuilder,
}

impl Scan {
    pub(super) fn new(
        source: Arc<PgSource>,
        selection: &Selection,
        limit: PageLimit,
        from: Option<Cursor>,
    ) -> Self {
        let chunks = Chunks {
            source: Arc::clone(&source),
            selection: Arc::new(selection.clone()),
            next: Next::Start(from),
            size: ChunkSize::new(limit),
            ranges: VecDeque::new(),
            window: Window::for_reading(WindowLimit {
                requests: MOST_RANGES,
                bytes: limit.ahead.get(),
            }),
        };
        Self {
            source,
            chunks: Prefetch::new("reading from PostgreSQL", chunks),
            position: Position::ALL_KEYS,
            rows: Vec::new().into_iter(),
            passage: None,
            page: PageBuilder::new(limit),
        }
    }

    fn take_page(&mut self) -> Page {
        self.page.take(Some(self.position.to_cursor()))
    }
}

#[async_trait]
impl PageReader for Scan {
    async fn next_page(&mut self) -> Result<Option<Page>> {
        loop {
            for row in self.rows.by_ref() {
                let entry = self.source.read(|| {
                    self.position.move_behind(&row)?;
                    entry_of(&row)
                })?;
                self.page.push(entry);
                if self.page.is_full() {
                    return Ok(Some(self.take_page()));
                }
            }
            // The next chunk may wait for this one's share.
            self.passage = None;
            let Some((from, chunk)) = self.chunks.next_page().await? else {
                return Ok((!self.page.is_empty()).then(|| self.take_page()));
            };
            self.position = from;
            self.passage = chunk.passage;
            match chunk.next {
                // Return a page even while the scan passes rows of other workspaces.
                Some(next) if chunk.rows.is_empty() => {
                    self.position = next;
                    return Ok(Some(self.take_page()));
                }
                _ => self.rows = chunk.rows.into_iter(),
            }
        }
    }
}

impl Position {
    /// Moves past a row that was read from here.
    fn move_behind(&mut self, row: &Row) -> Result<(), tokio_postgres::Error> {
        match self {
            Self::Heap(position) => position.after = row.try_get(PLACE)?,
            Self::Keys(position) => {
                position.after = Some(RowName::of(row)?);
            }
        }
        Ok(())
    }
}

impl RowName {
    /// Of a row that was read in the order of keys.
    fn of(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            id: row.try_get(PLACE)?,
            mode: row.try_get(PLACE + 1)?,
        })
    }
}

/// The heap at a moment, and the transactions.
struct Heap {
    file: u32,
    blocks: u32,
    /// Every transaction before it has ended.
    horizon: Horizon,
    /// Whether all transactions have ended that ever began.
    is_quiet: bool,
    /// Whether reading along it is faster than in the order of keys.
    is_worth_it: bool,
}

/// The requests of a scan. Each is independent, so that no transaction is open while a target is slow.
impl PgSource {
    /// Where to begin, or to go on.
    async fn start(
        &self,
        schema: &Schema,
        selection: &Selection,
        cursor: Option<&Cursor>,
    ) -> Result<Position> {
        let Some(cursor) = cursor else {
            return self.begin(schema, selection).await;
        };
        let position = Position::from_cursor(cursor, self.server())?;
        let is_valid = match &position {
            Position::Heap(from) => self.heap(schema).await?.is_some_and(|heap| heap.is_as_at(from)),
            Position::Keys(KeyPosition {
                since: Some(since), ..
            }) => self
                .heap(schema)
                .await?
                .is_some_and(|heap| since.is_near(heap.horizon)),
            Position::Keys(KeyPosition { since: None, .. }) => true,
        };
        if is_valid {
            return Ok(position);
        }
        self.begin_again(schema, selection).await
    }

    /// Where to begin. Reading along the heap passes over what other workspaces have in it.
    async fn begin(&self, schema: &Schema, selection: &Selection) -> Result<Position> {
        if !schema.has_places() || self.is_small() {
            return Ok(Position::ALL_KEYS);
        }
        let has_its_share = self.has_its_share(schema, selection);
        let looking = self.look_at_heap(schema, &has_its_share);
        // The first connection is in use when the others are opened. The second range does not wait for them.
        let (heap, ()) = futures::join!(looking, async {
            self.server().open_ahead(MOST_RANGES - 2);
        });
        let Some(heap) = heap?.filter(|heap| heap.is_worth_it) else {
            return Ok(Position::ALL_KEYS);
        };
        Ok(Position::Heap(HeapPosition {
            file: heap.file,
            blocks: heap.blocks,
            horizon: heap.horizon,
            after: TupleId::begin_of(0),
        }))
    }

    async fn begin_again(&self, schema: &Schema, selection: &Selection) -> Result<Position> {
        tracing::warn!(
            table = schema.table,
            "the table was rewritten (VACUUM FULL, CLUSTER) while it was read: reading restarts from the beginning"
        );
        self.begin(schema, selection).await
    }

    /// A condition: whether the workspace has enough of the table's rows. It is of `pg_class` as `c`, and its parameter `$2` is
    /// the workspace.
    fn has_its_share(&self, schema: &Schema, selection: &Selection) -> String {
        let table = &schema.table;
        let rows = match self.counted_rows(selection) {
            Some(rows) => format!("{rows}::float8"),
            None => format!("(SELECT count(*) FROM {table} t WHERE t.workspace = $2)"),
        };
        // A table that was never analyzed, as after a restore, has no known size: -1, or 0 before PostgreSQL 14.
        format!(
            "CASE WHEN c.reltuples > 0 THEN {rows} * {LEAST_SHARE} >= c.reltuples \
             ELSE coalesce((SELECT min(t.workspace) = $2 AND max(t.workspace) = $2 FROM {table} t), false) END"
        )
    }

    /// The current state of the heap; `None` if the server does not show it to this login, or cannot scan it by position.
    async fn heap(&self, schema: &Schema) -> Result<Option<Heap>> {
        self.look_at_heap(schema, "true").await
    }

    /// The same, and whether a condition of `pg_class` as `c` and the workspace as `$2` is met.
    async fn look_at_heap(&self, schema: &Schema, is_worth_it: &str) -> Result<Option<Heap>> {
        // The last column asks nothing, but needs what reading along the heap does.
        let sql = format!(
            "SELECT pg_catalog.pg_relation_filenode(c.oid), \
                    pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::bigint, \
                    pg_catalog.pg_snapshot_xmin(s.now)::text::bigint, \
                    pg_catalog.pg_snapshot_xmax(s.now)::text::bigint, \
                    {is_worth_it}, \
                    (SELECT count(pg_catalog.age(t.xmin)) FROM {table} t \
                     WHERE t.ctid > '(0,0)'::tid AND t.ctid < '(0,1)'::tid) \
             FROM pg_catalog.pg_class c, pg_catalog.pg_current_snapshot() s(now) \
             WHERE c.oid = pg_catalog.to_regclass($1)",
            table = schema.table
        );
        let parameters: Parameters<'_> = &[(&schema.table, Type::TEXT), (&self.workspace(), Type::TEXT)];
        let Some(rows) = self.server().ask_if_able(READ, &sql, parameters).await? else {
            return Ok(None);
        };
        let Some(row) = rows.first() else {
            let message = format!("the table {} no longer exists", schema.table);
            return Err(Error::new(ErrorKind::Server, message));
        };
        self.read(|| {
            let (blocks, xmin, xmax): (i64, i64, i64) = (row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
            Ok(Some(Heap {
                file: row.try_get(0)?,
                // A heap has fewer than 2³² blocks.
                blocks: u32::try_from(blocks).unwrap_or(u32::MAX),
                horizon: Horizon(xmin.unsigned_abs()),
                is_quiet: xmin == xmax,
                is_worth_it: row.try_get(4)?,
            }))
        })
    }

    /// Reads rows along the heap: about as many bytes as asked for.
    async fn read_heap(
        &self,
        schema: &Schema,
        selection: &Selection,
        from: HeapPosition,
        size: ChunkSize,
    ) -> Result<Chunk> {
        let end = from.after.block.saturating_add(size.blocks).min(from.blocks);
        // The inner query reads no long text, so that rows beyond the limit of bytes are not sent.
        let sql = format!(
            "SELECT {fields}, t.place, t.bytes_through >= $4 FROM ( \
               SELECT {columns}, t.ctid AS place, {bytes} AS bytes, \
                      sum({bytes}) OVER (ORDER BY t.ctid ROWS UNBOUNDED PRECEDING) AS bytes_through \
               FROM {table} t WHERE t.ctid > $2 AND t.ctid < $3 AND t.workspace = $1 \
                 AND NOT {is_new} AND {selected}{first} \
             ) t WHERE t.bytes_through - t.bytes < $4 ORDER BY t.place",
            fields = schema.fields(),
            columns = schema.read_columns(),
            bytes = schema.size(),
            table = schema.table,
            is_new = is_new(from.horizon),
            selected = schema.selected(selection),
            first = schema.first_of_its_key(),
        );
        let bytes = i64::try_from(size.range_bytes()).unwrap_or(i64::MAX);
        let parameters: Parameters<'_> = &[
            (&self.workspace(), Type::TEXT),
            (&from.after, Type::TID),
            (&TupleId::begin_of(end), Type::TID),
            (&bytes, Type::INT8),
        ];
        let rows = self.ask(&sql, parameters).await?;
        let last = self.read(|| {
            let last = rows.last();
            last.map(|row| {
                Ok((
                    row.try_get::<_, TupleId>(PLACE)?,
                    row.try_get::<_, bool>(PLACE + 1)?,
                ))
            })
            .transpose()
        })?;
        let after = match last {
            Some((place, true)) => place,
            _ => TupleId::begin_of(end),
        };
        let passed = (after.block - from.after.block).max(1);
        Ok(Chunk {
            size: size.after_blocks(passed, &rows),
            rows,
            next: Some(Position::Heap(HeapPosition { after, ..from })),
            passage: None,
        })
    }

    /// Where to go on when the heap was read to its end.
    async fn behind_heap(
        &self,
        schema: &Schema,
        selection: &Selection,
        read: HeapPosition,
    ) -> Result<Option<Position>> {
        let Some(heap) = self.heap(schema).await?.filter(|heap| heap.is_as_at(&read)) else {
            return self.begin_again(schema, selection).await.map(Some);
        };
        if heap.is_quiet && heap.horizon == read.horizon {
            return Ok(None);
        }
        Ok(Some(Position::Keys(KeyPosition {
            since: Some(read.horizon),
            after: None,
            until: None,
        })))
    }

    /// Reads rows in the order of keys: no more than a number of them, nor of bytes.
    async fn read_keys(
        &self,
        schema: &Schema,
        selection: &Selection,
        from: KeyPosition,
        size: ChunkSize,
    ) -> Result<Chunk> {
        let KeyPosition { since, after, until } = from;
        if let (Some(since), None) = (since, &until) {
            return self.find_stretch(schema, since, after, size).await;
        }
        let order = if schema.has_mode() { "t.id, t.mode" } else { "t.id" };
        let mode = if schema.has_mode() {
            "t.mode::text"
        } else {
            "NULL::text"
        };
        let (workspace, rows, bytes) = (self.workspace(), size.rows(), size.bytes());
        let mut parameters: Vec<(&(dyn ToSql + Sync), Type)> = vec![
            (&workspace, Type::TEXT),
            (&rows, Type::INT8),
            (&bytes, Type::INT8),
        ];
        let mut wanted = condition_after(after.as_ref(), &mut parameters);
        if let Some(until) = &until {
            parameters.push((until, Type::TEXT));
            wanted += &format!(" AND t.id <= ${}", parameters.len());
        }
        if let Some(since) = since {
            wanted += &format!(" AND {}", is_new(since));
        }
        // The inner query reads no long text: rows beyond the limit of bytes cost an index entry each and are not sent
        // to the client.
        let sql = format!(
            "SELECT {fields}, t.id::text, {mode} FROM ( \
               SELECT {columns}, sum({bytes}) OVER (ORDER BY {order} ROWS UNBOUNDED PRECEDING) - {bytes} AS bytes_before \
               FROM (SELECT {columns} FROM {table} t WHERE t.workspace = $1{wanted} AND {selected}{first} \
                     ORDER BY {order} LIMIT $2) t \
             ) t WHERE t.bytes_before < $3 ORDER BY {order}",
            fields = schema.fields(),
            columns = schema.read_columns(),
            bytes = schema.size(),
            table = schema.table,
            selected = schema.selected(selection),
            first = schema.first_of_its_key(),
        );
        let rows = self.ask(&sql, &parameters).await?;
        // Neither the number nor the bytes ended it, by far.
        let is_all = rows.len() < size.rows && bytes_of(&rows) < size.bytes / 4;
        let last = rows.last().filter(|_| !is_all);
        let last = last.map(|last| self.read(|| RowName::of(last))).transpose()?;
        Ok(Chunk {
            size: size.after_rows(&rows),
            next: after_keys(last, since, until).map(Position::Keys),
            rows,
            passage: None,
        })
    }

    /// Looks at the next rows in the order of keys for one that was written since the horizon. Such rows are few as a
    /// rule, and to read on to the next could take longer than a request may.
    async fn find_stretch(
        &self,
        schema: &Schema,
        since: Horizon,
        after: Option<RowName>,
        size: ChunkSize,
    ) -> Result<Chunk> {
        let workspace = self.workspace();
        let mut parameters: Vec<(&(dyn ToSql + Sync), Type)> = vec![(&workspace, Type::TEXT)];
        let condition = condition_after(after.as_ref(), &mut parameters);
        let sql = format!(
            "SELECT max(t.id)::text, coalesce(bool_or({is_new}), false) FROM ( \
               SELECT t.id, t.xmin FROM {table} t WHERE t.workspace = $1{condition} ORDER BY t.id LIMIT {STRETCH} \
             ) t",
            table = schema.table,
            is_new = is_new(since),
        );
        let rows = self.ask(&sql, &parameters).await?;
        let (last, any_new): (Option<RowId>, bool) = self.read(|| match rows.first() {
            Some(row) => Ok((row.try_get(0)?, row.try_get(1)?)),
            None => Ok((None, false)),
        })?;
        let next = last.map(|last| {
            let (after, until) = if any_new {
                (after, Some(last))
            } else {
                let passed = RowName { id: last, mode: None };
                (Some(passed), None)
            };
            Position::Keys(KeyPosition {
                since: Some(since),
                after,
                until,
            })
        });
        Ok(Chunk {
            rows: Vec::new(),
            next,
            size,
            passage: None,
        })
    }

    /// Asks the server, which plans anew each time: a plan for any place in the heap would be one for none.
    async fn ask(&self, sql: &str, parameters: Parameters<'_>) -> Result<Vec<Row>> {
        self.server().ask(READ, sql, parameters).await
    }

    /// Reads something out of rows.
    fn read<T>(&self, read: impl FnOnce() -> Result<T, tokio_postgres::Error>) -> Result<T> {
        self.server().read(READ, read)
    }
}

impl Heap {
    /// Whether a position in it is still valid.
    fn is_as_at(&self, position: &HeapPosition) -> bool {
        self.file == position.file && position.horizon.is_near(self.horizon)
    }
}

/// Whether a row `t` was written at the horizon or later, as SQL.
fn is_new(horizon: Horizon) -> String {
    format!(
        "pg_catalog.age(t.xmin) <= pg_catalog.age('{}'::xid)",
        horizon.xid()
    )
}

/// The condition for rows `t` after one in the order of keys, as SQL that starts with `AND`: in the column's own
/// order, which is the index's, whatever collation it has.
fn condition_after<'a>(
    after: Option<&'a RowName>,
    parameters: &mut Vec<(&'a (dyn ToSql + Sync), Type)>,
) -> String {
    let Some(RowName { id, mode }) = after else {
        return String::new();
    };
    parameters.push((id, Type::TEXT));
    let number = parameters.len();
    match mode {
        None => format!(" AND t.id > ${number}"),
        Some(mode) => {
            parameters.push((mode, Type::TEXT));
            format!(" AND (t.id, t.mode) > (${number}, ${})", number + 1)
        }
    }
}

/// How much the next request asks for.
#[derive(Clone, Copy, Debug)]
struct ChunkSize {
    bytes: usize,
    most_rows: usize,
    /// In the order of keys.
    rows: usize,
    /// Along the heap.
    blocks: u32,
}

impl ChunkSize {
    fn new(limit: PageLimit) -> Self {
        let most_rows = limit.records.get().min(MOST_ROWS);
        Self {
            // One chunk is on its way, and one becomes records.
            bytes: limit.ahead.get() / 2,
            most_rows,
            rows: most_rows,
            blocks: FIRST_BLOCKS,
        }
    }

    /// Of one range of a heap: all of them together are what may be read ahead.
    fn range_bytes(self) -> usize {
        (self.bytes * 2 / MOST_RANGES).max(1)
    }

    fn bytes(self) -> i64 {
        i64::try_from(self.bytes).unwrap_or(i64::MAX)
    }

    fn rows(self) -> i64 {
        i64::try_from(self.rows).unwrap_or(i64::MAX)
    }

    /// Asks for about as many rows as will fit, by the size of those that came.
    fn after_rows(self, rows: &[Row]) -> Self {
        let average = (bytes_of(rows) / rows.len().max(1)).max(1);
        Self {
            rows: (self.bytes / average * 3 / 2 + 8).min(self.most_rows),
            ..self
        }
    }

    /// Asks for about as many blocks as will nearly fill a chunk, by what came out of those that were passed.
    fn after_blocks(self, passed: u32, rows: &[Row]) -> Self {
        let filling = self.range_bytes() as f64 * f64::from(passed) * 0.8 / bytes_of(rows).max(1) as f64;
        let most = self.blocks.max(FIRST_BLOCKS).saturating_mul(4).min(MOST_BLOCKS);
        Self {
            blocks: (filling as u32).clamp(1, most),
            ..self
        }
    }
}

/// Where to go on in the order of keys after a chunk: after its last row unless it was all there was, then beyond the
/// stretch that it was limited to.
fn after_keys(last: Option<RowName>, since: Option<Horizon>, until: Option<RowId>) -> Option<KeyPosition> {
    let (after, until) = match (last, until) {
        (Some(last), until) => (last, until),
        (None, until) => (
            RowName {
                id: until?,
                mode: None,
            },
            None,
        ),
    };
    Some(KeyPosition {
        since,
        after: Some(after),
        until,
    })
}

fn bytes_of(rows: &[Row]) -> usize {
    rows.iter().map(Row::raw_size_bytes).sum()
}

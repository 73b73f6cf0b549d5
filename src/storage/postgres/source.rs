//! A workspace's rows: how many there are, all of them, and some by key.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use tokio::sync::OnceCell;
use tokio_postgres::types::{ToSql, Type};

use super::{
    codec::entry_of,
    connection::{Phase, Purpose, Server},
    counts::{CountsAhead, KindCount, count_kinds},
    scan::Scan,
    schema::Schema,
    writability::Guards,
};
use crate::{
    model::{Result, Selection, Side, Workspace, record::CacheKey},
    storage::{Count, Cursor, Entry, PageLimit, PageReader, Progress, Source, prefetch::Prefetch},
};

/// What nearly every request of a source is for.
pub(super) const READ: Purpose = Purpose::new(Phase::Reading, "read records");

/// A workspace of fewer rows is read in the order of keys: what it takes to read along the heap is not worth it.
const SMALL_ROWS: u64 = 1000;

/// LightRAG's name for the empty workspace in this storage. Both names refer to the same rows.
pub(super) const EMPTY_WORKSPACE: &str = "default";

/// What LightRAG puts in the column `workspace`.
pub(super) fn stored_name(workspace: &Workspace) -> &str {
    match workspace.name() {
        "" => EMPTY_WORKSPACE,
        name => name,
    }
}

/// What is found out of the table once for all workspaces of a connection.
#[derive(Default)]
pub(super) struct TableFacts {
    /// As it was first seen; `None` if there was none.
    seen: OnceCell<Option<Arc<Schema>>>,
    /// The server by its own name, and the table with its schema.
    pub(super) place: OnceCell<(String, String)>,
    /// Whether it can be written to, with its schema if it was there.
    pub(super) writable: OnceCell<Option<Arc<Schema>>>,
    /// As it is since everything is there that writing needs.
    pub(super) prepared: OnceCell<Arc<Schema>>,
    /// What may keep a record out without a word.
    pub(super) guards: OnceCell<Guards>,
    /// The workspaces that are about to be counted.
    pub(super) counts: CountsAhead,
}

impl TableFacts {
    /// What the table looks like: as it was prepared, or as it was first seen. Only preparing creates or changes it, so it is
    /// not looked up again, even if there is none.
    pub(super) async fn schema(&self, server: &Server) -> Result<Option<Arc<Schema>>> {
        if self.prepared.get().is_none() {
            let looking_up = || async { Schema::look_up(server).await.map(|found| found.map(Arc::new)) };
            self.seen.get_or_try_init(looking_up).await?;
        }
        Ok(self.known().cloned())
    }

    /// The same, if it was looked up.
    pub(super) fn known(&self) -> Option<&Arc<Schema>> {
        self.prepared.get().or_else(|| self.seen.get()?.as_ref())
    }
}

/// A workspace's rows, to read.
pub(super) struct PgSource {
    server: Arc<Server>,
    /// The name in the column.
    workspace: String,
    table: Arc<TableFacts>,
    /// The table with what is known of the ids in the workspace. Of a source alone.
    schema: OnceCell<Arc<Schema>>,
    /// How many rows it had when they were counted.
    counted: AtomicU64,
}

impl PgSource {
    pub(super) fn new(server: Arc<Server>, table: Arc<TableFacts>, workspace: &Workspace) -> Self {
        Self {
            server,
            workspace: stored_name(workspace).to_owned(),
            table,
            schema: OnceCell::new(),
            counted: AtomicU64::new(u64::MAX),
        }
    }

    /// What is the same for every workspace.
    pub(super) fn table(&self) -> &TableFacts {
        &self.table
    }

    /// Whether one request reads everything, according to the count.
    pub(super) fn is_small(&self) -> bool {
        self.counted.load(Ordering::Relaxed) <= SMALL_ROWS
    }

    /// How many rows the whole workspace had, if they were counted.
    pub(super) fn counted_rows(&self, selection: &Selection) -> Option<u64> {
        let counted = self.counted.load(Ordering::Relaxed);
        (counted != u64::MAX && selection.shard().is_none()).then_some(counted)
    }

    pub(super) fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// The workspace as stored in the column.
    pub(super) fn workspace(&self) -> &str {
        &self.workspace
    }

    /// What the table looks like; `None` if there is none.
    pub(super) async fn schema(&self) -> Result<Option<Arc<Schema>>> {
        match self.table.schema(&self.server).await? {
            Some(table) => self.with_ids(table).await.map(Some),
            None => Ok(None),
        }
    }

    /// The table with what is known of the ids in the workspace.
    async fn with_ids(&self, table: Arc<Schema>) -> Result<Arc<Schema>> {
        // What LightRAG does not find at a target is not there.
        if self.server.side() == Side::Target {
            return Ok(table);
        }
        let schema = self.schema.get_or_try_init(|| self.look_for_bare_ids(table));
        schema.await.cloned()
    }

    async fn look_for_bare_ids(&self, mut table: Arc<Schema>) -> Result<Arc<Schema>> {
        Arc::make_mut(&mut table)
            .look_for_bare_ids(&self.server, &self.workspace)
            .await?;
        Ok(table)
    }

    /// Counts all rows of a source. This shows whether it may have ids of an old layout, which have no colon: without such an
    /// id, they need not be looked for.
    async fn count_source(&self, selection: &Selection, table: Arc<Schema>) -> Result<Vec<KindCount>> {
        let schema = Arc::clone(self.schema.get().unwrap_or(&table));
        let kinds = self.count_kinds(selection, &schema).await?;
        if kinds.iter().all(|kind| kind.key.contains(':')) {
            // Unless they were looked for meanwhile.
            let _ = self.schema.set(table);
            return Ok(kinds);
        }
        let with_ids = self.with_ids(table).await?;
        match with_ids.has_old_ids() == schema.has_old_ids() {
            true => Ok(kinds),
            false => self.count_kinds(selection, &with_ids).await,
        }
    }

    /// Counts the rows of each kind, in the shard that is selected.
    async fn count_kinds(&self, selection: &Selection, schema: &Schema) -> Result<Vec<KindCount>> {
        let ahead = self.table.counts.take(&self.workspace);
        if let Some(counts) = ahead.filter(|_| selection.shard().is_none() && !schema.has_old_ids()) {
            return counts.of(&self.workspace, &self.server, selection, schema).await;
        }
        let counted = count_kinds(&[&self.workspace], &self.server, selection, schema).await?;
        Ok(counted.into_values().next().unwrap_or_default())
    }
}

#[async_trait]
impl Source for PgSource {
    async fn count(&self, selection: &Selection, _: Progress<'_>) -> Result<Count> {
        let Some(table) = self.table.schema(&self.server).await? else {
            return Ok(Count::none());
        };
        // Ids of an old layout matter in the rest of the workspace too, of which a shard shows nothing.
        let kinds = match selection.shard() {
            None if self.server.side() == Side::Source => self.count_source(selection, table).await?,
            _ => {
                let schema = self.with_ids(table).await?;
                self.count_kinds(selection, &schema).await?
            }
        };
        let (mut count, mut all) = (Count::none(), 0);
        for KindCount { key, records } in &kinds {
            count.add_kind(selection, key, *records);
            all += records;
        }
        self.counted.store(all, Ordering::Relaxed);
        Ok(count)
    }

    fn scan(
        self: Arc<Self>,
        selection: &Selection,
        limit: PageLimit,
        from: Option<Cursor>,
    ) -> Box<dyn PageReader> {
        self.table.counts.forget(&self.workspace);
        let scan = Scan::new(self, selection, limit, from);
        Box::new(Prefetch::new("taking records out of rows of PostgreSQL", scan))
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
        let old_ids: Vec<&str> = match schema.has_old_ids() {
            true => wanted().filter_map(|key| key.splitn(3, ':').nth(2)).collect(),
            false => Vec::new(),
        };
        let sql = format!(
            "SELECT {fields} FROM {table} t WHERE t.workspace = $1 AND {has_key}{first}",
            fields = schema.fields(),
            table = schema.table,
            has_key = schema.has_key(),
            first = schema.first_of_its_key(),
        );
        let mut parameters: Vec<(&(dyn ToSql + Sync), Type)> =
            vec![(&self.workspace, Type::TEXT), (&ids, Type::TEXT_ARRAY)];
        if schema.has_old_ids() {
            parameters.push((&old_ids, Type::TEXT_ARRAY));
        }
        let rows = self.server.ask(READ, &sql, &parameters).await?;
        let found = self.server.read(READ, || {
            let mut found = HashMap::with_capacity(rows.len());
            for row in &rows {
                let entry = entry_of(row)?;
                found.insert(entry.key().clone(), entry);
            }
            Ok(found)
        })?;
        Ok(keys.iter().map(|key| found.get(key).cloned()).collect())
    }

    async fn contains(&self, keys: &[CacheKey]) -> Result<Vec<bool>> {
        let Some(schema) = self.schema().await? else {
            return Ok(vec![false; keys.len()]);
        };
        if schema.has_old_ids() {
            let found = self.get_many(keys).await?;
            return Ok(found.iter().map(Option::is_some).collect());
        }
        // No row has a NUL in its id, and the server would not even read such a question.
        let ids: Vec<&str> = keys
            .iter()
            .map(CacheKey::as_str)
            .filter(|key| !key.contains('\0'))
            .collect();
        let sql = format!(
            "SELECT t.id::text FROM {table} t WHERE t.workspace = $1 AND t.id = ANY($2)",
            table = schema.table
        );
        let parameters: [(&(dyn ToSql + Sync), Type); 2] =
            [(&self.workspace, Type::TEXT), (&ids, Type::TEXT_ARRAY)];
        let rows = self.server.ask(READ, &sql, &parameters).await?;
        let there: HashSet<&str> = self.server.read(READ, || {
            rows.iter().map(|row| row.try_get::<_, &str>(0)).collect()
        })?;
        Ok(keys.iter().map(|key| there.contains(key.as_str())).collect())
    }

    fn warnings(&self) -> Vec<String> {
        let schema = self.schema.get().or_else(|| self.table.known());
        schema.and_then(|schema| schema.warning()).into_iter().collect()
    }
}

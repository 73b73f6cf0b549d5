//! A workspace's rows: how many there are, all of them, and some by key.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use futures::TryStreamExt;
use tokio::sync::OnceCell;
use tokio_postgres::types::ToSql;

use super::{
    codec::Stored,
    connection::{Phase, Server},
    scan::Scan,
    schema::Schema,
};
use crate::{
    model::{CacheType, Result, Selection, Workspace, record::CacheKey},
    storage::{Count, Cursor, Entry, PageLimit, PageStream, Progress, Source, prefetch::Prefetch},
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
        Prefetch::new(Scan::new(self, selection, limit, from)).into_stream()
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

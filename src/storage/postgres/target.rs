//! Writing rows.

use std::{borrow::Cow, collections::HashSet, sync::Arc, time::SystemTime};

use async_trait::async_trait;
use deadpool_postgres::{Client, GenericClient};
use tokio_postgres::{error::SqlState, types::ToSql};

use super::{
    codec::{Columns, Limits, columns},
    connection::{Phase, Server},
    schema::{ADDED_COLUMNS, CREATE_TABLE, INDEXES, Schema, TABLE},
    source::PgSource,
};
use crate::{
    model::{
        Error, ErrorKind, Result,
        record::{OnInvalid, Record},
    },
    storage::{Source, Target, WriteMode, WriteOutcome},
};

/// The most rows of a statement: more are no faster.
const STATEMENT_ROWS: usize = 1000;

/// The bytes of records at which a statement ends: server and driver hold it as a whole, several times over.
const STATEMENT_BYTES: usize = 8 << 20;

/// A workspace's rows, to read and write.
pub(super) struct PgTarget {
    source: Arc<PgSource>,
    on_invalid: OnInvalid,
}

impl PgTarget {
    pub(super) fn new(source: PgSource, on_invalid: OnInvalid) -> Self {
        Self {
            source: Arc::new(source),
            on_invalid,
        }
    }

    fn server(&self) -> &Server {
        self.source.server()
    }
}

#[async_trait]
impl Target for PgTarget {
    fn reader(&self) -> Arc<dyn Source> {
        Arc::clone(&self.source) as Arc<dyn Source>
    }

    async fn prepare(&self) -> Result<()> {
        let server = self.server();
        let mut client = server.client().await?;
        check_writable(server, &client).await?;
        // Looked up anew, and not kept: columns may be added to it.
        let schema = match Schema::look_up(server, &client).await? {
            Some(schema) => schema,
            None => create_table(server, &client).await?,
        };
        self.check_workspace(&schema)?;
        check_permissions(server, &client, &schema).await?;
        check_layout(server, &schema)?;
        check_key(server, &client, &schema).await?;
        add_columns(server, &mut client, &schema).await?;
        add_indexes(server, &client, &schema).await
    }

    async fn write(&self, batch: &[Record], mode: WriteMode) -> Result<Vec<WriteOutcome>> {
        let Some(schema) = self.source.schema().await? else {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("{}: the table {TABLE} is gone", self.server().name()),
            ));
        };
        let limits = schema.limits();
        let mut outcomes = Vec::with_capacity(batch.len());
        let mut statements = vec![Rows::default()];
        for record in batch {
            match columns(record, limits, self.on_invalid) {
                Err(rejected) => outcomes.push(rejected),
                Ok((columns, changes)) => {
                    if statements.last().is_none_or(Rows::is_full) {
                        statements.push(Rows::default());
                    }
                    if let Some(rows) = statements.last_mut() {
                        rows.push(record, columns);
                    }
                    outcomes.push(WriteOutcome::Written(changes));
                }
            }
        }
        statements.retain(|rows| !rows.ids.is_empty());
        let sql = match mode {
            WriteMode::Upsert => upsert(&schema.table),
            WriteMode::Create => create(&schema.table),
        };
        let created = self.execute(&sql, &statements).await?;
        if mode == WriteMode::Create {
            let created: HashSet<&str> = created.iter().map(String::as_str).collect();
            for (record, outcome) in batch.iter().zip(&mut outcomes) {
                if matches!(outcome, WriteOutcome::Written(_)) && !created.contains(record.key().as_str()) {
                    *outcome = WriteOutcome::Exists;
                }
            }
        }
        Ok(outcomes)
    }

    fn preview(&self, record: &Record) -> WriteOutcome {
        let limits = self
            .source
            .known_schema()
            .map_or(Limits::LIGHTRAG, Schema::limits);
        match columns(record, limits, self.on_invalid) {
            Ok((_, changes)) => WriteOutcome::Written(changes),
            Err(rejected) => rejected,
        }
    }

    /// Every write was answered after its commit, and a commit is answered when it is on the disk.
    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn finish(&self) -> Result<()> {
        Ok(())
    }
}

impl PgTarget {
    /// Sends statements: all of them take effect, or none. The ids that they return.
    async fn execute(&self, sql: &str, statements: &[Rows<'_>]) -> Result<Vec<String>> {
        if statements.is_empty() {
            return Ok(Vec::new());
        }
        let mut client = self.server().client().await?;
        let workspace = self.source.workspace();
        let executing = async {
            let mut returned = Vec::new();
            match statements {
                [rows] => rows.send(&client, sql, workspace, &mut returned).await?,
                several => {
                    let transaction = client.transaction().await?;
                    for rows in several {
                        rows.send(&transaction, sql, workspace, &mut returned).await?;
                    }
                    transaction.commit().await?;
                }
            }
            Ok(returned)
        };
        match executing.await {
            Ok(returned) => Ok(returned),
            Err(error) => {
                let failed = self
                    .server()
                    .failed_on(client, Phase::Writing, "write records", error);
                Err(failed)
            }
        }
    }

    fn check_workspace(&self, schema: &Schema) -> Result<()> {
        let name = self.source.workspace();
        let characters = name.chars().count();
        match schema.workspace_limit() {
            Some(limit) if characters > limit => Err(Error::new(
                ErrorKind::Refused,
                format!(
                    "the workspace's name has {characters} characters; PostgreSQL's column holds {limit}"
                ),
            )
            .with_remedy("map the workspace to a shorter name (--workspace-map FROM=TO)")),
            _ => Ok(()),
        }
    }
}

/// The rows of one statement, column by column.
#[derive(Debug, Default)]
struct Rows<'a> {
    ids: Vec<&'a str>,
    original_prompts: Vec<Option<Cow<'a, str>>>,
    return_values: Vec<Option<Cow<'a, str>>>,
    chunk_ids: Vec<Option<Cow<'a, str>>>,
    cache_types: Vec<Option<Cow<'a, str>>>,
    queryparams: Vec<Option<Cow<'a, str>>>,
    create_times: Vec<SystemTime>,
    update_times: Vec<SystemTime>,
    bytes: usize,
}

impl<'a> Rows<'a> {
    fn push(&mut self, record: &'a Record, columns: Columns<'a>) {
        self.bytes += record.size();
        self.ids.push(record.key().as_str());
        self.original_prompts.push(columns.original_prompt);
        self.return_values.push(columns.return_value);
        self.chunk_ids.push(columns.chunk_id);
        self.cache_types.push(columns.cache_type);
        self.queryparams.push(columns.queryparam);
        self.create_times.push(columns.create_time);
        self.update_times.push(columns.update_time);
    }

    fn is_full(&self) -> bool {
        self.ids.len() >= STATEMENT_ROWS || self.bytes >= STATEMENT_BYTES
    }

    async fn send(
        &self,
        client: &impl GenericClient,
        sql: &str,
        workspace: &str,
        returned: &mut Vec<String>,
    ) -> Result<(), tokio_postgres::Error> {
        let statement = client.prepare_cached(sql).await?;
        let parameters: [&(dyn ToSql + Sync); 9] = [
            &workspace,
            &self.ids,
            &self.original_prompts,
            &self.return_values,
            &self.chunk_ids,
            &self.cache_types,
            &self.queryparams,
            &self.create_times,
            &self.update_times,
        ];
        for row in client.query(&statement, &parameters).await? {
            returned.push(row.try_get(0)?);
        }
        Ok(())
    }
}

/// The columns of a row beside its key, in the order in which they are written.
const COLUMNS: &str =
    "original_prompt, return_value, chunk_id, cache_type, queryparam, create_time, update_time";

fn insert(table: &str) -> String {
    format!(
        "INSERT INTO {table} AS kept (workspace, id, {COLUMNS}) \
         SELECT $1, r.id, r.original_prompt, r.return_value, r.chunk_id, r.cache_type, r.queryparam::jsonb, \
                r.create_time, r.update_time \
         FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], \
                     $8::timestamp[], $9::timestamp[]) AS r(id, {COLUMNS}) \
         ON CONFLICT (workspace, id) DO "
    )
}

/// Rows that are there already as they are to be are not written again, which makes a second run a fast one.
fn upsert(table: &str) -> String {
    let of = |row: &str| {
        let columns = COLUMNS.split(", ").map(|column| format!("{row}.{column}"));
        columns.collect::<Vec<_>>().join(", ")
    };
    let (kept, excluded) = (of("kept"), of("excluded"));
    format!(
        "{}UPDATE SET ({COLUMNS}) = ROW({excluded}) WHERE ({kept}) IS DISTINCT FROM ({excluded})",
        insert(table)
    )
}

fn create(table: &str) -> String {
    format!("{}NOTHING RETURNING kept.id::text", insert(table))
}

async fn check_writable(server: &Server, client: &Client) -> Result<()> {
    let row = client
        .query_one(
            "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('transaction_read_only') = 'on'",
            &[],
        )
        .await;
    let read = row.and_then(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
    let (standby, read_only): (bool, bool) =
        read.map_err(|error| server.failed(Phase::Preparing, "ask for the server's state", error))?;
    if standby {
        let message = format!("{} is a standby, which cannot be written to", server.name());
        return Err(Error::new(ErrorKind::Refused, message).with_remedy(
            "name the primary server; with several hosts, add target_session_attrs=read-write",
        ));
    }
    if read_only {
        let message = format!("{} opens sessions that cannot write", server.name());
        return Err(Error::new(ErrorKind::Refused, message)
            .with_remedy("lift default_transaction_read_only for the server, the database or the role"));
    }
    Ok(())
}

/// Makes the table as LightRAG does. Another process may do the same at this moment.
async fn create_table(server: &Server, client: &Client) -> Result<Schema> {
    make(server, client, CREATE_TABLE, "make the table").await?;
    Schema::look_up(server, client).await?.ok_or_else(|| {
        Error::new(
            ErrorKind::NotFound,
            format!("{}: the table {TABLE} was made and is not there", server.name()),
        )
        .with_remedy("check search_path")
    })
}

/// Runs a statement that makes something; that somebody else has made it meanwhile is as good.
async fn make(server: &Server, client: &Client, sql: &str, doing: &str) -> Result<()> {
    match client.batch_execute(sql).await {
        Err(error) if !is_there_already(&error) => Err(server.failed(Phase::Preparing, doing, error)),
        _ => Ok(()),
    }
}

/// `IF NOT EXISTS` does not keep two processes from making the same thing at the same time: the slower one then
/// meets the other's entry in a catalog.
fn is_there_already(error: &tokio_postgres::Error) -> bool {
    [
        SqlState::DUPLICATE_TABLE,
        SqlState::DUPLICATE_OBJECT,
        SqlState::UNIQUE_VIOLATION,
    ]
    .iter()
    .any(|state| error.code() == Some(state))
}

async fn check_permissions(server: &Server, client: &Client, schema: &Schema) -> Result<()> {
    for privilege in ["SELECT", "INSERT", "UPDATE"] {
        let row = client
            .query_one(
                "SELECT pg_catalog.has_table_privilege($1, $2)",
                &[&schema.table, &privilege],
            )
            .await;
        let granted: bool = row
            .and_then(|row| row.try_get(0))
            .map_err(|error| server.failed(Phase::Preparing, "ask for permissions", error))?;
        if !granted {
            let (name, table) = (server.name(), &schema.table);
            let message = format!("{name}: the login may not {privilege} on {table}");
            let remedy =
                format!("GRANT SELECT, INSERT, UPDATE ON {table} TO the login, or use another login");
            return Err(Error::new(ErrorKind::Permission, message).with_remedy(remedy));
        }
    }
    Ok(())
}

/// Keys of a table with modes change when LightRAG brings it up to date, which nobody else should do.
fn check_layout(server: &Server, schema: &Schema) -> Result<()> {
    if !schema.has_mode() {
        return Ok(());
    }
    let message = format!(
        "{}: the table {} is of an older LightRAG, with a column `mode`",
        server.name(),
        schema.table
    );
    Err(Error::new(ErrorKind::Refused, message)
        .with_remedy("start LightRAG once on it, which brings the table up to date"))
}

/// Adds the columns that an old table lacks, as LightRAG does when it starts: with them there, it would not fill in
/// the type of old rows any more, so this does.
async fn add_columns(server: &Server, client: &mut Client, schema: &Schema) -> Result<()> {
    let missing = || ADDED_COLUMNS.iter().filter(|(name, _)| !schema.has(name));
    if missing().next().is_none() {
        return Ok(());
    }
    let table = &schema.table;
    let mut sql = "SET LOCAL statement_timeout = 0;".to_owned();
    for (name, sql_type) in missing() {
        sql.push_str(&format!(
            "ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {name} {sql_type};"
        ));
    }
    if !schema.has("cache_type") {
        sql.push_str(&format!(
            "UPDATE {table} SET cache_type = CASE WHEN id COLLATE \"C\" ~ '^[^:]+:[^:]+:' \
             THEN left(split_part(id COLLATE \"C\", ':', 2), 32) ELSE 'extract' END WHERE cache_type IS NULL;"
        ));
    }
    let adding = async {
        let transaction = client.transaction().await?;
        transaction.batch_execute(&sql).await?;
        transaction.commit().await
    };
    adding.await.map_err(|error| {
        let failed = server.failed(Phase::Preparing, "add the columns that an old table lacks", error);
        match failed.kind() {
            ErrorKind::Permission => {
                failed.with_remedy("use the login that owns the table, or start LightRAG once on it")
            }
            _ => failed,
        }
    })
}

/// Makes LightRAG's indexes where they are missing and the login may make them; LightRAG makes them otherwise.
async fn add_indexes(server: &Server, client: &Client, schema: &Schema) -> Result<()> {
    let failed = |error| server.failed(Phase::Preparing, "look at the indexes", error);
    let rows = client
        .query(
            "SELECT i.relname::text FROM pg_catalog.pg_class c
             JOIN pg_catalog.pg_index x ON x.indrelid = c.oid
             JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
             WHERE c.oid = $1::text::regclass
             UNION ALL
             SELECT NULL FROM pg_catalog.pg_class c
             WHERE c.oid = $1::text::regclass AND NOT pg_catalog.pg_has_role(c.relowner, 'USAGE')",
            &[&schema.table],
        )
        .await
        .map_err(failed)?;
    let found: Vec<Option<String>> = rows
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    if found.contains(&None) {
        return Ok(());
    }
    for (name, columns) in INDEXES {
        if !found.iter().flatten().any(|found| found == name) {
            let sql = format!(
                "CREATE INDEX IF NOT EXISTS {name} ON {} ({columns})",
                schema.table
            );
            make(server, client, &sql, "make an index").await?;
        }
    }
    Ok(())
}

/// Without a unique (workspace, id) there is no telling which row a record is.
async fn check_key(server: &Server, client: &Client, schema: &Schema) -> Result<()> {
    let found = client
        .query_opt(
            "SELECT 1 FROM pg_catalog.pg_index x
             WHERE x.indrelid = $1::text::regclass AND x.indisunique AND x.indisvalid AND x.indimmediate
               AND x.indpred IS NULL AND x.indexprs IS NULL AND x.indnkeyatts = 2
               AND (SELECT array_agg(a.attname::text ORDER BY a.attname::text COLLATE \"C\")
                    FROM pg_catalog.pg_attribute a
                    WHERE a.attrelid = x.indrelid AND a.attnum = ANY((x.indkey::int2[])[0:1]))
                   = ARRAY['id', 'workspace']
             LIMIT 1",
            &[&schema.table],
        )
        .await
        .map_err(|error| server.failed(Phase::Preparing, "look at the primary key", error))?;
    if found.is_some() {
        return Ok(());
    }
    let (name, table) = (server.name(), &schema.table);
    let message = format!("{name}: the table {table} has no primary key (workspace, id)");
    let remedy = format!(
        "remove double rows, then: ALTER TABLE {table} ADD CONSTRAINT LIGHTRAG_LLM_CACHE_PK PRIMARY KEY (workspace, id)"
    );
    Err(Error::new(ErrorKind::Refused, message).with_remedy(remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upsert_replaces_every_column_of_a_row_that_differs() {
        let sql = upsert("public.t");
        for column in COLUMNS.split(", ") {
            assert!(sql.contains(&format!("kept.{column}")), "{sql}");
            assert!(sql.contains(&format!("excluded.{column}")), "{sql}");
        }
        assert!(
            !sql.contains("RETURNING"),
            "an unchanged row is kept and would not be returned"
        );
    }

    #[test]
    fn a_statement_ends_by_rows_or_bytes() {
        let record = |value: String| Record::new("k".into(), value.into()).unwrap();
        let small = record("{}".to_owned());
        let large = record(format!("{{\"return\": \"{}\"}}", "x".repeat(STATEMENT_BYTES)));
        let mut rows = Rows::default();
        for (record, full) in [(&small, false), (&large, true)] {
            let (columns, _) = columns(record, Default::default(), OnInvalid::Reject).unwrap();
            rows.push(record, columns);
            assert_eq!(rows.is_full(), full);
        }
    }
}

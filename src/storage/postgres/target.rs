//! Writing rows.

use std::{borrow::Cow, collections::HashSet, sync::Arc, time::SystemTime};

use async_trait::async_trait;
use tokio_postgres::{
    error::SqlState,
    types::{ToSql, Type},
};

use super::{
    codec::{Columns, Limits, columns},
    connection::{Phase, Purpose, Server},
    schema::{ADDED_COLUMNS, CREATE_TABLE, INDEXES, Schema, TABLE},
    source::PgSource,
    writability::{self, Guards},
};
use crate::{
    model::{
        Error, ErrorKind, Result,
        record::{CacheKey, OnInvalid, Record, RejectKind, compare},
    },
    storage::{Changes, Entry, Source, Target, WriteMode, WriteOutcome},
};

const WRITE: Purpose = Purpose::new(Phase::Writing, "write records");

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

    async fn check_writable(&self) -> Result<()> {
        let checking = self
            .source
            .table()
            .writable
            .get_or_try_init(|| self.check_table());
        match checking.await? {
            Some(schema) => self.check_workspace(schema),
            None => Ok(()),
        }
    }

    async fn prepare(&self) -> Result<()> {
        let preparing = self
            .source
            .table()
            .prepared
            .get_or_try_init(|| self.prepare_table());
        self.check_workspace(preparing.await?)
    }

    async fn write(&self, batch: &[Record], mode: WriteMode) -> Result<Vec<WriteOutcome>> {
        let Some(schema) = self.source.schema().await? else {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("{}: the table {TABLE} no longer exists", self.server().name()),
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
        let guards = self.guards(&schema).await?;
        if !guards.is_empty() {
            return self
                .write_guarded(batch, mode, &schema, &statements, outcomes)
                .await;
        }
        let created = self
            .execute(&statement(&schema.table, mode, guards), &statements)
            .await?;
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
            .table()
            .known()
            .map_or(Limits::LIGHTRAG, |schema| schema.limits());
        match columns(record, limits, self.on_invalid) {
            Ok((_, changes)) => WriteOutcome::Written(changes),
            Err(rejected) => rejected,
        }
    }

    fn warning(&self) -> Option<String> {
        let table = self.source.table();
        table.guards.get()?.warning(&table.known()?.table)
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
        let workspace = self.source.workspace();
        let parameters: Vec<_> = statements
            .iter()
            .map(|rows| rows.parameters(&workspace))
            .collect();
        let statements: Vec<_> = parameters
            .iter()
            .map(|parameters| (sql, parameters.as_slice()))
            .collect();
        let rows = self.server().ask_all(WRITE, &statements).await?;
        self.server()
            .read(WRITE, || rows.iter().map(|row| row.try_get(0)).collect())
    }

    /// Writes to a table that may keep a row out without a word: what is there before and afterwards decides what became of
    /// a record, not what the server says. `expected` contains the outcomes without that check.
    async fn write_guarded(
        &self,
        batch: &[Record],
        mode: WriteMode,
        schema: &Schema,
        statements: &[Rows<'_>],
        expected: Vec<WriteOutcome>,
    ) -> Result<Vec<WriteOutcome>> {
        let guards = self.guards(schema).await?;
        let before = self.look_back(batch).await?;
        self.execute(&statement(&schema.table, mode, guards), statements)
            .await?;
        let after = self.look_back(batch).await?;
        let seen = before.iter().zip(&after);
        let records = batch.iter().zip(expected).zip(seen);
        let outcomes = records.map(|((record, expected), (before, after))| match expected {
            WriteOutcome::Written(_) if mode == WriteMode::Create && before.is_some() && after.is_some() => {
                WriteOutcome::Exists
            }
            WriteOutcome::Written(changes) => what_became(record, changes, after.as_ref(), guards),
            other => other,
        });
        Ok(outcomes.collect())
    }

    /// Checks what is the same for every workspace.
    async fn check_table(&self) -> Result<Option<Arc<Schema>>> {
        let server = self.server();
        writability::check_server(server).await?;
        // Looked up anew, and not kept: columns may be added to it.
        let Some(schema) = Schema::look_up(server).await? else {
            writability::check_creation(server).await?;
            return Ok(None);
        };
        self.check_existing(&schema).await?;
        Ok(Some(Arc::new(schema)))
    }

    /// Checks a table that this run did not create.
    async fn check_existing(&self, schema: &Schema) -> Result<()> {
        self.check_workspace(schema)?;
        writability::check_table(self.server(), schema).await?;
        // With columns missing, only preparing shows.
        if !writability::lacks_columns(schema) {
            self.check_statements(schema).await?;
        }
        Ok(())
    }

    /// Makes what is missing, which is the same for every workspace.
    async fn prepare_table(&self) -> Result<Arc<Schema>> {
        let server = self.server();
        // What was checked in this run is not checked again: what changes meanwhile, the writes show.
        let checked = match self.source.table().writable.get() {
            Some(checked) => checked.clone(),
            None => self.check_table().await?,
        };
        let mut schema = match checked {
            Some(schema) => schema,
            None => Arc::new(self.create_table().await?),
        };
        self.check_workspace(&schema)?;
        if writability::lacks_columns(&schema) {
            add_columns(server, &schema).await?;
            // What is read from here on includes them.
            schema = Arc::new(look_up_again(server).await?);
            self.check_statements(&schema).await?;
        }
        add_indexes(server, &schema).await?;
        Ok(schema)
    }

    /// Creates the table as LightRAG does. If another process created it since it was looked for, that one is checked.
    async fn create_table(&self) -> Result<Schema> {
        let server = self.server();
        let purpose = Purpose::new(Phase::Making, "create the table");
        let is_created = make(server, purpose, CREATE_TABLE).await?;
        let schema = look_up_again(server).await?;
        if !is_created {
            self.check_existing(&schema).await?;
        }
        Ok(schema)
    }

    async fn check_statements(&self, schema: &Schema) -> Result<()> {
        let guards = self.guards(schema).await?;
        let modes = [WriteMode::Upsert, WriteMode::Create];
        let statements = modes.map(|mode| statement(&schema.table, mode, guards));
        writability::check_statements(self.server(), schema, &statements).await
    }

    /// What may keep a record out of the table without a word.
    async fn guards(&self, schema: &Schema) -> Result<&Guards> {
        let finding = || writability::find_guards(self.server(), &schema.table);
        self.source.table().guards.get_or_try_init(finding).await
    }

    /// What the table has under the keys of records.
    async fn look_back(&self, batch: &[Record]) -> Result<Vec<Option<Entry>>> {
        let keys: Vec<CacheKey> = batch.iter().map(|record| record.key().clone()).collect();
        self.source.get_many(&keys).await
    }

    fn check_workspace(&self, schema: &Schema) -> Result<()> {
        let name = self.source.workspace();
        let characters = name.chars().count();
        match schema.workspace_limit() {
            Some(limit) if characters > limit => Err(Error::new(
                ErrorKind::Refused,
                format!(
                    "the workspace's name has {characters} characters; PostgreSQL's column allows {limit}"
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

    fn parameters<'p>(&'p self, workspace: &'p &str) -> Vec<(&'p (dyn ToSql + Sync), Type)> {
        vec![
            (workspace, Type::TEXT),
            (&self.ids, Type::TEXT_ARRAY),
            (&self.original_prompts, Type::TEXT_ARRAY),
            (&self.return_values, Type::TEXT_ARRAY),
            (&self.chunk_ids, Type::TEXT_ARRAY),
            (&self.cache_types, Type::TEXT_ARRAY),
            (&self.queryparams, Type::TEXT_ARRAY),
            (&self.create_times, Type::TIMESTAMP_ARRAY),
            (&self.update_times, Type::TIMESTAMP_ARRAY),
        ]
    }
}

/// What became of a record that the server did not refuse, by what is there after the write: triggers, rules and policies
/// may have kept it out, changed it, or put it where only the table's readers find it.
fn what_became(record: &Record, changes: Changes, after: Option<&Entry>, guards: &Guards) -> WriteOutcome {
    let refused = |what: String| {
        let reason = format!("the table has {guards}: {what}");
        WriteOutcome::rejected(RejectKind::RefusedByTarget, reason)
    };
    match after {
        None => refused("the record was written but does not exist".to_owned()),
        Some(Entry::Invalid(invalid)) => refused(format!(
            "the record cannot be read after the write: {}",
            invalid.reason
        )),
        Some(Entry::Record(kept)) => {
            let mut differing =
                compare::differing_fields(record, kept, &changes.sanitized, &changes.dropped_fields);
            // LightRAG sets times of its own too.
            differing.retain(|field| !matches!(field.as_str(), "create_time" | "update_time"));
            match differing.is_empty() {
                true => WriteOutcome::Written(changes),
                false => refused(format!(
                    "after the write, the record has different values in {}",
                    differing.join(", ")
                )),
            }
        }
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
    let of = |row: &str, is_compared: bool| {
        let columns = COLUMNS.split(", ").map(|column| match column {
            // A column of json, unlike one of jsonb, has values that cannot be compared.
            "queryparam" if is_compared => format!("{row}.{column}::text"),
            _ => format!("{row}.{column}"),
        });
        columns.collect::<Vec<_>>().join(", ")
    };
    let excluded = of("excluded", false);
    let (kept, given) = (of("kept", true), of("excluded", true));
    format!(
        "{}UPDATE SET ({COLUMNS}) = ROW({excluded}) WHERE ({kept}) IS DISTINCT FROM ({given})",
        insert(table)
    )
}

fn create(table: &str) -> String {
    format!("{}NOTHING", insert(table))
}

/// The statement that writes rows. Ids are returned of those that it creates, unless that is found out otherwise: a
/// table with a rule for some rows cannot return any.
fn statement(table: &str, mode: WriteMode, guards: &Guards) -> String {
    match mode {
        WriteMode::Upsert => upsert(table),
        WriteMode::Create if guards.is_empty() => format!("{} RETURNING kept.id::text", create(table)),
        WriteMode::Create => create(table),
    }
}

/// Looks up the table after it was created or changed.
async fn look_up_again(server: &Server) -> Result<Schema> {
    Schema::look_up(server).await?.ok_or_else(|| {
        Error::new(
            ErrorKind::NotFound,
            format!(
                "{}: the table {TABLE} was created or changed but does not exist",
                server.name()
            ),
        )
        .with_remedy("check search_path")
    })
}

/// Runs a statement that makes something. Returns false if another process has made it meanwhile.
async fn make(server: &Server, purpose: Purpose, sql: &str) -> Result<bool> {
    match server.run(purpose, &[(sql, &[])]).await? {
        Ok(_) => Ok(true),
        Err(error) if is_there_already(&error) => Ok(false),
        Err(error) => Err(server.failed(purpose.phase, purpose.doing, error)),
    }
}

/// Whether it was made by another process. At the same time, the slower one meets the other's entry in a catalog; `IF NOT
/// EXISTS` does not prevent that.
fn is_there_already(error: &tokio_postgres::Error) -> bool {
    [
        SqlState::DUPLICATE_TABLE,
        SqlState::DUPLICATE_OBJECT,
        SqlState::UNIQUE_VIOLATION,
    ]
    .iter()
    .any(|state| error.code() == Some(state))
}

/// Adds the columns that an old table lacks, as LightRAG does when it starts: with them there, it would not fill in
/// the type of old rows any more, so this does.
async fn add_columns(server: &Server, schema: &Schema) -> Result<()> {
    let table = &schema.table;
    let missing = ADDED_COLUMNS.iter().filter(|(name, _)| !schema.has(name));
    let mut statements: Vec<String> = missing
        .map(|(name, sql_type)| format!("ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {name} {sql_type}"))
        .collect();
    if !schema.has("cache_type") {
        statements.push(format!(
            "UPDATE {table} SET cache_type = CASE WHEN id COLLATE \"C\" ~ '^[^:]+:[^:]+:' \
             THEN left(split_part(id COLLATE \"C\", ':', 2), 32) ELSE 'extract' END WHERE cache_type IS NULL"
        ));
    }
    let purpose = Purpose::new(Phase::Making, "add the columns that an old table lacks").without_limit();
    let none: [(&(dyn ToSql + Sync), Type); 0] = [];
    let statements: Vec<_> = statements.iter().map(|sql| (sql.as_str(), &none[..])).collect();
    server.ask_all(purpose, &statements).await.map(|_| ())
}

/// Makes LightRAG's indexes where they are missing and the login may make them. They only make LightRAG's own work
/// faster, and it makes them otherwise.
async fn add_indexes(server: &Server, schema: &Schema) -> Result<()> {
    let purpose = Purpose::new(Phase::Preparing, "look at the indexes");
    let sql = "SELECT i.relname::text FROM pg_catalog.pg_index x \
               JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid \
               WHERE x.indrelid = pg_catalog.to_regclass($1)";
    if writability::owns(server, schema).await? != Some(true) {
        return Ok(());
    }
    let found = server
        .ask_if_able(purpose, sql, &[(&schema.table, Type::TEXT)])
        .await?;
    let Some(rows) = found else {
        return Ok(());
    };
    let found: Vec<String> = server.read(purpose, || rows.iter().map(|row| row.try_get(0)).collect())?;
    for (name, columns) in INDEXES
        .iter()
        .filter(|(name, _)| !found.iter().any(|found| found == name))
    {
        let sql = format!(
            "CREATE INDEX IF NOT EXISTS {name} ON {} ({columns})",
            schema.table
        );
        let purpose = Purpose::new(Phase::Making, "create an index").without_limit();
        match make(server, purpose, &sql).await {
            Err(error) if !error.is_temporary() => tracing::warn!("{error}"),
            Err(error) => return Err(error),
            Ok(_) => {}
        }
    }
    Ok(())
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

//! Whether the table takes rows: asked beforehand, without writing. And what in it may keep a row out, or change it, without
//! a word.

use std::fmt;

use tokio_postgres::types::{ToSql, Type};

use super::{
    connection::{Phase, Purpose, Server, Statement},
    schema::{ADDED_COLUMNS, Schema, TABLE},
};
use crate::model::{Error, ErrorKind, Result};

const CHECK: Purpose = Purpose::new(Phase::Preparing, "check whether the table can be written to");

/// What in a table decides about a row beside the statement that writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Guards(Vec<String>);

impl Guards {
    /// None: what the statement says is what the table has.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What a person should know of them.
    pub(super) fn warning(&self, table: &str) -> Option<String> {
        (!self.is_empty()).then(|| {
            format!("the table {table} has {self}, so every record is read back after it is written, which is slower")
        })
    }
}

impl fmt::Display for Guards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

/// Triggers and rules for rows that are inserted or updated, of the table and its partitions; row-level security that applies
/// to this login; anything but a table, such as a view. Triggers of foreign keys raise errors and need no check.
const FIND_GUARDS: &str = "\
    WITH RECURSIVE parts AS (
      SELECT c.oid, c.relkind FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass($1)
      UNION ALL
      SELECT i.inhrelid, c.relkind FROM parts p
      JOIN pg_catalog.pg_inherits i ON i.inhparent = p.oid AND p.relkind = 'p'
      JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid)
    SELECT DISTINCT 'the trigger ' || t.tgname::text FROM parts p
    JOIN pg_catalog.pg_trigger t ON t.tgrelid = p.oid
    WHERE NOT t.tgisinternal AND t.tgenabled <> 'D' AND (t.tgtype & 20) <> 0
    UNION ALL
    SELECT DISTINCT 'the rule ' || r.rulename::text FROM parts p
    JOIN pg_catalog.pg_rewrite r ON r.ev_class = p.oid
    WHERE r.ev_type IN ('2', '3') AND r.ev_enabled <> 'D'
    UNION ALL
    SELECT 'row-level security' FROM parts p
    WHERE p.oid = pg_catalog.to_regclass($1) AND pg_catalog.row_security_active(p.oid)
    UNION ALL
    SELECT 'a view or a foreign table in it' FROM parts p WHERE p.relkind NOT IN ('r', 'p')
    ORDER BY 1";

/// What guards the table. If the server does not show it, there may be something unknown.
pub(super) async fn find_guards(server: &Server, table: &str) -> Result<Guards> {
    let purpose = Purpose::new(Phase::Preparing, "look for triggers");
    let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&table, Type::TEXT)];
    let Some(rows) = server.ask_if_able(purpose, FIND_GUARDS, &parameters).await? else {
        return Ok(Guards(vec!["triggers that the server does not show".to_owned()]));
    };
    let names = rows.iter().map(|row| row.try_get(0));
    let names = server.read(purpose, || names.collect::<Result<Vec<String>, _>>())?;
    Ok(Guards(names))
}

/// Checks that the server takes writes at all.
pub(super) async fn check_server(server: &Server) -> Result<()> {
    let sql = "SELECT pg_catalog.pg_is_in_recovery(), \
                      pg_catalog.current_setting('default_transaction_read_only') = 'on'";
    let Some(rows) = server.ask_if_able(CHECK, sql, &[]).await? else {
        return Ok(());
    };
    let Some(row) = rows.first() else {
        return Ok(());
    };
    let (standby, read_only): (bool, bool) = server.read(CHECK, || Ok((row.try_get(0)?, row.try_get(1)?)))?;
    if standby {
        let message = format!("{} is a standby, which is read-only", server.name());
        return Err(Error::new(ErrorKind::Refused, message)
            .with_remedy("use the primary server; with several hosts, add target_session_attrs=read-write"));
    }
    if read_only {
        let message = format!("{} opens sessions that cannot write", server.name());
        return Err(Error::new(ErrorKind::Refused, message)
            .with_remedy("unset default_transaction_read_only for the server, the database or the role"));
    }
    Ok(())
}

/// Checks that the login may make the table.
pub(super) async fn check_creation(server: &Server) -> Result<()> {
    let sql = "SELECT current_schema()::text, pg_catalog.has_schema_privilege(current_schema(), 'CREATE')";
    let Some(rows) = server.ask_if_able(CHECK, sql, &[]).await? else {
        return Ok(());
    };
    let Some(row) = rows.first() else {
        return Ok(());
    };
    let (schema, granted): (Option<String>, Option<bool>) =
        server.read(CHECK, || Ok((row.try_get(0)?, row.try_get(1)?)))?;
    let name = server.name();
    let Some(schema) = schema else {
        let message =
            format!("{name} has no table {TABLE}, and no schema of the search_path to create it in");
        return Err(
            Error::new(ErrorKind::NotFound, message).with_remedy("create the schema, or set search_path")
        );
    };
    if granted == Some(false) {
        let user = &server.user;
        let message = format!(
            "{name} has no table {TABLE}, and the login {user} may not create it in the schema {schema}"
        );
        return Err(Error::new(ErrorKind::Permission, message).with_remedy(format!(
            "GRANT CREATE ON SCHEMA {schema} TO {user}, or start LightRAG once with a login that may"
        )));
    }
    Ok(())
}

/// Checks what the catalog knows of the table: whose it is, how old, which columns it has.
pub(super) async fn check_table(server: &Server, schema: &Schema) -> Result<()> {
    let (name, table) = (server.name(), &schema.table);
    if schema.has_mode() {
        // LightRAG changes keys when it updates such a table, so only LightRAG should do it.
        let message =
            format!("{name}: the table {table} was created by an older LightRAG and has a column `mode`");
        return Err(Error::new(ErrorKind::Refused, message)
            .with_remedy("start LightRAG once on it to update the table"));
    }
    if let Some(column) = schema.generated_column() {
        let message =
            format!("{name}: the values of the column {column} of {table} are generated by the server");
        return Err(Error::new(ErrorKind::Refused, message)
            .with_remedy("make it an ordinary column, as LightRAG needs it too"));
    }
    if let Some(column) = schema.unknown_column() {
        return Err(server.unknown_column(column));
    }
    if lacks_columns(schema) {
        check_ownership(server, schema).await?;
    }
    Ok(())
}

/// Whether the table lacks columns that later versions of LightRAG added.
pub(super) fn lacks_columns(schema: &Schema) -> bool {
    ADDED_COLUMNS.iter().any(|(name, _)| !schema.has(name))
}

/// Only its owner may add columns to a table.
async fn check_ownership(server: &Server, schema: &Schema) -> Result<()> {
    if owns(server, schema).await? != Some(false) {
        return Ok(());
    }
    let message = format!(
        "{}: the table {} was created by an older LightRAG, and the login {} may not add the missing columns",
        server.name(),
        schema.table,
        server.user
    );
    Err(Error::new(ErrorKind::Permission, message)
        .with_remedy("use the login that owns the table, or start LightRAG once on it"))
}

/// Whether the login owns the table; `None` if the server does not say.
pub(super) async fn owns(server: &Server, schema: &Schema) -> Result<Option<bool>> {
    let sql = "SELECT pg_catalog.pg_has_role(c.relowner, 'USAGE') FROM pg_catalog.pg_class c \
               WHERE c.oid = pg_catalog.to_regclass($1)";
    let rows = server
        .ask_if_able(CHECK, sql, &[(&schema.table, Type::TEXT)])
        .await?;
    let first = rows.as_ref().and_then(|rows| rows.first());
    server.read(CHECK, || first.map(|row| row.try_get(0)).transpose())
}

/// Has the server plan the statements that will write. It checks every permission, column and key of theirs, and writes
/// nothing.
pub(super) async fn check_statements(server: &Server, schema: &Schema, statements: &[String]) -> Result<()> {
    let purpose = Purpose::new(Phase::Preparing, "write to the table");
    let texts: Vec<&str> = Vec::new();
    let times: Vec<std::time::SystemTime> = Vec::new();
    let mut parameters: Vec<(&(dyn ToSql + Sync), Type)> = vec![(&"", Type::TEXT)];
    parameters.extend((0..6).map(|_| (&texts as &(dyn ToSql + Sync), Type::TEXT_ARRAY)));
    parameters.extend((0..2).map(|_| (&times as &(dyn ToSql + Sync), Type::TIMESTAMP_ARRAY)));
    let plans: Vec<String> = statements.iter().map(|sql| format!("EXPLAIN {sql}")).collect();
    let plans: Vec<Statement<'_>> = plans
        .iter()
        .map(|sql| (sql.as_str(), parameters.as_slice()))
        .collect();
    let Err(error) = server.run(purpose, &plans).await? else {
        return Ok(());
    };
    Err(match error.code().map(|state| state.code()) {
        Some("42501") => missing_privilege(server, schema, error).await?,
        Some("42P10") => no_key(server, schema),
        Some(code) if !code.starts_with("08") => {
            let text = error
                .as_db_error()
                .map_or("", |answer| answer.message())
                .to_owned();
            let message = format!(
                "{}: the table {} cannot be written to: {text} ({code})",
                server.name(),
                schema.table
            );
            Error::new(ErrorKind::Refused, message).caused_by(error)
        }
        _ => server.failed(purpose.phase, purpose.doing, error),
    })
}

/// Names the missing privilege, if the server says.
async fn missing_privilege(server: &Server, schema: &Schema, error: tokio_postgres::Error) -> Result<Error> {
    let sql = "SELECT p.name FROM pg_catalog.unnest(ARRAY['SELECT', 'INSERT', 'UPDATE']) p(name) \
               WHERE NOT pg_catalog.has_any_column_privilege($1, p.name)";
    let rows = server
        .ask_if_able(CHECK, sql, &[(&schema.table, Type::TEXT)])
        .await?;
    let first = rows.as_ref().and_then(|rows| rows.first());
    let privilege: Option<String> = server.read(CHECK, || first.map(|row| row.try_get(0)).transpose())?;
    let Some(privilege) = privilege else {
        return Ok(server.failed(Phase::Writing, "write to the table", error));
    };
    let (table, user) = (&schema.table, &server.user);
    let message = format!(
        "{}: the login {user} may not {privilege} on {table}",
        server.name()
    );
    Ok(Error::new(ErrorKind::Permission, message).with_remedy(format!(
        "GRANT SELECT, INSERT, UPDATE ON {table} TO {user}, or use another login"
    )))
}

/// Without a unique (workspace, id) there is no telling which row a record is.
fn no_key(server: &Server, schema: &Schema) -> Error {
    let (name, table) = (server.name(), &schema.table);
    let message = format!("{name}: the table {table} has no primary key (workspace, id)");
    Error::new(ErrorKind::Refused, message).with_remedy(format!(
        "remove duplicate rows, then: ALTER TABLE {table} ADD CONSTRAINT LIGHTRAG_LLM_CACHE_PK PRIMARY KEY (workspace, id)"
    ))
}

//! LightRAG's `PGKVStorage`: one row a record, in one table for all workspaces.
//!
//! * `config`: which server, and how to reach it.
//! * `connection`: connections, TLS by libpq's rules, and what the server's errors mean.
//! * `schema`: the table as it is in this database, today's or an old one.
//! * `layout`: rows ↔ records.
//! * `source`, `target`: reading rows; writing many of them a statement.
//! * `scan`, `position`: reading all rows in pages, and where such a reading stands.

mod codec;
mod config;
mod connection;
mod position;
mod scan;
mod schema;
mod source;
mod target;

use std::{num::NonZeroUsize, sync::Arc};

use async_trait::async_trait;

use self::{
    config::Config,
    connection::{Phase, Server},
    schema::{Schema, TABLE},
    source::{EMPTY_WORKSPACE, PgSource, stored_name},
    target::PgTarget,
};
use super::{ConnectOptions, Connection, Connector, Source, Target};
use crate::model::{Field, Result, Secret, Values, record::OnInvalid};
use crate::model::{Location, PhysicalLocation, Workspace};

/// The table of `PGKVStorage`.
pub struct Postgres;

#[async_trait]
impl Connector for Postgres {
    fn kind(&self) -> &'static str {
        "postgres"
    }

    fn title(&self) -> &'static str {
        "PostgreSQL"
    }

    fn class_name(&self) -> &'static str {
        "PGKVStorage"
    }

    fn aliases(&self) -> &'static [&'static str] {
        &["postgresql", "pg"]
    }

    fn schemes(&self) -> &'static [&'static str] {
        &["postgres", "postgresql"]
    }

    fn ini_section(&self) -> Option<&'static str> {
        Some("postgres")
    }

    fn workspace_variable(&self) -> Option<&'static str> {
        Some("POSTGRES_WORKSPACE")
    }

    fn batch_bytes(&self) -> NonZeroUsize {
        const { NonZeroUsize::new(2 << 20).unwrap() }
    }

    fn fields(&self) -> &'static [Field] {
        config::FIELDS
    }

    fn parse_uri(&self, place: &str) -> Result<Vec<(&'static str, Secret)>> {
        config::parse_uri(place)
    }

    async fn connect(&self, values: &Values, options: &ConnectOptions) -> Result<Arc<dyn Connection>> {
        let config = Config::new(values, options)?;
        let server = Server::connect(&config, options).await?;
        Ok(Arc::new(PgStorage {
            server: Arc::new(server),
            on_invalid: options.on_invalid,
        }))
    }
}

struct PgStorage {
    server: Arc<Server>,
    on_invalid: OnInvalid,
}

#[async_trait]
impl Connection for PgStorage {
    fn location(&self) -> Location {
        Location {
            kind: Postgres.kind().to_owned(),
            location: self.server.location().to_owned(),
        }
    }

    /// The rows of `default` are those of the empty workspace: LightRAG stores it under that name, and nothing tells
    /// the two apart any more. It is the name to the outside, so that the cache of a LightRAG without workspaces
    /// arrives as one in every other storage.
    async fn workspaces(&self) -> Result<Vec<Workspace>> {
        let client = self.server.client().await?;
        let Some(schema) = Schema::look_up(&self.server, &client).await? else {
            return Ok(Vec::new());
        };
        // From name to name along the index, instead of over every row.
        let sql = format!(
            "WITH RECURSIVE found AS (
               (SELECT t.workspace FROM {table} t ORDER BY t.workspace LIMIT 1)
               UNION ALL
               SELECT (SELECT t.workspace FROM {table} t WHERE t.workspace > found.workspace
                       ORDER BY t.workspace LIMIT 1)
               FROM found WHERE found.workspace IS NOT NULL)
             SELECT workspace::text FROM found WHERE workspace IS NOT NULL AND workspace <> ''",
            table = schema.table
        );
        let rows = match client.query(&sql, &[]).await {
            Ok(rows) => rows,
            Err(error) => {
                let failed = self
                    .server
                    .failed_on(client, Phase::Reading, "list the workspaces", error);
                return Err(failed);
            }
        };
        let mut workspaces = Vec::with_capacity(rows.len());
        for row in &rows {
            let name: &str = row
                .try_get(0)
                .map_err(|error| self.server.failed(Phase::Reading, "list the workspaces", error))?;
            let name = if name == EMPTY_WORKSPACE { "" } else { name };
            workspaces.push(Workspace::new(name)?);
        }
        workspaces.sort();
        Ok(workspaces)
    }

    async fn physical_location(&self, workspace: &Workspace) -> Result<PhysicalLocation> {
        let client = self.server.client().await?;
        let failed = |error| {
            self.server
                .failed(Phase::Preparing, "ask the server who it is", error)
        };
        // A standby has the identifier of its primary, and the same rows.
        let identifier = client
            .query_one(
                "SELECT system_identifier::text FROM pg_catalog.pg_control_system()",
                &[],
            )
            .await
            .and_then(|row| row.try_get::<_, String>(0));
        let server = match identifier {
            Ok(identifier) => identifier,
            // Not every server tells everybody.
            Err(error) if error.as_db_error().is_some() => self.server.address().to_owned(),
            Err(error) => return Err(failed(error)),
        };
        let table = match Schema::look_up(&self.server, &client).await? {
            Some(schema) => schema.table,
            None => {
                let row = client
                    .query_one("SELECT pg_catalog.quote_ident(pg_catalog.current_schema())", &[])
                    .await
                    .map_err(failed)?;
                let schema: Option<String> = row.try_get(0).map_err(failed)?;
                format!("{}.{TABLE}", schema.unwrap_or_default())
            }
        };
        let (database, workspace) = (self.server.database(), stored_name(workspace));
        Ok(PhysicalLocation {
            server: format!("PostgreSQL {server}"),
            place: format!("PostgreSQL database {database}, table {table}, workspace {workspace}"),
        })
    }

    async fn source(&self, workspace: &Workspace) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(PgSource::new(Arc::clone(&self.server), workspace)))
    }

    async fn target(&self, workspace: &Workspace) -> Result<Arc<dyn Target>> {
        let source = PgSource::new(Arc::clone(&self.server), workspace);
        Ok(Arc::new(PgTarget::new(source, self.on_invalid)))
    }
}

//! LightRAG's `PGKVStorage`: one row a record, in one table for all workspaces.
//!
//! * `info`: names and settings.
//! * `config`: which server, and how to reach it.
//! * `connection`: connections, TLS by libpq's rules, and transactions on them.
//! * `session`: what every transaction begins with, and why nothing else is kept.
//! * `errors`: what the server's errors mean.
//! * `schema`: the table as it is in this database, today's or an old one.
//! * `codec`: rows ↔ records.
//! * `source`, `target`: reading rows; writing many of them a statement.
//! * `counts`: counting the rows of one workspace, or of many with one statement.
//! * `writability`: whether the table takes rows, and what in it may keep them out.
//! * `scan`, `position`: reading all rows in pages, and the position of a scan.

mod codec;
mod config;
mod connection;
mod counts;
mod errors;
mod info;
mod position;
mod scan;
mod schema;
mod session;
mod source;
mod target;
mod writability;

use std::sync::Arc;

use async_trait::async_trait;

use self::info::INFO;
use self::{
    config::Config,
    connection::{Phase, Purpose, Server},
    schema::{Schema, TABLE},
    source::{EMPTY_WORKSPACE, PgSource, TableFacts, stored_name},
    target::PgTarget,
};
use super::{ConnectOptions, Connection, Connector, ConnectorInfo, Source, Target, WorkspaceListing};
use crate::model::{Location, PhysicalLocation, Workspace};
use crate::model::{Result, Secret, Values, record::OnInvalid};

/// The table of `PGKVStorage`.
pub struct Postgres;

#[async_trait]
impl Connector for Postgres {
    fn info(&self) -> &'static ConnectorInfo {
        &INFO
    }

    fn parse_uri(&self, place: &str) -> Result<Vec<(&'static str, Secret)>> {
        config::parse_uri(place)
    }

    async fn connect(&self, values: &Values, options: &ConnectOptions) -> Result<Arc<dyn Connection>> {
        let config = Config::new(values, options)?;
        let server = Server::connect(&config, options).await?;
        Ok(Arc::new(PgStorage {
            server: Arc::new(server),
            table: Arc::default(),
            on_invalid: options.on_invalid,
            warnings: config.warnings,
        }))
    }
}

struct PgStorage {
    server: Arc<Server>,
    table: Arc<TableFacts>,
    on_invalid: OnInvalid,
    warnings: Vec<String>,
}

#[async_trait]
impl Connection for PgStorage {
    fn location(&self) -> Location {
        Location {
            kind: INFO.kind.to_owned(),
            location: self.server.location().to_owned(),
        }
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    /// The rows of `default` are those of the empty workspace: LightRAG stores it under that name, and nothing tells
    /// the two apart any more. It is the name to the outside, so that the cache of a LightRAG without workspaces
    /// arrives as one in every other storage.
    async fn workspaces(&self) -> Result<WorkspaceListing> {
        let Some(schema) = Schema::look_up(&self.server).await? else {
            return Ok(WorkspaceListing::default());
        };
        let purpose = Purpose::new(Phase::Reading, "list the workspaces");
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
        let rows = self.server.ask(purpose, &sql, &[]).await?;
        let mut workspaces = Vec::with_capacity(rows.len());
        for row in &rows {
            let name: &str = self.server.read(purpose, || row.try_get(0))?;
            let name = if name == EMPTY_WORKSPACE { "" } else { name };
            workspaces.push(Workspace::new(name)?);
        }
        Ok(workspaces.into())
    }

    async fn physical_location(&self, workspace: &Workspace) -> Result<PhysicalLocation> {
        let (server, table) = self.table.place.get_or_try_init(|| self.look_for_place()).await?;
        let (database, workspace) = (self.server.database(), stored_name(workspace));
        Ok(PhysicalLocation {
            server: format!("PostgreSQL {server}"),
            place: format!("PostgreSQL database {database}, table {table}, workspace {workspace}"),
        })
    }

    /// Asks nothing yet: what is read next is not always counted.
    async fn gather(&self, workspaces: &[Workspace]) -> Result<usize> {
        self.table.counts.announce(workspaces.iter().map(stored_name));
        Ok(workspaces.len())
    }

    async fn source(&self, workspace: &Workspace) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(self.open(workspace)))
    }

    async fn target(&self, workspace: &Workspace) -> Result<Arc<dyn Target>> {
        Ok(Arc::new(PgTarget::new(self.open(workspace), self.on_invalid)))
    }
}

impl PgStorage {
    /// Who the server is, and which table it is there.
    async fn look_for_place(&self) -> Result<(String, String)> {
        let purpose = Purpose::new(Phase::Preparing, "ask the server who it is");
        // A standby has the identifier of its primary, and the same rows. Not every server tells everybody.
        let sql = "SELECT system_identifier::text FROM pg_catalog.pg_control_system()";
        let rows = self
            .server
            .ask_if_able(purpose, sql, &[])
            .await?
            .unwrap_or_default();
        let server = match rows.first() {
            Some(row) => self.server.read(purpose, || row.try_get(0))?,
            None => self.server.address().to_owned(),
        };
        let table = match self.table.schema(&self.server).await? {
            Some(schema) => schema.table.clone(),
            None => {
                let sql = "SELECT pg_catalog.quote_ident(current_schema())";
                let rows = self.server.ask(purpose, sql, &[]).await?;
                let schema: Option<String> = self
                    .server
                    .read(purpose, || rows.first().map_or(Ok(None), |row| row.try_get(0)))?;
                format!("{}.{TABLE}", schema.unwrap_or_default())
            }
        };
        Ok((server, table))
    }

    fn open(&self, workspace: &Workspace) -> PgSource {
        PgSource::new(Arc::clone(&self.server), Arc::clone(&self.table), workspace)
    }
}

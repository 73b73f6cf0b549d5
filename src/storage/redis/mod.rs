//! LightRAG's `RedisKVStorage`: one string a record.
//!
//! * `info`: names and settings.
//! * `config`: the address, read as redis-py reads it.
//! * `codec`: keys and values ↔ records, today's layout and the old one.
//! * `gathered`: the keys of many workspaces, found in one look.
//! * `server`: the connection, and what the server's errors mean.
//! * `source`, `target`: reading; writing.

mod codec;
mod config;
mod gathered;
mod info;
mod server;
mod source;
mod target;

use std::sync::Arc;

use async_trait::async_trait;

use self::info::INFO;
use self::{
    codec::Namespace,
    config::Config,
    server::Server,
    source::RedisSource,
    target::{Eviction, RedisTarget, ServerFacts},
};
use super::{ConnectOptions, Connection, Connector, ConnectorInfo, Source, Target, WorkspaceListing};
use crate::model::{Location, PhysicalLocation, Workspace};
use crate::model::{Result, Secret, Side, Values};

/// The strings of `RedisKVStorage`.
pub struct Redis;

#[async_trait]
impl Connector for Redis {
    fn info(&self) -> &'static ConnectorInfo {
        &INFO
    }

    fn parse_uri(&self, place: &str) -> Result<Vec<(&'static str, Secret)>> {
        config::parse_uri(place)
    }

    async fn connect(&self, values: &Values, options: &ConnectOptions) -> Result<Arc<dyn Connection>> {
        let server = Server::new(Config::new(values, options)?)?;
        let info = server.greeting().await?;
        server.check_is_whole(&info).await?;
        if values.side() == Side::Source {
            server::check_has_caught_up(&server.config().location(), &info)?;
        }
        let eviction = match values.side() {
            Side::Source => Eviction::default(),
            Side::Target => Eviction::of(&server, &info).await?,
        };
        Ok(Arc::new(RedisStorage {
            // Who may not ask the server for its name knows it by its address alone.
            identity: info.run_id().unwrap_or_else(|| server.config().host()),
            server: Arc::new(server),
            facts: Arc::new(ServerFacts::new(eviction, info)),
        }))
    }
}

struct RedisStorage {
    server: Arc<Server>,
    /// The name that the server gave itself when it started.
    identity: String,
    /// What is the same for every workspace that is written.
    facts: Arc<ServerFacts>,
}

#[async_trait]
impl Connection for RedisStorage {
    fn location(&self) -> Location {
        Location {
            kind: INFO.kind.to_owned(),
            location: self.server.config().location(),
        }
    }

    fn warnings(&self) -> Vec<String> {
        self.server.config().warnings.clone()
    }

    async fn workspaces(&self) -> Result<WorkspaceListing> {
        Ok(source::workspaces(&self.server).await?.into())
    }

    async fn physical_location(&self, workspace: &Workspace) -> Result<PhysicalLocation> {
        let database = self.server.config().database;
        Ok(PhysicalLocation {
            server: format!("redis {}", self.identity),
            place: format!("database {database}, {}", Namespace::new(workspace).parse_uri()),
        })
    }

    async fn gather(&self, workspaces: &[Workspace]) -> Result<usize> {
        source::gather(&self.server, workspaces).await
    }

    async fn source(&self, workspace: &Workspace) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(RedisSource::new(Arc::clone(&self.server), workspace)))
    }

    async fn target(&self, workspace: &Workspace) -> Result<Arc<dyn Target>> {
        let source = RedisSource::new(Arc::clone(&self.server), workspace);
        Ok(Arc::new(RedisTarget::new(source, Arc::clone(&self.facts))))
    }
}

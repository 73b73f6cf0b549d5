//! LightRAG's `MongoKVStorage`: a collection a workspace, a document a record.
//!
//! * `uri`: an address as PyMongo reads it.
//! * `info`: names and settings.
//! * `config`: where the server is.
//! * `server`: the connection, its limits, and what its errors mean.
//! * `checks`: what is known of a collection before it is read or written.
//! * `extras`: what only some servers know, and is done without on others.
//! * `codec`: documents ↔ records.
//! * `source`, `target`: reading in the order of keys; inserting, and replacing what is there.

mod batches;
mod checks;
mod codec;
mod config;
mod extras;
mod info;
mod server;
mod source;
mod target;
mod uri;

use std::sync::Arc;

use async_trait::async_trait;

use self::info::INFO;
use self::{
    config::Config,
    server::{Server, members_to_ask},
    source::MongoSource,
    target::MongoTarget,
};
use super::{ConnectOptions, Connection, Connector, ConnectorInfo, Source, Target, WorkspaceListing};
use crate::model::{Location, NAMESPACE, PhysicalLocation, Side, Workspace};
use crate::model::{Result, Secret, Values, record::OnInvalid};

/// The collections of `MongoKVStorage`.
pub struct Mongo;

#[async_trait]
impl Connector for Mongo {
    fn info(&self) -> &'static ConnectorInfo {
        &INFO
    }

    fn parse_uri(&self, place: &str) -> Result<Vec<(&'static str, Secret)>> {
        config::parse_uri(place)
    }

    async fn connect(&self, values: &Values, options: &ConnectOptions) -> Result<Arc<dyn Connection>> {
        let config = Config::new(values, options).await?;
        let warnings = config.warnings.clone();
        Ok(Arc::new(MongoStorage {
            side: values.side(),
            warnings,
            server: Arc::new(Server::connect(config).await?),
            on_invalid: options.on_invalid,
        }))
    }
}

struct MongoStorage {
    side: Side,
    warnings: Vec<String>,
    server: Arc<Server>,
    on_invalid: OnInvalid,
}

#[async_trait]
impl Connection for MongoStorage {
    fn location(&self) -> Location {
        Location {
            kind: INFO.kind.to_owned(),
            location: self.server.location().to_owned(),
        }
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    async fn workspaces(&self) -> Result<WorkspaceListing> {
        let names = self.server.collection_names().await?;
        let found: Vec<Workspace> = names.iter().filter_map(|name| workspace_of(name)).collect();
        Ok(found.into())
    }

    async fn physical_location(&self, workspace: &Workspace) -> Result<PhysicalLocation> {
        let database = self.server.database_name();
        let collection = config::collection(database, workspace)?;
        Ok(PhysicalLocation {
            server: self.server.identity.clone(),
            place: format!("collection {database}.{collection}"),
        })
    }

    async fn gather(&self, workspaces: &[Workspace]) -> Result<usize> {
        let collections: Result<Vec<String>> = workspaces
            .iter()
            .map(|workspace| config::collection(self.server.database_name(), workspace))
            .collect();
        // A name that cannot be one is reported where it is used.
        let Ok(collections) = collections else {
            return Ok(workspaces.len());
        };
        let members = members_to_ask(self.side == Side::Target);
        checks::list(&self.server, &collections, members).await
    }

    async fn source(&self, workspace: &Workspace) -> Result<Arc<dyn Source>> {
        let name = config::collection(self.server.database_name(), workspace)?;
        let collection = self.server.collection(&name);
        Ok(Arc::new(MongoSource::new(Arc::clone(&self.server), collection)))
    }

    async fn target(&self, workspace: &Workspace) -> Result<Arc<dyn Target>> {
        let name = config::collection(self.server.database_name(), workspace)?;
        Ok(Arc::new(MongoTarget::new(
            Arc::clone(&self.server),
            self.server.primary_collection(&name),
            self.on_invalid,
        )))
    }
}

/// The workspace whose cache a collection is. A name that LightRAG could not open is none of its own.
fn workspace_of(collection: &str) -> Option<Workspace> {
    let name = match collection.strip_suffix(NAMESPACE)? {
        "" => "",
        prefix => prefix.strip_suffix('_').filter(|name| !name.is_empty())?,
    };
    Workspace::new(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collection_names_its_workspace() {
        let name = |collection| workspace_of(collection).map(|workspace| workspace.name().to_owned());
        assert_eq!(name("llm_response_cache").as_deref(), Some(""));
        assert_eq!(name("space1_llm_response_cache").as_deref(), Some("space1"));
        assert_eq!(
            name("_llm_response_cache_llm_response_cache").as_deref(),
            Some("_llm_response_cache")
        );
        assert_eq!(name("_llm_response_cache"), None);
        assert_eq!(name("text_chunks"), None);
        assert_eq!(name("a/b_llm_response_cache"), None);
    }
}

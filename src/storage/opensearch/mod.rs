//! LightRAG's `OpenSearchKVStorage`: one index a workspace, one document a record.
//!
//! * `info`: names and settings.
//! * `config`: which servers, as whom, and how an index is made.
//! * `client`: requests and answers, and what went wrong with them in this program's words.
//! * `codec`: a record ↔ a document, and the names of indices.
//! * `inspect`: whether an index keeps what is written to it, before anything is; what is asked of a cluster once.
//! * `pauses`: when what was found out may have changed.
//! * `mapping`: what an index expects of fields, and how to make it take records that it refuses.
//! * `scan`: reading an index as a whole, in the order in which it was written.
//! * `source`, `target`: counting, and finding documents by key; writing in bulk.

mod client;
mod codec;
mod config;
mod info;
mod inspect;
mod mapping;
mod pauses;
mod scan;
mod source;
mod target;

use std::sync::Arc;

use async_trait::async_trait;

use self::info::INFO;
use self::{
    client::{Client, FoundField, Resolved, ResolvedName},
    config::{Config, Trust},
    pauses::Fact,
    source::OpenSearchSource,
    target::OpenSearchTarget,
};
use super::{
    ConnectOptions, Connection, Connector, ConnectorInfo, Source, Target, UnreadableWorkspace, Waiter,
    WorkspaceListing, gathered::Gathered, tls::unverified,
};
use crate::model::{Location, PhysicalLocation, Workspace};
use crate::model::{Result, Secret, Values};

/// The indices of `OpenSearchKVStorage`.
pub struct OpenSearch;

#[async_trait]
impl Connector for OpenSearch {
    fn info(&self) -> &'static ConnectorInfo {
        &INFO
    }

    fn parse_uri(&self, place: &str) -> Result<Vec<(&'static str, Secret)>> {
        config::parse_uri(place)
    }

    async fn connect(&self, values: &Values, options: &ConnectOptions) -> Result<Arc<dyn Connection>> {
        let config = Config::new(values)?;
        let client = Client::connect(&config, options.timeout).await?;
        Ok(Arc::new(OpenSearchStorage {
            config,
            client: Arc::new(client),
            waiter: Arc::clone(&options.waiter),
            can_search_keys: Gathered::default(),
        }))
    }
}

struct OpenSearchStorage {
    config: Config,
    client: Arc<Client>,
    waiter: Arc<dyn Waiter>,
    /// What [`OpenSearchSource::can_search_keys`] returns first, by index: found out with the place, and taken when the index is
    /// opened.
    can_search_keys: Gathered<Fact<Option<bool>>>,
}

impl OpenSearchStorage {
    fn open(&self, workspace: &Workspace) -> Result<OpenSearchSource> {
        let index = codec::index_name(workspace)?;
        let can_search_keys = self.can_search_keys.take(&index);
        Ok(OpenSearchSource::new(
            Arc::clone(&self.client),
            index,
            can_search_keys,
        ))
    }
}

#[async_trait]
impl Connection for OpenSearchStorage {
    fn location(&self) -> Location {
        Location {
            kind: INFO.kind.to_owned(),
            location: self.config.parse_uri(),
        }
    }

    /// LightRAG trusts any certificate by default, and so does a migration without another setting.
    fn warnings(&self) -> Vec<String> {
        let is_unverified =
            self.config.trust == Trust::Anyone && self.config.hosts.iter().any(|host| host.tls);
        let remedy = "set OPENSEARCH_VERIFY_CERTS=true or ca_cert to have it checked";
        is_unverified
            .then(|| unverified(&self.config.parse_uri(), remedy))
            .into_iter()
            .collect()
    }

    /// The workspaces as the names of indices tell them: in lower case, and with `_` for what such a name cannot
    /// contain. Whether `space_1` was `Space 1` originally cannot be determined.
    async fn workspaces(&self) -> Result<WorkspaceListing> {
        let resolved = self
            .client
            .resolve(&codec::any_index(), "list the indices")
            .await?;
        let open = resolved.indices.iter().filter(|index| !index.is_closed());
        let mut found: Vec<Workspace> = open
            .chain(&resolved.aliases)
            .filter_map(|named| codec::workspace_of_index(&named.name))
            .collect();
        found.sort();
        found.dedup();
        let mut unreadable = unreadable(&resolved);
        // Another index of the same workspace can be read.
        unreadable.retain(|missing| {
            !found
                .iter()
                .any(|workspace| workspace.to_string() == missing.name)
        });
        Ok(WorkspaceListing { found, unreadable })
    }

    async fn physical_location(&self, workspace: &Workspace) -> Result<PhysicalLocation> {
        let index = codec::index_name(workspace)?;
        let found = self.client.field(&index, codec::MIRRORED_ID).await?;
        let can_search_keys = found.as_ref().map(FoundField::is_searchable);
        let fact = self.client.pauses.remember(can_search_keys);
        self.can_search_keys.insert(index.clone(), fact);
        // The location is given by the indices of an alias, not by the alias.
        let indices = match found {
            Some(found) if !found.indices.is_empty() => found.indices.join(","),
            _ => index,
        };
        Ok(PhysicalLocation {
            server: self.client.cluster().to_owned(),
            place: format!("index {indices}"),
        })
    }

    async fn source(&self, workspace: &Workspace) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(self.open(workspace)?))
    }

    async fn target(&self, workspace: &Workspace) -> Result<Arc<dyn Target>> {
        Ok(Arc::new(OpenSearchTarget::new(
            self.open(workspace)?,
            &self.config,
            Arc::clone(&self.waiter),
        )))
    }
}

/// The workspaces whose caches cannot be read, each with why.
fn unreadable(resolved: &Resolved) -> Vec<UnreadableWorkspace> {
    let named = |found: &ResolvedName, reason: String| {
        let name = codec::workspace_of_index(&found.name)?.to_string();
        Some(UnreadableWorkspace { name, reason })
    };
    let closed = resolved.indices.iter().filter(|index| index.is_closed());
    let closed = closed.filter_map(|index| {
        let name = &index.name;
        named(
            index,
            format!("the index {name} is closed; open it: POST /{name}/_open"),
        )
    });
    let streams = resolved.data_streams.iter().filter_map(|stream| {
        let why = format!(
            "{} is a data stream, but LightRAG stores its cache in an index",
            stream.name
        );
        named(stream, why)
    });
    closed.chain(streams).collect()
}

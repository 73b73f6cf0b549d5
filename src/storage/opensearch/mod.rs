//! LightRAG's `OpenSearchKVStorage`: one index a workspace, one document a record.
//!
//! * `config`: which servers, as whom, and how an index is made.
//! * `client`: requests and answers, and what went wrong with them in this program's words.
//! * `codec`: a record ↔ a document, and the names of indices.
//! * `inspect`: whether an index keeps what is written to it, before anything is.
//! * `mapping`: what an index expects of fields, and how to make it take records that it refuses.
//! * `scan`: reading an index as a whole, in the order in which it was written.
//! * `source`, `target`: counting, and finding documents by key; writing in bulk.

mod client;
mod codec;
mod config;
mod inspect;
mod mapping;
mod scan;
mod source;
mod target;

use std::{num::NonZeroUsize, sync::Arc};

use async_trait::async_trait;

use self::{
    client::{Client, Resolved, ResolvedName},
    config::{Config, Trust},
    source::OpenSearchSource,
    target::OpenSearchTarget,
};
use super::{
    ConnectOptions, Connection, Connector, ConnectorInfo, Source, Target, WorkspaceListing, tls::unverified,
};
use crate::model::{Location, PhysicalLocation, Workspace};
use crate::model::{Result, Secret, Values};

/// The indices of `OpenSearchKVStorage`.
pub struct OpenSearch;

/// What this storage is called, and where its settings come from.
const INFO: ConnectorInfo = ConnectorInfo {
    kind: "opensearch",
    title: "OpenSearch",
    class_name: Some("OpenSearchKVStorage"),
    aliases: &["os"],
    schemes: &["http", "https"],
    takes_paths: false,
    ini_section: Some("opensearch"),
    workspace_variable: Some("OPENSEARCH_WORKSPACE"),
    workspace_ini_key: None,
    trims_workspace: true,
    batch_bytes: NonZeroUsize::new(2 << 20).unwrap(),
    fields: config::FIELDS,
};

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
        }))
    }
}

struct OpenSearchStorage {
    config: Config,
    client: Arc<Client>,
}

#[async_trait]
impl Connection for OpenSearchStorage {
    fn location(&self) -> Location {
        Location {
            kind: INFO.kind.to_owned(),
            location: self.config.parse_uri(),
        }
    }

    /// LightRAG trusts anybody by default, and so does a migration that has no other setting.
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
    /// hold. Whether `space_1` is short for `Space 1`, nobody can tell any more.
    async fn workspaces(&self) -> Result<WorkspaceListing> {
        let resolved = self
            .client
            .resolve(&codec::any_index(), "list the indices")
            .await?;
        for (workspace, why) in unreadable(&resolved) {
            tracing::warn!("the workspace {workspace} is left out: {why}");
        }
        let open = resolved.indices.iter().filter(|index| !index.is_closed());
        let mut found: Vec<Workspace> = open
            .chain(&resolved.aliases)
            .filter_map(|named| codec::workspace_of_index(&named.name))
            .collect();
        found.sort();
        found.dedup();
        Ok(found.into())
    }

    async fn physical_location(&self, workspace: &Workspace) -> Result<PhysicalLocation> {
        let index = codec::index_name(workspace)?;
        let found = self.client.field(&index, codec::MIRRORED_ID).await?;
        // An alias is not the place; the indices behind it are.
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
        let index = codec::index_name(workspace)?;
        Ok(Arc::new(OpenSearchSource::new(Arc::clone(&self.client), index)))
    }

    async fn target(&self, workspace: &Workspace) -> Result<Arc<dyn Target>> {
        let index = codec::index_name(workspace)?;
        let source = OpenSearchSource::new(Arc::clone(&self.client), index);
        Ok(Arc::new(OpenSearchTarget::new(source, &self.config)))
    }
}

/// The workspaces whose caches cannot be read, each with why.
fn unreadable(resolved: &Resolved) -> Vec<(Workspace, String)> {
    let named = |found: &ResolvedName, why: String| Some((codec::workspace_of_index(&found.name)?, why));
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
            "{} is a data stream, and LightRAG keeps its cache in an index",
            stream.name
        );
        named(stream, why)
    });
    closed.chain(streams).collect()
}

//! LightRAG's `OpenSearchKVStorage`: one index a workspace, one document a record.
//!
//! * `config`: which servers, as whom, and how an index is made.
//! * `client`: requests and answers, and what went wrong with them in this program's words.
//! * `layout`: a record ↔ a document, and the names of indices.
//! * `mapping`: what an index expects of fields, and how to make it take records that it refuses.
//! * `scan`: reading an index as a whole, in the order in which it was written.
//! * `source`, `target`: counting, and finding documents by key; writing in bulk.

mod client;
mod codec;
mod config;
mod mapping;
mod scan;
mod source;
mod target;

use std::{num::NonZeroUsize, sync::Arc};

use async_trait::async_trait;

use self::{
    client::Client,
    config::{Config, Trust},
    source::OpenSearchSource,
    target::OpenSearchTarget,
};
use super::{ConnectOptions, Connection, Connector, Source, Target, tls::unverified};
use crate::model::{Field, Result, Secret, Values};
use crate::model::{Location, PhysicalLocation, Workspace};

/// The indices of `OpenSearchKVStorage`.
pub struct OpenSearch;

#[async_trait]
impl Connector for OpenSearch {
    fn kind(&self) -> &'static str {
        "opensearch"
    }

    fn title(&self) -> &'static str {
        "OpenSearch"
    }

    fn class_name(&self) -> &'static str {
        "OpenSearchKVStorage"
    }

    fn aliases(&self) -> &'static [&'static str] {
        &["os"]
    }

    fn schemes(&self) -> &'static [&'static str] {
        &["http", "https"]
    }

    fn ini_section(&self) -> Option<&'static str> {
        Some("opensearch")
    }

    fn workspace_variable(&self) -> Option<&'static str> {
        Some("OPENSEARCH_WORKSPACE")
    }

    fn batch_bytes(&self) -> NonZeroUsize {
        const { NonZeroUsize::new(3 << 20).unwrap() }
    }

    fn fields(&self) -> &'static [Field] {
        config::FIELDS
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
            kind: OpenSearch.kind().to_owned(),
            location: self.config.parse_uri(),
        }
    }

    /// LightRAG trusts anybody by default, and so does a migration that has no other setting.
    fn warning(&self) -> Option<String> {
        let is_unverified =
            self.config.trust == Trust::Anyone && self.config.hosts.iter().any(|host| host.tls);
        let remedy = "set OPENSEARCH_VERIFY_CERTS=true or ca_cert to have it checked";
        is_unverified.then(|| unverified(&self.config.parse_uri(), remedy))
    }

    /// The workspaces as the names of indices tell them: in lower case, and with `_` for what such a name cannot
    /// hold. Whether `space_1` is short for `Space 1`, nobody can tell any more.
    async fn workspaces(&self) -> Result<Vec<Workspace>> {
        let names = self.client.index_names(&codec::any_index()).await?;
        let mut found: Vec<Workspace> = names
            .iter()
            .filter_map(|name| codec::workspace_of_index(name))
            .collect();
        found.sort();
        found.dedup();
        Ok(found)
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

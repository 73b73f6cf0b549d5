//! A storage that this build was compiled without: known by name, so that the error names what is missing.

use std::sync::Arc;

use async_trait::async_trait;

use super::{ConnectOptions, Connection, Connector, ConnectorInfo};
use crate::model::{Error, Result, Secret, Values};

/// A placeholder for the storage with this metadata, which refuses to connect.
pub(super) struct NotCompiled(pub(super) &'static ConnectorInfo);

impl NotCompiled {
    fn error(&self) -> Error {
        let ConnectorInfo { title, kind, .. } = self.0;
        Error::config(format!("this build of migrate-llm-cache does not include {title}")).with_remedy(format!(
            "install a released package, which includes every storage, or build with `cargo build --features {kind}`"
        ))
    }
}

#[async_trait]
impl Connector for NotCompiled {
    fn info(&self) -> &'static ConnectorInfo {
        self.0
    }

    fn parse_uri(&self, _place: &str) -> Result<Vec<(&'static str, Secret)>> {
        Err(self.error())
    }

    async fn connect(&self, _values: &Values, _options: &ConnectOptions) -> Result<Arc<dyn Connection>> {
        Err(self.error())
    }
}

//! One side of a run: which storage, with which settings.

use std::sync::Arc;

use super::{ConnectOptions, Connection, Connector};
use crate::model::{ErrorKind, Result, Values, WorkspaceChoice};

/// One side: which storage, with which settings.
pub struct Endpoint {
    /// The storage.
    pub connector: &'static dyn Connector,
    /// Its settings.
    pub values: Values,
}

impl Endpoint {
    /// Connects to the storage.
    ///
    /// # Errors
    /// Wrong settings, an unreachable server, a refused login. The message says where the settings came from.
    pub async fn connect(&self, options: &ConnectOptions) -> Result<Arc<dyn Connection>> {
        let connected = self.connector.connect(&self.values, options).await;
        connected.map_err(|error| match error.kind() {
            // It names the one setting that is wrong.
            ErrorKind::Config => error,
            _ => error.with_settings(&self.values.address_origins()),
        })
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint")
            .field("kind", &self.connector.kind())
            .field("values", &self.values)
            .finish()
    }
}

/// From where to where a run goes.
#[derive(Debug)]
pub struct Route {
    /// Where it reads.
    pub source: Endpoint,
    /// Where it writes.
    pub target: Endpoint,
    /// Which workspaces.
    pub workspaces: WorkspaceChoice,
}

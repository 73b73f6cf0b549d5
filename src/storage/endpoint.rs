//! One side of a run: a storage and its settings.

use std::{path::PathBuf, sync::Arc};

use super::{ConnectOptions, Connection, Connector};
use crate::model::{ErrorKind, Result, Values, WorkspaceChoice};

/// One side of a run: a storage and its settings.
pub struct Endpoint {
    /// The storage.
    pub connector: &'static dyn Connector,
    /// Its settings.
    pub values: Values,
}

impl Endpoint {
    /// The local files of the storage, existing or not.
    pub fn files(&self) -> Vec<PathBuf> {
        self.connector.files(&self.values)
    }

    /// Connects to the storage.
    ///
    /// # Errors
    /// Invalid settings, an unreachable server, a refused login. The message names the origins of the settings.
    pub async fn connect(&self, options: &ConnectOptions) -> Result<Arc<dyn Connection>> {
        let connected = self.connector.connect(&self.values, options).await;
        connected.map_err(|error| match error.kind() {
            // The message names the invalid setting already.
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

/// Both sides of a run, and its workspaces.
#[derive(Debug)]
pub struct Route {
    /// The side that is read.
    pub source: Endpoint,
    /// The side that is written.
    pub target: Endpoint,
    /// The workspaces on both sides.
    pub workspaces: WorkspaceChoice,
}

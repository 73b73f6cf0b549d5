//! One side of a run: which storage, with which settings.

use std::sync::Arc;

use super::{ConnectOptions, Connection, Connector};
use crate::model::{Field, Result, Values, WorkspaceChoice};

/// One side: which storage, with which settings.
pub struct Endpoint {
    /// The storage.
    pub connector: &'static dyn Connector,
    /// Its settings.
    pub values: Values,
}

impl Endpoint {
    /// The settings without which nothing works and that nobody gave.
    pub fn missing(&self) -> impl Iterator<Item = &'static Field> {
        let fields = self.connector.fields().iter();
        fields.filter(|field| field.required && self.values.get(field.name).is_none())
    }

    /// Connects to the storage.
    ///
    /// # Errors
    /// Wrong settings, an unreachable server, a refused login.
    pub async fn connect(&self, options: &ConnectOptions) -> Result<Arc<dyn Connection>> {
        self.connector.connect(&self.values, options).await
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

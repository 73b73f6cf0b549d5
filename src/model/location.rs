//! Locations of storages.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Kind and address of a storage, without secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Location {
    /// The kind: `json`, `redis`, …
    pub kind: String,
    /// The address, with passwords replaced by `***`.
    pub location: String,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.location)
    }
}

/// The place where the records of a workspace are stored. Equal locations are the same place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PhysicalLocation {
    /// The server or file system, by its own identity if it has one.
    pub server: String,
    /// The place within it: `index space1_llm_response_cache`.
    pub place: String,
}

//! Where a storage is.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

/// Kind and place of a storage, with no secret in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Location {
    /// The kind: `json`, `redis`, …
    pub kind: String,
    /// The place, passwords replaced by `***`.
    pub location: String,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.location)
    }
}

/// Where the records of one workspace live: equal containers are the same place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PhysicalLocation {
    /// The server or file system: an identity that it gives of itself where it has one.
    pub server: String,
    /// The place in it: `index space1_llm_response_cache`.
    pub place: String,
}

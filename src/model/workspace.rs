//! Workspaces, and which of them a run moves.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

use super::{Error, Result};

/// The name of LightRAG's cache among its key-value storages.
pub const NAMESPACE: &str = "llm_response_cache";

/// The name under which LightRAG keeps one of several data sets apart. May be empty.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Workspace(String);

impl Workspace {
    /// A workspace of this name.
    ///
    /// # Errors
    /// What LightRAG refuses: `/` or `\` in it, `.` and `..`.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        if name.contains(['/', '\\']) || name == "." || name == ".." || name.contains('\0') {
            return Err(
                Error::config(format!("the workspace {name:?} cannot be a folder's name"))
                    .with_remedy("a workspace holds no `/` and no `\\`, and is not `.` or `..`"),
            );
        }
        Ok(Self(name))
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// LightRAG's name for this workspace's cache where storages separate workspaces by prefix:
    /// `[workspace_]llm_response_cache`.
    pub fn prefixed_namespace(&self) -> String {
        if self.0.is_empty() {
            NAMESPACE.to_owned()
        } else {
            format!("{}_{NAMESPACE}", self.0)
        }
    }
}

impl fmt::Display for Workspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            f.write_str("(empty)")
        } else {
            f.write_str(&self.0)
        }
    }
}

impl fmt::Debug for Workspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A workspace of the source and where its records go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct WorkspacePair {
    /// The workspace that is read.
    pub from: Workspace,
    /// The workspace that is written.
    pub to: Workspace,
}

/// Which workspaces a run moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkspaceChoice {
    /// Whatever the source has, under the same names.
    All,
    /// These. Never empty.
    Pairs(Vec<WorkspacePair>),
}

//! Workspaces, and the choice of those that a run moves.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Error, Origin, Result};

/// The name of LightRAG's cache among its key-value storages.
pub const NAMESPACE: &str = "llm_response_cache";

/// The variable for the workspace of every storage without a workspace variable of its own.
pub const WORKSPACE_VARIABLE: &str = "WORKSPACE";

/// The name of a data set in LightRAG. May be empty.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Workspace(String);

impl Workspace {
    /// A workspace of this name.
    ///
    /// # Errors
    /// The name is invalid for LightRAG: it contains `/`, `\` or NUL, or is `.` or `..`.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        if name.contains(['/', '\\']) || name == "." || name == ".." || name.contains('\0') {
            return Err(
                Error::config(format!("the workspace {name:?} is not a valid folder name"))
                    .with_remedy("use a name without `/` and `\\` that is not `.` or `..`"),
            );
        }
        Ok(Self(name))
    }

    /// Empty for the workspace without a name.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// The name that LightRAG's server uses for a `WORKSPACE` of this name. The same for most names.
    pub fn as_server_names_it(&self) -> Self {
        Self::named_by_server(&self.0)
    }

    /// What LightRAG's server makes of any text in `WORKSPACE`, also of one that [`Workspace::new`] refuses.
    pub fn named_by_server(text: &str) -> Self {
        let safe = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        Self(text.chars().map(safe).collect())
    }

    /// LightRAG's name for this workspace's cache in storages that separate workspaces by prefix:
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

/// A workspace of the source and the workspace of the target that receives its records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct WorkspacePair {
    /// The workspace that is read.
    pub from: Workspace,
    /// The workspace that is written.
    pub to: Workspace,
}

/// A workspace, and the setting that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedWorkspace {
    /// What the setting names, after any renaming.
    pub workspace: Workspace,
    /// The setting that names it.
    pub origin: Origin,
    /// The text as written, where it cannot be a workspace name and LightRAG's server makes this name of it.
    pub renamed_from: Option<String>,
}

impl NamedWorkspace {
    /// A workspace that is named as it is.
    pub fn new(workspace: Workspace, origin: Origin) -> Self {
        Self {
            workspace,
            origin,
            renamed_from: None,
        }
    }
}

impl Default for NamedWorkspace {
    /// The empty workspace, LightRAG's default.
    fn default() -> Self {
        Self::new(Workspace::default(), Origin::Default)
    }
}

/// A pair of workspaces, and the settings that name them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPair {
    /// The workspace that is read.
    pub from: NamedWorkspace,
    /// The workspace that is written.
    pub to: NamedWorkspace,
}

/// The workspaces that a run moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkspaceChoice {
    /// All workspaces of the source, under the same names.
    All,
    /// These pairs. Never empty.
    Pairs(Vec<NamedPair>),
}

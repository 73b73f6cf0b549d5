//! Determines which records of a cache LightRAG will find: which prompts it sends, and which keys it looks up.
//!
//! A key ends in a hash of the prompt and, since LightRAG 1.5, of the identity of the model. `scheme` computes the hash;
//! `candidates` explains a key by recomputing it; `templates` recognizes the prompts of LightRAG's releases; `examine`
//! combines them, counts records and makes copies; `workspace` does so for a workspace that is being moved, `survey` for
//! one that is not.

mod candidates;
mod examine;
mod prompt;
mod scheme;
mod survey;
mod templates;
mod workspace;

pub(crate) use examine::Examined;
pub use examine::Examiner;
pub(crate) use survey::Survey;
pub use workspace::WorkspaceHits;

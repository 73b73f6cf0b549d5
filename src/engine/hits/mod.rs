//! Determines which records of a cache LightRAG will find: which prompts it sends, and which keys it looks up.
//!
//! A key ends in a hash of the prompt and, since LightRAG 1.5, of the identity of the model. `scheme` computes it, `md5`
//! for many prompts at once, and
//! `candidates` finds what explains a key by computing it again; `templates` recognizes the prompts of LightRAG's
//! releases; `examine` puts both together, counts, and makes copies of records; `workspace` is what a run knows of a
//! workspace while it moves it, and `survey` examines one without moving it.

mod candidates;
mod examine;
mod md5;
mod prompt;
mod scheme;
mod survey;
mod templates;
mod workspace;

pub(crate) use examine::Examined;
pub use examine::Examiner;
pub(crate) use survey::Survey;
pub use workspace::WorkspaceHits;

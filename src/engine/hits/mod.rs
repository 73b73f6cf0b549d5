//! Whether LightRAG will find what is in a cache: under which key it asks, and for which prompts.
//!
//! A key ends in a hash of the prompt and, since LightRAG 1.5, of the identity of the model. `scheme` computes it, and
//! `candidates` finds what explains a key by computing it again; `templates` recognizes the prompts of LightRAG's
//! releases; `examine` puts both together, counts, and makes the copies that a run adds.

mod candidates;
mod examine;
mod prompt;
mod scheme;
mod templates;

pub use examine::Examiner;
pub(crate) use examine::{Examined, is_computable};

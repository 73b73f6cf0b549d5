//! What travels: a cache key, the JSON text behind it, and which records a run selects.

pub mod compare;
mod digest;
mod entry;
mod json_text;
mod key;
mod sanitize;

pub use digest::{KeyDigest, KeySet};
pub use entry::{Fields, Invalid, Record, RejectKind};
pub use json_text::{ObjectWriter, unescape};
pub use key::CacheKey;
pub use sanitize::{OnInvalid, TextRules, sanitize};

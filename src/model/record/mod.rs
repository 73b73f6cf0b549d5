//! Cache records: keys, and values as JSON text.

pub mod compare;
mod digest;
mod entry;
mod json_text;
mod key;
mod sanitize;

pub use digest::{KeyDigest, KeySet};
pub use entry::{DEFAULT_TYPE, Fields, Invalid, Record, RejectKind};
pub use json_text::{ObjectWriter, unescape};
pub(crate) use json_text::{is_json_for_python, without_python_numbers};
pub use key::{CacheKey, KeyForm};
pub use sanitize::{OnInvalid, TextRules, sanitize};

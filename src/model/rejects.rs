//! A line of a rejects file: written by a run, read back by a later one.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::record::RejectKind;

/// The extension by which a source is recognized as a rejects file.
pub const EXTENSION: &str = "jsonl";

/// A line of a rejects file: a record, and why it was not moved.
#[derive(Debug, Serialize, Deserialize)]
pub struct RejectLine<'a> {
    /// The key.
    #[serde(borrow)]
    pub key: Cow<'a, str>,
    /// The workspace of the source.
    #[serde(borrow)]
    pub workspace: Cow<'a, str>,
    /// The kind of reason.
    pub kind: RejectKind,
    /// The reason as text.
    #[serde(borrow)]
    pub reason: Cow<'a, str>,
    /// The value as it was read, if it is JSON.
    #[serde(borrow)]
    pub record: Option<&'a RawValue>,
    /// The value as it was read, if it is not JSON: text, with bytes that are not UTF-8 replaced by `\u{fffd}`.
    pub text: Option<String>,
}

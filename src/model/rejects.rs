//! A line of a rejects file: written by a run, read back by a later one.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::record::RejectKind;

/// The ending of rejects files, by which a run that reads one back knows it.
pub const EXTENSION: &str = "jsonl";

/// One line: a record with the reason why it was not moved.
#[derive(Debug, Serialize, Deserialize)]
pub struct RejectLine<'a> {
    /// The key.
    #[serde(borrow)]
    pub key: Cow<'a, str>,
    /// The workspace of the source.
    #[serde(borrow)]
    pub workspace: Cow<'a, str>,
    /// Why, in one word.
    pub kind: RejectKind,
    /// Why, for a person.
    #[serde(borrow)]
    pub reason: Cow<'a, str>,
    /// The value as it was read, where that is JSON.
    #[serde(borrow)]
    pub record: Option<&'a RawValue>,
    /// The value as it was read, where it is no JSON: text, bytes that are no UTF-8 replaced by `\u{fffd}`.
    pub text: Option<String>,
}

//! Reading a rejects file back: JSON lines, each with a record that an earlier run could not move.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::value::RawValue;

use crate::{
    model::{
        Error, ErrorKind, Result, Selection, Workspace,
        record::{CacheKey, Invalid, KeyDigest, KeySet, Record, RejectKind},
        rejects::RejectLine,
    },
    storage::{
        Count, Cursor, Entry, PageBuilder, PageLimit, PageReader, Progress, Source, WorkspaceListing,
        files::{SentPages, blocking},
    },
};

/// The rejected records of one workspace.
pub(super) struct RejectsSource {
    path: PathBuf,
    workspace: Workspace,
}

/// A line that was read.
struct Rejected {
    workspace: String,
    entry: Entry,
}

impl RejectsSource {
    pub(super) fn new(path: PathBuf, workspace: &Workspace) -> Self {
        Self {
            path,
            workspace: workspace.clone(),
        }
    }
}

/// The workspaces from which records were rejected.
///
/// # Errors
/// The file cannot be read or is no rejects file.
pub(super) fn workspaces(path: &Path) -> Result<WorkspaceListing> {
    let mut found = BTreeSet::new();
    for_each_line(path, |rejected| {
        found.insert(Workspace::new(rejected.workspace)?);
        Ok(true)
    })?;
    Ok(Vec::from_iter(found).into())
}

/// Reads line by line, until the end or until `each` has had enough.
fn for_each_line(path: &Path, mut each: impl FnMut(Rejected) -> Result<bool>) -> Result<()> {
    let failed = |error| Error::io("read the rejects file", path, error);
    let mut lines = BufReader::with_capacity(1 << 18, File::open(path).map_err(failed)?);
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        if lines.read_until(b'\n', &mut line).map_err(failed)? == 0 {
            break;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let rejected = read_line(&line).map_err(|error| {
            let message = format!(
                "{} line {number} is no line of a rejects file: {error}",
                path.display()
            );
            Error::new(ErrorKind::Damaged, message).with_remedy("name a file that --rejects wrote")
        })?;
        if !each(rejected)? {
            break;
        }
    }
    Ok(())
}

fn read_line(line: &[u8]) -> Result<Rejected, serde_json::Error> {
    let line: RejectLine<'_> = serde_json::from_slice(line)?;
    let key = CacheKey::new(line.key.as_ref());
    let entry = match (line.record, line.text) {
        (None, Some(text)) => Entry::Invalid(Invalid {
            key,
            kind: RejectKind::InvalidJson,
            reason: "what was rejected was no JSON, and still is not".to_owned(),
            raw: text.into(),
        }),
        // JSON's own null cannot be told from none.
        (record, _) => {
            let text = record.map_or("null", RawValue::get);
            Record::new(key, Bytes::copy_from_slice(text.as_bytes())).into()
        }
    };
    Ok(Rejected {
        workspace: line.workspace.into_owned(),
        entry,
    })
}

#[async_trait]
impl Source for RejectsSource {
    async fn count(&self, selection: &Selection, _: Progress<'_>) -> Result<Count> {
        let (path, workspace, selection) = (self.path.clone(), self.workspace.clone(), selection.clone());
        blocking(move || {
            let mut seen = KeySet::new();
            let mut count = Count::none();
            for_each_line(&path, |rejected| {
                let key = rejected.entry.key().as_str();
                if rejected.workspace == workspace.name() && seen.insert(KeyDigest::of(key)) {
                    count.add(&selection, key, 1);
                }
                Ok(true)
            })?;
            Ok(count)
        })
        .await
    }

    /// A rejects file is short, and has no cursors: a run that stops begins it again.
    fn scan(
        self: Arc<Self>,
        selection: &Selection,
        limit: PageLimit,
        _: Option<Cursor>,
    ) -> Box<dyn PageReader> {
        let selection = selection.clone();
        Box::new(SentPages::of(move |pages| {
            let mut seen = KeySet::new();
            let mut page = PageBuilder::new(limit);
            for_each_line(&self.path, |rejected| {
                let key = rejected.entry.key().as_str();
                let selected = rejected.workspace == self.workspace.name() && selection.contains(key);
                if selected && seen.insert(KeyDigest::of(key)) {
                    page.push(rejected.entry);
                } else {
                    page.pass_over();
                }
                Ok(!page.is_full() || pages.blocking_send(Ok(page.take(None))).is_ok())
            })?;
            let _ = pages.blocking_send(Ok(page.take(None)));
            Ok(())
        }))
    }

    /// Reads the file once for each call: it is short, and this serves verifications alone.
    async fn get_many(&self, keys: &[CacheKey]) -> Result<Vec<Option<Entry>>> {
        let (path, workspace, keys) = (self.path.clone(), self.workspace.clone(), keys.to_vec());
        blocking(move || {
            let mut found = vec![None; keys.len()];
            for_each_line(&path, |rejected| {
                if rejected.workspace == workspace.name() {
                    for (at, _) in keys
                        .iter()
                        .enumerate()
                        .filter(|(_, key)| *key == rejected.entry.key())
                    {
                        found[at].get_or_insert_with(|| rejected.entry.clone());
                    }
                }
                Ok(true)
            })?;
            Ok(found)
        })
        .await
    }
}

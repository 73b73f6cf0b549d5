//! Writing a cache file: to a temporary file, which replaces it at the end.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;

use super::{
    codec::{CacheFile, EntryReader, Position, push_entry, read_key},
    source::{JsonSource, entry_at, key_at},
    splitter::{SplitError, Splitter, WINDOW},
};
use crate::{
    model::{
        Error, ErrorKind, Result,
        record::{CacheKey, KeyDigest, KeySet, Record},
    },
    storage::{
        Entry, Size, Source, Target, WriteMode, WriteOutcome,
        files::{Draft, DraftSlot, Positions, blocking, check_writable, existing},
    },
};

/// The cache file of a workspace, for reading and writing.
///
/// Reads return the file as it was before the run. New records are written to a temporary file in the same folder. At the
/// end, the other records of the old file are added, and it is renamed over the old one, so that no reader sees a partial
/// file. The written keys are read back from the temporary file for that, at 20 bytes each; if there is no old file, they
/// are not needed.
pub(super) struct JsonTarget {
    source: Arc<JsonSource>,
    draft: DraftSlot<CacheDraft>,
    published: Arc<OnceLock<Published>>,
    is_prepared: AtomicBool,
}

/// The new file, after the replacement.
#[derive(Debug)]
struct Published {
    entries: u64,
    positions: Positions<u64>,
}

impl JsonTarget {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            source: Arc::new(JsonSource::new(path, false)),
            draft: DraftSlot::default(),
            published: Arc::default(),
            is_prepared: AtomicBool::new(false),
        }
    }
}

#[async_trait]
impl Target for JsonTarget {
    fn reader(&self) -> Arc<dyn Source> {
        Arc::clone(&self.source) as Arc<dyn Source>
    }

    async fn check_writable(&self) -> Result<()> {
        let path = self.source.path().clone();
        blocking(move || check_writable(&path)).await
    }

    async fn prepare(&self) -> Result<()> {
        let path = self.source.path().clone();
        // The first write creates the draft, so that of many workspaces only those that are being written have an open file
        // and memory.
        blocking(move || Draft::prepare(&path)).await?;
        self.is_prepared.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn write(&self, batch: &[Record], mode: WriteMode) -> Result<Vec<WriteOutcome>> {
        let kept = existing(&*self.source, batch, mode).await?;
        if !self.is_prepared.load(Ordering::Relaxed) {
            return Err(not_prepared());
        }
        let (batch, path) = (batch.to_vec(), self.source.path().clone());
        self.draft
            .with(move |draft| {
                let draft = match draft {
                    Some(draft) => draft,
                    None => draft.insert(CacheDraft::begin(&path)?),
                };
                let written = batch.iter().zip(kept).map(|(record, kept)| {
                    if kept {
                        return Ok(WriteOutcome::Exists);
                    }
                    draft.add(record).map(|()| WriteOutcome::written())
                });
                written.collect()
            })
            .await
    }

    fn is_visible_when_flushed(&self) -> bool {
        false
    }

    fn warning(&self) -> Option<String> {
        self.source.path().exists().then(|| {
            "a running LightRAG keeps its JSON files in memory and writes them back: stop it before and start it after \
             the migration"
                .to_owned()
        })
    }

    async fn flush(&self) -> Result<()> {
        self.draft
            .with(|draft| draft.as_mut().map_or(Ok(()), |draft| draft.file.flush()))
            .await
    }

    async fn finish(&self) -> Result<()> {
        let published = Arc::clone(&self.published);
        self.draft
            .with(move |draft| {
                let filled = draft.as_ref().filter(|draft| draft.entries > 0);
                // Before the draft is taken, so that the call can be repeated if that fails.
                let _lock = filled.map(|draft| draft.file.replace_lock()).transpose()?;
                match draft.take() {
                    // A run that wrote nothing does not change the file.
                    Some(draft) if draft.entries > 0 => {
                        let _ = published.set(draft.publish()?);
                        Ok(())
                    }
                    _ => Ok(()),
                }
            })
            .await
    }

    async fn read_back(&self, keys: &[CacheKey]) -> Result<Vec<Option<Entry>>> {
        self.look_up(keys, entry_at, |entry| entry).await
    }

    async fn has(&self, keys: &[CacheKey]) -> Result<Vec<bool>> {
        let found = self.look_up(keys, key_at, drop).await?;
        Ok(found.iter().map(Option::is_some).collect())
    }

    async fn size(&self) -> Result<Option<Size>> {
        let entries = match self.published.get() {
            Some(published) => Some(published.entries),
            None => self.source.size().await?,
        };
        Ok(entries.map(|entries| Size {
            entries,
            grows_by_new_only: true,
        }))
    }
}

impl JsonTarget {
    /// Looks keys up in the file as it is now: where they were written, or else anywhere.
    async fn look_up<T: Clone + Send + 'static>(
        &self,
        keys: &[CacheKey],
        at: fn(&Arc<CacheFile>, Position, &CacheKey) -> Result<Option<T>>,
        of_entry: fn(Entry) -> T,
    ) -> Result<Vec<Option<T>>> {
        let path = self.source.path().clone();
        let published = Arc::clone(&self.published);
        // Open the file again: the source has the replaced one open.
        let now = JsonSource::new(path, false);
        let Some(file) = now.file().await? else {
            return Ok(vec![None; keys.len()]);
        };
        let asked = keys.to_vec();
        let found = blocking(move || {
            let positions = published.get().map(|published| &published.positions);
            let find = |key: &CacheKey| {
                let position = Position {
                    offset: positions?.of(key)?,
                    mode: None,
                    first: true,
                };
                at(&file, position, key).ok().flatten()
            };
            Ok(asked.iter().map(find).collect::<Vec<_>>())
        });
        let mut found = found.await?;
        // If the file was replaced since, or the position of the key was not noted, search for it.
        let unknown: Vec<usize> = (0..keys.len()).filter(|at| found[*at].is_none()).collect();
        if !unknown.is_empty() {
            let keys: Vec<CacheKey> = unknown.iter().map(|at| keys[*at].clone()).collect();
            for (at, entry) in unknown.into_iter().zip(now.get_many(&keys).await?) {
                found[at] = entry.map(of_entry);
            }
        }
        Ok(found)
    }
}

fn not_prepared() -> Error {
    Error::new(
        ErrorKind::Internal,
        "a JSON target was written before it was prepared",
    )
}

/// The cache file that is being written.
#[derive(Debug)]
struct CacheDraft {
    file: Draft,
    entries: u64,
    positions: Positions<u64>,
}

impl CacheDraft {
    fn begin(path: &Path) -> Result<Self> {
        let mut file = Draft::begin(path)?;
        file.pending().push(b'{');
        Ok(Self {
            file,
            entries: 0,
            positions: Positions::default(),
        })
    }

    /// Adds a record. A record that changed while the source was read may be added twice: the
    /// last value counts for every reader of JSON, including LightRAG's `json.load`.
    fn add(&mut self, record: &Record) -> Result<()> {
        self.push(record.key().as_str(), &record.with_own_id())
    }

    fn push(&mut self, key: &str, value: &[u8]) -> Result<()> {
        let key_json = serde_json::to_vec(key).map_err(|error| {
            Error::new(ErrorKind::Internal, "a key cannot be serialized").caused_by(error)
        })?;
        let is_first = self.entries == 0;
        // After the comma.
        let offset = self.file.len() + u64::from(!is_first);
        self.positions.note(key, offset);
        push_entry(self.file.pending(), is_first, &key_json, value);
        self.entries += 1;
        self.file.write_if_full()
    }

    /// Adds the other records of the old file, and replaces it with the new one. No other run may replace it meanwhile.
    fn publish(mut self) -> Result<Published> {
        let old = CacheFile::open(self.file.path())?;
        if let Some(old) = &old {
            self.add_others(old)?;
        }
        self.file.pending().extend_from_slice(b"\n}\n");
        let old = old.map(|old| old.metadata()).transpose()?;
        self.file.publish(old.as_ref())?;
        Ok(Published {
            entries: self.entries,
            positions: self.positions,
        })
    }

    /// The keys of the records that were added.
    fn written(&mut self) -> Result<KeySet> {
        let file = self.file.reopen()?;
        let path = self.file.path();
        first_keys(file, self.entries).map_err(|error| match error {
            SplitError::Io(error) => Error::io("read back", path, error),
            SplitError::Syntax { offset, what } => {
                let message = format!(
                    "the new file for {} cannot be read back: byte {offset}: {what}",
                    path.display()
                );
                Error::new(ErrorKind::Internal, message)
            }
        })
    }

    /// Copies every entry of the old file whose key was not written, with any value; an old nested one becomes a
    /// flat one.
    fn add_others(&mut self, old: &Arc<CacheFile>) -> Result<()> {
        let written = self.written()?;
        let mut reader = EntryReader::new(old, None)?;
        while let Some(mut found) = reader.next()? {
            let value = reader.take(&mut found)?;
            let key = found.key.as_str();
            if written.contains(KeyDigest::of(key)) {
                continue;
            }
            if serde_json::from_slice::<&serde_json::value::RawValue>(&value).is_err() || found.unreadable_key
            {
                let message = format!(
                    "{} contains no valid JSON after the key {key}",
                    self.file.path().display()
                );
                let remedy = "repair or remove that entry; the file is unchanged";
                return Err(Error::new(ErrorKind::Damaged, message).with_remedy(remedy));
            }
            self.push(key, &value)?;
        }
        Ok(())
    }
}

/// The keys of the first entries of a file, which may end after them.
fn first_keys(file: File, entries: u64) -> Result<KeySet, SplitError> {
    let mut keys = KeySet::new();
    let mut splitter = Splitter::new(file, 0, WINDOW);
    splitter.begin()?;
    for at in 0..entries {
        if let Some(key) = splitter.next_key(at == 0)? {
            let (key, _) = read_key(key);
            keys.insert(KeyDigest::of(&key));
        }
        splitter.skip_value()?;
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[tokio::test]
    async fn keys_are_looked_up_in_the_file_as_it_is_now() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w/kv_store_llm_response_cache.json");
        let target = JsonTarget::new(path.clone());
        let keys = ["default:extract:a", "default:extract:b", "default:extract:c"].map(CacheKey::from);
        let records = keys
            .clone()
            .map(|key| Record::new(key, Bytes::from_static(br#"{"return": "x"}"#)).unwrap());
        target.prepare().await.unwrap();
        target.write(&records, WriteMode::Upsert).await.unwrap();
        target.finish().await.unwrap();
        assert_eq!(target.has(&keys).await.unwrap(), [true; 3]);
        // One is gone and another in its place, then one is elsewhere.
        let text = std::fs::read_to_string(&path)
            .unwrap()
            .replace("extract:c", "extract:d");
        std::fs::write(&path, text).unwrap();
        assert_eq!(target.has(&keys).await.unwrap(), [true, true, false]);
        let text = r#"{"default:extract:d": {"return": "x"}, "default:extract:a": {"return": "y"}, "default:extract:b": {}}"#;
        std::fs::write(&path, text).unwrap();
        assert_eq!(target.has(&keys).await.unwrap(), [true, true, false]);
    }
}

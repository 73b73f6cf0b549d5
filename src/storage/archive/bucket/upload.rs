//! The requests that write an archive into a bucket.

use std::{fs::File, io::Read, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{
    Error as Failed, ObjectStore, ObjectStoreExt, PutMode, PutPayload, UpdateVersion, multipart::PartId,
};

use super::{super::place::replaced_meanwhile, Bucket, ObjectVersion, failure::lacks_conditions};
use crate::{
    model::{Error, ErrorKind, Result},
    storage::files::blocking,
};

/// The parts in which an archive is uploaded, in bytes.
const PART: usize = 8 << 20;

/// Parts under way at the same time.
const PARTS_AT_ONCE: usize = 4;

/// The answer to a request that replaces only a certain version of an object.
enum PutAnswer {
    Done,
    /// Another version is there.
    Refused,
    /// The service cannot compare versions.
    Unsupported,
}

impl Bucket {
    /// Begins an upload and drops it, to find out whether the service would accept one. Azure cannot be asked.
    ///
    /// # Errors
    /// The service cannot be reached or refuses.
    pub(in super::super) async fn check_writable(&self) -> Result<()> {
        let ask = || async {
            let begin = self.store.create_multipart(&self.key);
            let upload = self.within(self.timeout, "write", begin).await?;
            self.abort(&upload).await;
            Ok(())
        };
        self.is_writable.get_or_try_init(ask).await.copied()
    }

    /// The version of the object; `None` where there is no such object.
    ///
    /// # Errors
    /// The service cannot be reached or refuses.
    pub(in super::super) async fn version(&self) -> Result<Option<ObjectVersion>> {
        let head = || async {
            match self.store.head(&self.key).await {
                Ok(found) => Ok(Some(ObjectVersion::from(&found))),
                Err(Failed::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        };
        self.repeated(self.timeout, "look at", head).await
    }

    /// Uploads a file: a small one with one request, a larger one in parts. When all of it is there, it replaces this version
    /// of the object; `None` if there is to be none.
    ///
    /// # Errors
    /// The service cannot be reached or refuses, another version is there, or the run stops; nothing of the upload is left
    /// then.
    pub(in super::super) async fn upload(
        &self,
        file: File,
        size: u64,
        replaced: Option<&ObjectVersion>,
    ) -> Result<()> {
        if size < PART as u64 {
            let (content, _) = next_part(file).await?;
            self.unless_stopped(self.put(content.into(), replaced)).await?;
        } else {
            self.upload_parts(file, replaced).await?;
        }
        let found = self.version().await?.map_or(0, |found| found.size);
        if found == size {
            return Ok(());
        }
        let message = format!(
            "{} has {found} bytes after {size} were uploaded",
            self.name.display()
        );
        Err(Error::new(ErrorKind::Server, message))
    }

    /// Puts an archive in its place with one request, which the service compares the version for.
    async fn put(&self, content: Bytes, replaced: Option<&ObjectVersion>) -> Result<()> {
        let answer = match self.condition(replaced) {
            Some(mode) => {
                let put = || self.put_if(content.clone(), mode.clone());
                self.repeated(self.upload_limit(), "write", put).await?
            }
            None => PutAnswer::Unsupported,
        };
        match answer {
            PutAnswer::Done => Ok(()),
            PutAnswer::Refused => {
                // The answer to an earlier request may have been lost.
                if self.contains(&content).await? {
                    return Ok(());
                }
                Err(replaced_meanwhile(&self.name))
            }
            PutAnswer::Unsupported => {
                self.check_version(replaced).await?;
                let put = || self.store.put(&self.key, content.clone().into());
                self.repeated(self.upload_limit(), "write", put).await.map(drop)
            }
        }
    }

    /// The request for which the service compares this version with the one that is there; `None` if it did not say enough
    /// about it.
    fn condition(&self, replaced: Option<&ObjectVersion>) -> Option<PutMode> {
        let Some(ObjectVersion { e_tag, version, .. }) = replaced else {
            return Some(PutMode::Create);
        };
        let compared = match self.service.scheme {
            "gs:" => version,
            _ => e_tag,
        };
        compared.as_ref()?;
        Some(PutMode::Update(UpdateVersion {
            e_tag: e_tag.clone(),
            version: version.clone(),
        }))
    }

    async fn put_if(&self, content: Bytes, mode: PutMode) -> object_store::Result<PutAnswer> {
        match self.store.put_opts(&self.key, content.into(), mode.into()).await {
            Ok(_) => Ok(PutAnswer::Done),
            Err(Failed::Precondition { .. } | Failed::AlreadyExists { .. }) => Ok(PutAnswer::Refused),
            Err(error) if lacks_conditions(&error) => Ok(PutAnswer::Unsupported),
            Err(error) => Err(error),
        }
    }

    /// Whether this is the content of the object.
    async fn contains(&self, content: &Bytes) -> Result<bool> {
        let size = self.version().await?.map(|found| found.size);
        if size != Some(content.len() as u64) {
            return Ok(false);
        }
        let get = || async { self.store.get(&self.key).await?.bytes().await };
        let found = self.repeated(self.upload_limit(), "read", get).await?;
        Ok(found == *content)
    }

    /// Checks that the object is still the one that is to be replaced.
    async fn check_version(&self, replaced: Option<&ObjectVersion>) -> Result<()> {
        match (self.version().await?, replaced) {
            (None, None) => Ok(()),
            (Some(now), Some(replaced)) if now.is_same(replaced) => Ok(()),
            _ => Err(replaced_meanwhile(&self.name)),
        }
    }

    async fn upload_parts(&self, file: File, replaced: Option<&ObjectVersion>) -> Result<()> {
        let begin = || self.store.create_multipart(&self.key);
        let upload = self.repeated(self.timeout, "write", begin).await?;
        let sent = match self.unless_stopped(self.send_parts(&upload, file)).await {
            Ok(parts) => self.complete(&upload, parts, replaced).await,
            Err(error) => Err(error),
        };
        if sent.is_err() {
            self.abort(&upload).await;
        }
        sent
    }

    /// Puts the parts in the place of the object. The client cannot have the service compare versions for that, so only the
    /// time between two requests remains in which another run's archive would be lost.
    async fn complete(
        &self,
        upload: &String,
        parts: Vec<PartId>,
        replaced: Option<&ObjectVersion>,
    ) -> Result<()> {
        self.check_version(replaced).await?;
        // Not interrupted: afterwards no one would know whether the archive was replaced.
        let complete = || self.store.complete_multipart(&self.key, upload, parts.clone());
        self.repeated(self.upload_limit(), "write", complete)
            .await
            .map(drop)
    }

    /// Uploads the parts of a file, several at a time.
    async fn send_parts(&self, upload: &String, file: File) -> Result<Vec<PartId>> {
        let parts = stream::try_unfold((file, false), async |(file, is_done)| {
            if is_done {
                return Ok(None);
            }
            let (part, file) = next_part(file).await?;
            let is_last = part.len() < PART;
            Ok((!part.is_empty()).then_some((part, (file, is_last))))
        });
        let send = |(number, part): (usize, Vec<u8>)| async move {
            let part = PutPayload::from(part);
            let put = || self.store.put_part(&self.key, upload, number, part.clone());
            self.repeated(self.upload_limit(), "write", put).await
        };
        let numbered = parts
            .enumerate()
            .map(|(number, part)| part.map(|part| (number, part)));
        numbered
            .map_ok(send)
            .try_buffered(PARTS_AT_ONCE)
            .try_collect()
            .await
    }

    /// Removes the parts of an upload.
    async fn abort(&self, upload: &String) {
        let abort = self.store.abort_multipart(&self.key, upload);
        if let Err(error) = self.within(self.timeout, "write", abort).await {
            tracing::warn!(%error, "the parts of an upload that was not completed could not be removed");
        }
    }

    /// How long a request with a part may take: parts share the connection to the service.
    fn upload_limit(&self) -> Duration {
        self.timeout.saturating_mul(PARTS_AT_ONCE as u32)
    }

    /// Makes a request, and repeats it while that may help.
    async fn repeated<T, R: Future<Output = object_store::Result<T>>>(
        &self,
        limit: Duration,
        action: &str,
        request: impl Fn() -> R,
    ) -> Result<T> {
        let mut failures = 0;
        loop {
            let error = match self.within(limit, action, request()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            failures += 1;
            if !error.is_temporary() || !self.waiter.wait("uploading the archive", failures, &error).await {
                return Err(error);
            }
        }
    }

    /// Does a part of the work, unless the run stops.
    async fn unless_stopped<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.waiter.stopped() => {
                let message = format!("the upload of {} was stopped", self.name.display());
                Err(Error::new(ErrorKind::ConnectionLost, message).abandoned())
            }
            done = work => done,
        }
    }
}

/// Reads the next part of a file.
async fn next_part(mut file: File) -> Result<(Vec<u8>, File)> {
    blocking(move || {
        let mut part = Vec::with_capacity(PART);
        let read = Read::take(&mut file, PART as u64).read_to_end(&mut part);
        read.map_err(|error| Error::io("read", &std::env::temp_dir(), error))?;
        Ok((part, file))
    })
    .await
}

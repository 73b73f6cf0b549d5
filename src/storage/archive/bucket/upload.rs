//! The requests that write an archive into a bucket.

use std::{fs::File, io::Read, time::Duration};

use futures::{StreamExt, TryStreamExt, stream};
use object_store::{ObjectStoreExt, PutPayload, multipart::PartId};

use super::Bucket;
use crate::{
    model::{Error, ErrorKind, Result},
    storage::files::blocking,
};

/// The parts in which an archive is uploaded, in bytes.
const PART: usize = 8 << 20;

/// Parts under way at the same time.
const PARTS_AT_ONCE: usize = 4;

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

    /// Uploads a file: a small one with one request, a larger one in parts. It replaces the object when all of it is there.
    ///
    /// # Errors
    /// The service cannot be reached or refuses, or the run stops; nothing of the upload is left then.
    pub(in super::super) async fn upload(&self, file: File, size: u64) -> Result<()> {
        if size < PART as u64 {
            let (content, _) = next_part(file).await?;
            let content = PutPayload::from(content);
            let put = self.repeated(self.upload_limit(), "write", || {
                self.store.put(&self.key, content.clone())
            });
            self.unless_stopped(put).await?;
        } else {
            self.upload_parts(file).await?;
        }
        let head = || self.store.head(&self.key);
        let found = self.repeated(self.timeout, "look at", head).await?;
        if found.size == size {
            return Ok(());
        }
        let message = format!(
            "{} has {} bytes after {size} were uploaded",
            self.name.display(),
            found.size
        );
        Err(Error::new(ErrorKind::Server, message))
    }

    async fn upload_parts(&self, file: File) -> Result<()> {
        let begin = || self.store.create_multipart(&self.key);
        let upload = self.repeated(self.timeout, "write", begin).await?;
        let sent = match self.unless_stopped(self.send_parts(&upload, file)).await {
            Ok(parts) => {
                // Not interrupted: afterwards no one would know whether the archive was replaced.
                let complete = || self.store.complete_multipart(&self.key, &upload, parts.clone());
                self.repeated(self.upload_limit(), "write", complete).await
            }
            Err(error) => Err(error),
        };
        if sent.is_err() {
            self.abort(&upload).await;
        }
        sent.map(drop)
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

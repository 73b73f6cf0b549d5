//! An archive in a bucket: S3 and what is compatible with it, Google Cloud Storage, Azure.
//!
//! It is read through a temporary file, into which it is downloaded once, and written through one, which is uploaded when
//! it is complete: so a run that fails leaves nothing in the bucket, and what was written can be read back before.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use futures::{StreamExt, TryStreamExt, stream::FuturesUnordered};
use object_store::{ObjectStore, ObjectStoreExt, PutPayload, path::Path as Key};
use tempfile::TempDir;
use url::Url;

use crate::{
    model::{Error, ErrorKind, Result},
    storage::files::blocking,
};

/// Variables whose names begin so configure the clients of these services: credentials, region, endpoint.
const VARIABLES: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];

/// The parts in which an archive is uploaded, in bytes.
const PART: usize = 8 << 20;

/// Parts under way at the same time.
const PARTS_AT_ONCE: usize = 4;

/// An object in a bucket.
#[derive(Debug)]
pub(super) struct Bucket {
    store: Box<dyn ObjectStore>,
    key: Key,
    /// The address without secrets, for messages.
    name: PathBuf,
    /// Where an archive is written before it is uploaded.
    folder: TempDir,
}

impl Bucket {
    /// The object at an address such as `s3://bucket/key`. Nothing is asked yet.
    ///
    /// # Errors
    /// [`ErrorKind::Config`]: the address or a variable is invalid.
    pub(super) fn new(address: &str, name: &Path, endpoint: Option<&str>) -> Result<Self> {
        let invalid = |what: String| {
            Error::config(format!("{}: {what}", name.display()))
                .with_remedy("write s3://bucket/key.jsonl.zst, gs://… or az://…")
        };
        let url = Url::parse(address).map_err(|error| invalid(error.to_string()))?;
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
            let is_known = VARIABLES.iter().any(|prefix| name.starts_with(prefix));
            is_known.then(|| (name.to_ascii_lowercase(), value))
        });
        let mut options: Vec<(String, String)> = variables.collect();
        if let Some(endpoint) = endpoint {
            options.push(("aws_endpoint".to_owned(), endpoint.to_owned()));
            if endpoint.starts_with("http://") {
                options.push(("aws_allow_http".to_owned(), "true".to_owned()));
            }
        }
        let (store, key) =
            object_store::parse_url_opts(&url, options).map_err(|error| invalid(error.to_string()))?;
        let folder =
            tempfile::tempdir().map_err(|error| Error::io("write in", &std::env::temp_dir(), error))?;
        Ok(Self {
            store,
            key,
            name: name.to_owned(),
            folder,
        })
    }

    /// The address without secrets, for messages.
    pub(super) fn name(&self) -> &Path {
        &self.name
    }

    /// The path under which a new archive is written.
    pub(super) fn draft_path(&self) -> PathBuf {
        self.folder.path().join(self.key.filename().unwrap_or("archive"))
    }

    /// Downloads the object into a file without a name; `None` where there is no such object.
    ///
    /// # Errors
    /// The service cannot be reached or refuses, or the disk is full.
    pub(super) async fn download(&self) -> Result<Option<File>> {
        let found = match self.store.get(&self.key).await {
            Err(object_store::Error::NotFound { source, .. }) if !lacks_bucket(&source.to_string()) => {
                return Ok(None);
            }
            found => found.map_err(|error| self.failed("read", &error))?,
        };
        let temporary = std::env::temp_dir();
        let failed = |error| Error::io("write in", &temporary, error);
        let file = tempfile::tempfile().map_err(failed)?;
        let mut out = tokio::fs::File::from_std(file);
        let mut pieces = found.into_stream();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| self.failed("read", &error))?;
            tokio::io::AsyncWriteExt::write_all(&mut out, &piece)
                .await
                .map_err(failed)?;
        }
        tokio::io::AsyncWriteExt::flush(&mut out).await.map_err(failed)?;
        Ok(Some(out.into_std().await))
    }

    /// Uploads a file: a small one with one request, a larger one in parts. It replaces the object when all of it is there.
    ///
    /// # Errors
    /// The service cannot be reached or refuses; nothing of the upload is left then.
    pub(super) async fn upload(&self, file: File, size: u64) -> Result<()> {
        if size < PART as u64 {
            let (content, _) = next_part(file).await?;
            let sent = self.store.put(&self.key, PutPayload::from(content)).await;
            sent.map_err(|error| self.failed("write", &error))?;
        } else {
            self.upload_parts(file).await?;
        }
        let kept = self.store.head(&self.key).await;
        let kept = kept.map_err(|error| self.failed("look at", &error))?;
        if kept.size == size {
            return Ok(());
        }
        let message = format!(
            "{} has {} bytes after {size} were uploaded",
            self.name.display(),
            kept.size
        );
        Err(Error::new(ErrorKind::Server, message))
    }

    async fn upload_parts(&self, file: File) -> Result<()> {
        let upload = self.store.put_multipart(&self.key).await;
        let mut upload = upload.map_err(|error| self.failed("write", &error))?;
        let sent = self.send_parts(&mut *upload, file).await;
        let sent = match sent {
            Ok(()) => upload
                .complete()
                .await
                .map(drop)
                .map_err(|error| self.failed("write", &error)),
            Err(error) => Err(error),
        };
        if sent.is_err()
            && let Err(error) = upload.abort().await
        {
            tracing::warn!(%error, "the parts of an upload that failed could not be removed");
        }
        sent
    }

    async fn send_parts(&self, upload: &mut dyn object_store::MultipartUpload, mut file: File) -> Result<()> {
        let mut under_way = FuturesUnordered::new();
        loop {
            let (read, rest) = next_part(file).await?;
            file = rest;
            let is_last = read.len() < PART;
            if !read.is_empty() {
                under_way.push(upload.put_part(PutPayload::from(read)));
            }
            while under_way.len() >= PARTS_AT_ONCE || (is_last && !under_way.is_empty()) {
                let sent = under_way.try_next().await;
                sent.map_err(|error| self.failed("write", &error))?;
            }
            if is_last {
                return Ok(());
            }
        }
    }

    fn failed(&self, action: &str, error: &object_store::Error) -> Error {
        use object_store::Error as Failed;
        let credentials = self.service().credentials;
        let (kind, remedy) = match error {
            Failed::Unauthenticated { .. } => {
                (ErrorKind::Login, format!("check the credentials: {credentials}"))
            }
            Failed::PermissionDenied { .. } => (
                ErrorKind::Permission,
                format!(
                    "check the credentials ({credentials}); they must be allowed to read, write and list this part of the \
                     bucket"
                ),
            ),
            Failed::NotFound { .. } => (
                ErrorKind::NotFound,
                "check the name of the bucket; it is not created".to_owned(),
            ),
            _ => (
                ErrorKind::Server,
                format!("check the address ({})", self.service().address),
            ),
        };
        let message = format!(
            "cannot {action} {}: {}",
            self.name.display(),
            brief(&error.to_string())
        );
        Error::new(kind, message).with_remedy(remedy)
    }

    fn service(&self) -> &'static Service {
        let name = self.name.to_string_lossy();
        let known = |service: &&Service| name.starts_with(service.scheme);
        SERVICES.iter().find(known).unwrap_or(&SERVICES[0])
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

/// The variables of a service, for remedies.
struct Service {
    scheme: &'static str,
    credentials: &'static str,
    address: &'static str,
}

const SERVICES: [Service; 3] = [
    Service {
        scheme: "s3:",
        credentials: "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        address: "AWS_REGION, AWS_ENDPOINT_URL",
    },
    Service {
        scheme: "gs:",
        credentials: "GOOGLE_APPLICATION_CREDENTIALS",
        address: "the name of the bucket",
    },
    Service {
        scheme: "az:",
        credentials: "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
        address: "AZURE_STORAGE_ACCOUNT_NAME, AZURE_ENDPOINT",
    },
];

/// Whether a service answers that there is no such bucket, not only no such object in it.
fn lacks_bucket(response: &str) -> bool {
    const CODES: [&str; 2] = ["NoSuchBucket", "ContainerNotFound"];
    CODES.iter().any(|code| response.contains(code))
}

/// A message on one line, with code and message of a response in XML instead of the whole response.
fn brief(message: &str) -> String {
    let element = |name: &str| {
        let (_, rest) = message.split_once(&format!("<{name}>"))?;
        let (text, _) = rest.split_once(&format!("</{name}>"))?;
        text.lines().next()
    };
    let (head, response) = match message.find("<?xml").or_else(|| message.find("<Error>")) {
        Some(at) => message.split_at(at),
        None => (message, ""),
    };
    let mut parts = vec![head.split_whitespace().collect::<Vec<_>>().join(" ")];
    if !response.is_empty() {
        parts[0] = parts[0].trim_end_matches(':').to_owned();
        parts.extend(
            ["Code", "Message"]
                .iter()
                .filter_map(|name| Some(element(name)?.to_owned())),
        );
    }
    parts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_response_in_xml_code_and_message_are_shown_on_one_line() {
        let message = "Error performing GET http://h/b in 5ms - Server returned non-2xx status code: 403 Forbidden: <?xml \
                       version=\"1.0\"?>\n<Error>\n  <Code>AuthorizationFailure</Code>\n  <Message>Server failed to \
                       authenticate.\nRequestId:1\nTime:2</Message>\n</Error>";
        assert_eq!(
            brief(message),
            "Error performing GET http://h/b in 5ms - Server returned non-2xx status code: 403 Forbidden: \
             AuthorizationFailure: Server failed to authenticate."
        );
        assert_eq!(
            brief("error sending request\n  for url"),
            "error sending request for url"
        );
    }

    #[test]
    fn a_missing_bucket_is_not_a_missing_object() {
        assert!(lacks_bucket("<Error><Code>NoSuchBucket</Code></Error>"));
        assert!(lacks_bucket("<Error><Code>ContainerNotFound</Code></Error>"));
        assert!(!lacks_bucket("<Error><Code>NoSuchKey</Code></Error>"));
        assert!(!lacks_bucket("<Error><Code>BlobNotFound</Code></Error>"));
    }
}

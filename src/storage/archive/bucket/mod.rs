//! An archive in a bucket: S3 and what is compatible with it, Google Cloud Storage, Azure.
//!
//! It is read through a temporary file, into which it is downloaded once, and written through one, which is uploaded when
//! it is complete: so a run that fails leaves nothing in the bucket, and what was written can be read back before. It
//! replaces only the version whose records it contains: of runs that write to one archive at the same time, none removes the
//! records of another.
//!
//! * `upload`: the requests that write.
//! * `failure`: errors.
//!
//! The client of the services neither limits the time of a request nor repeats it: what is limited here is how long a
//! service may be silent, since the time of a whole download depends on the size of the archive, and requests are repeated
//! by the rules of the run.

mod failure;
mod upload;

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, TryFutureExt, stream::BoxStream};
use object_store::{
    ClientOptions, GetOptions, GetRange, GetResult, ObjectMeta, ObjectStore, ObjectStoreExt,
    ObjectStoreScheme, RetryConfig, aws::AmazonS3Builder, azure::MicrosoftAzureBuilder,
    gcp::GoogleCloudStorageBuilder, multipart::MultipartStore, path::Path as Key,
};
use tempfile::TempDir;
use tokio::sync::OnceCell;
use url::Url;

use self::failure::{Service, lacks_bucket};
use crate::{
    model::{Error, ErrorKind, Result},
    storage::{ConnectOptions, Waiter},
};

/// Variables whose names begin so configure the clients of these services: credentials, region, endpoint.
const VARIABLES: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];

/// The client of a service.
trait Store: ObjectStore + MultipartStore {}

impl<T: ObjectStore + MultipartStore> Store for T {}

/// The version of an object. Services do not say all of it with every answer.
#[derive(Clone, Debug)]
pub(super) struct ObjectVersion {
    e_tag: Option<String>,
    /// A version by the name that Google gives it, which it compares instead of the tag.
    version: Option<String>,
    size: u64,
    /// Seconds since 1970.
    modified_at: i64,
}

impl ObjectVersion {
    /// Whether this is the same version, as far as the service said.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let differ =
            |one: &Option<String>, other: &Option<String>| one.is_some() && other.is_some() && one != other;
        self.size == other.size
            && self.modified_at == other.modified_at
            && !differ(&self.e_tag, &other.e_tag)
            && !differ(&self.version, &other.version)
    }
}

impl From<&ObjectMeta> for ObjectVersion {
    fn from(found: &ObjectMeta) -> Self {
        // A proxy marks the tag of what it transforms on its way, though it is the same object.
        let tag = |tag: &String| tag.trim_start_matches("W/").to_owned();
        Self {
            e_tag: found.e_tag.as_ref().map(tag),
            version: found.version.clone(),
            size: found.size,
            modified_at: found.last_modified.timestamp(),
        }
    }
}

/// An object in a bucket.
pub(super) struct Bucket {
    store: Box<dyn Store>,
    key: Key,
    /// The address without secrets, for messages.
    name: PathBuf,
    service: &'static Service,
    /// How long the service may be silent.
    timeout: Duration,
    waiter: Arc<dyn Waiter>,
    /// Where an archive is written before it is uploaded.
    folder: TempDir,
    /// Whether the service accepts uploads, once it was asked.
    is_writable: OnceCell<()>,
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Bucket").field(&self.name).finish()
    }
}

impl Bucket {
    /// The object at an address such as `s3://bucket/key`. Nothing is asked yet.
    ///
    /// # Errors
    /// [`ErrorKind::Config`]: the address or a variable is invalid.
    pub(super) fn new(
        address: &str,
        name: &Path,
        endpoint: Option<&str>,
        options: &ConnectOptions,
    ) -> Result<Self> {
        let service = Service::of(address);
        let invalid = |what: String, remedy: String| {
            Error::config(format!("{}: {what}", name.display())).with_remedy(remedy)
        };
        let wrong_address = |what: String| invalid(what, format!("write {}", service.example));
        let url = Url::parse(address).map_err(|error| wrong_address(error.to_string()))?;
        let (scheme, key) =
            ObjectStoreScheme::parse(&url).map_err(|error| wrong_address(error.to_string()))?;
        let store = store(&scheme, &url, variables(endpoint), options.timeout)
            .map_err(|error| invalid(failure::brief(&error.to_string()), service.check_credentials()))?;
        let folder =
            tempfile::tempdir().map_err(|error| Error::io("write in", &std::env::temp_dir(), error))?;
        Ok(Self {
            store,
            key,
            name: name.to_owned(),
            service,
            timeout: options.timeout,
            waiter: Arc::clone(&options.waiter),
            folder,
            is_writable: OnceCell::new(),
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

    /// Whether there is such an object.
    ///
    /// # Errors
    /// The service cannot be reached or refuses.
    pub(super) async fn exists(&self) -> Result<bool> {
        match self
            .within(self.timeout, "read", self.store.head(&self.key))
            .await
        {
            Ok(_) => Ok(true),
            Err(error) if error.is_temporary() => Err(error),
            // The answer to HEAD has no content, so only GET says what was refused, and whether the bucket is missing.
            Err(_) => Ok(self.open(GetOptions::default()).await?.is_some()),
        }
    }

    /// Downloads the object into a file without a name, and tells its version; `None` where there is no such object.
    ///
    /// # Errors
    /// The service cannot be reached or refuses, or the disk is full.
    pub(super) async fn download(&self) -> Result<Option<(File, ObjectVersion)>> {
        let Some(found) = self.open(GetOptions::default()).await? else {
            return Ok(None);
        };
        let version = ObjectVersion::from(&found.meta);
        let mut download = Download {
            size: found.meta.size,
            version: found.meta.e_tag.clone(),
            read: 0,
            pieces: Some(found.into_stream()),
        };
        let temporary = std::env::temp_dir();
        let failed = |error| Error::io("write in", &temporary, error);
        let file = tempfile::tempfile().map_err(failed)?;
        let mut out = tokio::fs::File::from_std(file);
        let mut failures = 0;
        while download.read < download.size {
            match self.next_piece(&mut download).await {
                Ok(None) => return Err(self.was_replaced()),
                Ok(Some(piece)) => {
                    failures = 0;
                    download.read += piece.len() as u64;
                    tokio::io::AsyncWriteExt::write_all(&mut out, &piece)
                        .await
                        .map_err(failed)?;
                }
                Err(error) => {
                    failures += 1;
                    let may_go_on = error.is_temporary() && download.version.is_some();
                    if !may_go_on
                        || !self
                            .waiter
                            .wait("downloading the archive", failures, &error)
                            .await
                    {
                        return Err(error);
                    }
                    download.pieces = None;
                }
            }
        }
        tokio::io::AsyncWriteExt::flush(&mut out).await.map_err(failed)?;
        Ok(Some((out.into_std().await, version)))
    }

    /// The next piece of the object; `None` if the object was replaced. After an error, it is asked for what is missing of
    /// the same version.
    async fn next_piece(&self, download: &mut Download) -> Result<Option<Bytes>> {
        let pieces = match &mut download.pieces {
            Some(pieces) => pieces,
            missing => {
                let rest = GetOptions {
                    range: Some(GetRange::Offset(download.read)),
                    if_match: download.version.clone(),
                    ..GetOptions::default()
                };
                let Some(rest) = self.open(rest).await? else {
                    return Ok(None);
                };
                missing.insert(rest.into_stream())
            }
        };
        let next = async { pieces.next().await.transpose() };
        let piece = self.within(self.timeout, "read", next).await?;
        piece.map(Some).ok_or_else(|| {
            let message = format!("cannot read {}: its end is missing", self.name.display());
            Error::new(ErrorKind::ConnectionLost, message)
        })
    }

    /// Asks for the object; `None` where there is no such object, or not in this version.
    async fn open(&self, options: GetOptions) -> Result<Option<GetResult>> {
        let get = self.store.get_opts(&self.key, options).map_ok(Some);
        let get = get.or_else(async |error| match error {
            object_store::Error::NotFound { source, .. } if !lacks_bucket(&source.to_string()) => Ok(None),
            object_store::Error::Precondition { .. } => Ok(None),
            error => Err(error),
        });
        self.within(self.timeout, "read", get).await
    }

    /// Makes a request, and limits how long it takes.
    async fn within<T>(
        &self,
        limit: Duration,
        action: &str,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T> {
        match tokio::time::timeout(limit, request).await {
            Ok(answer) => answer.map_err(|error| self.failed(action, &error)),
            Err(_) => Err(self.silent(action, limit)),
        }
    }
}

/// A download in progress.
struct Download {
    size: u64,
    /// The version that is read; `None` if the service does not say.
    version: Option<String>,
    /// Bytes that were read.
    read: u64,
    /// `None` after an error.
    pieces: Option<BoxStream<'static, object_store::Result<Bytes>>>,
}

/// The variables that configure the client of a service, and the settings that replace some of them.
fn variables(endpoint: Option<&str>) -> Vec<(String, String)> {
    let variables = std::env::vars_os().filter_map(|(name, value)| {
        let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
        let is_known = VARIABLES.iter().any(|prefix| name.starts_with(prefix));
        is_known.then(|| (name.to_ascii_lowercase(), value))
    });
    let mut variables: Vec<(String, String)> = variables.collect();
    if let Some(endpoint) = endpoint {
        variables.push(("aws_endpoint".to_owned(), endpoint.to_owned()));
        if endpoint.starts_with("http://") {
            variables.push(("aws_allow_http".to_owned(), "true".to_owned()));
        }
    }
    variables
}

/// The client of a service.
fn store(
    scheme: &ObjectStoreScheme,
    url: &Url,
    variables: Vec<(String, String)>,
    timeout: Duration,
) -> object_store::Result<Box<dyn Store>> {
    macro_rules! built {
        ($builder:ty) => {{
            let client = ClientOptions::new()
                .with_timeout_disabled()
                .with_connect_timeout(timeout);
            let retries = RetryConfig {
                max_retries: 0,
                ..RetryConfig::default()
            };
            let builder = <$builder>::new()
                .with_url(url.as_str())
                .with_client_options(client)
                .with_retry(retries);
            let configured =
                variables
                    .into_iter()
                    .fold(builder, |builder, (name, value)| match name.parse() {
                        Ok(name) => builder.with_config(name, value),
                        // A variable of something else.
                        Err(_) => builder,
                    });
            Box::new(configured.build()?)
        }};
    }
    Ok(match scheme {
        ObjectStoreScheme::GoogleCloudStorage => built!(GoogleCloudStorageBuilder),
        ObjectStoreScheme::MicrosoftAzure => built!(MicrosoftAzureBuilder),
        _ => built!(AmazonS3Builder),
    })
}

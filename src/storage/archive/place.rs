//! The location of an archive: opening it, and replacing it.

#[cfg(feature = "bucket")]
use std::sync::Arc;
use std::{
    fs::Metadata,
    path::{Path, PathBuf},
};

#[cfg(feature = "bucket")]
use super::bucket::Bucket;
use super::config::{ArchivePlace, Config};
use crate::{
    model::Result,
    storage::{
        ConnectOptions,
        files::{Draft, OpenFile, absolute, blocking, check_writable},
    },
};

/// The location of an archive.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// A file, with links followed, so that what one points to is replaced and not the link.
    File(PathBuf),
    #[cfg(feature = "bucket")]
    Bucket(Arc<Bucket>),
}

impl Place {
    /// Resolves links, and asks no service.
    ///
    /// # Errors
    /// A link leads nowhere, or the address of a bucket is invalid.
    #[cfg_attr(not(feature = "bucket"), allow(unused_variables))]
    pub(super) fn open(config: &Config, options: &ConnectOptions) -> Result<Self> {
        match &config.place {
            ArchivePlace::File(file) => Ok(Self::File(absolute(file)?)),
            #[cfg(feature = "bucket")]
            ArchivePlace::Bucket(address) => {
                let name = config.place.to_string();
                let bucket = Bucket::new(address, name.as_ref(), config.endpoint.as_deref(), options)?;
                Ok(Self::Bucket(Arc::new(bucket)))
            }
            #[cfg(not(feature = "bucket"))]
            ArchivePlace::Bucket(_) => Err(crate::model::Error::config(
                "this build of migrate-llm-cache does not include archives in buckets",
            )
            .with_remedy(
                "install a released package, which includes them, or build with `cargo build --features bucket`",
            )),
        }
    }

    /// Its name in messages.
    pub(super) fn name(&self) -> &Path {
        match self {
            Self::File(path) => path,
            #[cfg(feature = "bucket")]
            Self::Bucket(bucket) => bucket.name(),
        }
    }

    /// The archive; `None` where there is none. One in a bucket is downloaded, which takes as long as it is large.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) async fn read(&self) -> Result<Option<OpenFile>> {
        match self {
            Self::File(path) => {
                let path = path.clone();
                blocking(move || OpenFile::open(&path)).await
            }
            #[cfg(feature = "bucket")]
            Self::Bucket(bucket) => {
                let file = bucket.download().await?;
                Ok(file.map(|file| OpenFile::of(bucket.name(), file)))
            }
        }
    }

    /// Whether the open file was replaced by another one. The copy of an object in a bucket never is.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) async fn was_replaced(&self, open: &OpenFile) -> Result<bool> {
        match self {
            Self::File(path) => {
                let (path, before) = (path.clone(), open.identity()?);
                blocking(move || {
                    let now = OpenFile::open(&path)?.map(|file| file.identity()).transpose()?;
                    Ok(now != Some(before))
                })
                .await
            }
            #[cfg(feature = "bucket")]
            Self::Bucket(_) => Ok(false),
        }
    }

    /// The path beside which a new archive is written.
    pub(super) fn draft_path(&self) -> PathBuf {
        match self {
            Self::File(path) => path.clone(),
            #[cfg(feature = "bucket")]
            Self::Bucket(bucket) => bucket.draft_path(),
        }
    }

    /// Checks whether a new archive can be written, without writing.
    ///
    /// # Errors
    /// It cannot.
    pub(super) async fn check_writable(&self) -> Result<()> {
        let path = self.draft_path();
        blocking(move || check_writable(&path)).await?;
        match self {
            Self::File(_) => Ok(()),
            #[cfg(feature = "bucket")]
            Self::Bucket(bucket) => bucket.check_writable().await,
        }
    }

    /// Replaces the archive with a complete new one.
    ///
    /// # Errors
    /// It cannot be written; the old archive is unchanged.
    pub(super) async fn publish(&self, draft: Draft, old: Option<Metadata>) -> Result<()> {
        match self {
            Self::File(_) => blocking(move || draft.publish(old.as_ref())).await,
            #[cfg(feature = "bucket")]
            Self::Bucket(bucket) => {
                let (draft, file) = blocking(move || {
                    let mut draft = draft;
                    let file = draft.reopen()?;
                    Ok((draft, file))
                })
                .await?;
                bucket.upload(file, draft.len()).await
            }
        }
    }
}

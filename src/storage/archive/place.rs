//! The location of an archive: opening it, and replacing it.

#[cfg(feature = "bucket")]
use std::sync::Arc;
use std::{
    fs::Metadata,
    path::{Path, PathBuf},
};

#[cfg(feature = "bucket")]
use super::bucket::{Bucket, ObjectVersion};
use super::config::{ArchivePlace, Config};
use crate::{
    model::{Error, ErrorKind, Result},
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

/// What is in the place of an archive, to find out later whether that was replaced.
#[derive(Clone, Debug)]
pub(super) enum Version {
    /// Nothing.
    Missing,
    /// This file.
    File(String),
    #[cfg(feature = "bucket")]
    Object(ObjectVersion),
}

impl Version {
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Missing, Self::Missing) => true,
            (Self::File(one), Self::File(other)) => one == other,
            #[cfg(feature = "bucket")]
            (Self::Object(one), Self::Object(other)) => one.is_same(other),
            _ => false,
        }
    }
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
            ArchivePlace::Bucket(_) => Err(Error::config(
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

    /// Whether it is downloaded to be read.
    pub(super) fn is_copied(&self) -> bool {
        match self {
            Self::File(_) => false,
            #[cfg(feature = "bucket")]
            Self::Bucket(_) => true,
        }
    }

    /// The archive, and its version; `None` where there is none. One in a bucket is downloaded, which takes as long as it is
    /// large.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) async fn read(&self) -> Result<(Option<OpenFile>, Version)> {
        match self {
            Self::File(path) => {
                let path = path.clone();
                blocking(move || open(&path)).await
            }
            #[cfg(feature = "bucket")]
            Self::Bucket(bucket) => Ok(match bucket.download().await? {
                Some((file, version)) => (Some(OpenFile::of(bucket.name(), file)), Version::Object(version)),
                None => (None, Version::Missing),
            }),
        }
    }

    /// Whether another version is there by now.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) async fn was_replaced(&self, version: &Version) -> Result<bool> {
        let now = match self {
            Self::File(path) => {
                let path = path.clone();
                blocking(move || open(&path).map(|(_, version)| version)).await?
            }
            #[cfg(feature = "bucket")]
            Self::Bucket(bucket) => bucket.version().await?.map_or(Version::Missing, Version::Object),
        };
        Ok(!now.is_same(version))
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

    /// Replaces this version of the archive with a complete new one. The metadata is that of the old file.
    ///
    /// # Errors
    /// It cannot be written, or another version is there; that is unchanged then.
    pub(super) async fn publish(
        &self,
        mut draft: Draft,
        old: Option<Metadata>,
        replaced: &Version,
    ) -> Result<()> {
        match self {
            Self::File(path) => {
                let (path, replaced) = (path.clone(), replaced.clone());
                blocking(move || {
                    // What takes long comes before the check.
                    draft.flush()?;
                    let (_, now) = open(&path)?;
                    if !now.is_same(&replaced) {
                        return Err(replaced_meanwhile(&path));
                    }
                    draft.publish(old.as_ref())
                })
                .await
            }
            #[cfg(feature = "bucket")]
            Self::Bucket(bucket) => {
                let (draft, file) = blocking(move || {
                    let file = draft.reopen()?;
                    Ok((draft, file))
                })
                .await?;
                let replaced = match replaced {
                    Version::Object(version) => Some(version),
                    Version::Missing | Version::File(_) => None,
                };
                bucket.upload(file, draft.len(), replaced).await
            }
        }
    }
}

/// Opens a file; `None` where there is none.
fn open(path: &Path) -> Result<(Option<OpenFile>, Version)> {
    let Some(file) = OpenFile::open(path)? else {
        return Ok((None, Version::Missing));
    };
    let version = Version::File(file.identity()?);
    Ok((Some(file), version))
}

/// The error for an archive that was replaced after its records were added to the new one.
pub(super) fn replaced_meanwhile(name: &Path) -> Error {
    let message = format!(
        "{} was replaced while the new archive was written; nothing was written to it",
        name.display()
    );
    Error::new(ErrorKind::Busy, message)
        .with_remedy("run the same command again, which adds to what is there now")
}

//! Archives: one file with the caches of any number of workspaces, for backups and transport.
//!
//! * `config`: where the archive is, and how hard to compress.
//! * `codec`: lines ↔ records, header, footer, digest; the format is described there.
//! * `lines`: reads lines, compressed or not, from any block.
//! * `survey`: whether an archive is complete and unchanged, and what it contains.
//! * `place`, `bucket`: opens the file, or what is in a bucket by way of a file.
//! * `packer`: compresses on threads of its own.
//! * `source`, `target`: reading; writing into a sibling that replaces the file when all workspaces are written.
//!
//! A rejects file has the same lines, and is read as a source.

#[cfg(feature = "bucket")]
mod bucket;
mod codec;
mod config;
pub(super) mod info;
mod lines;
mod packer;
mod place;
mod source;
mod survey;
mod target;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;

use self::{
    config::Config,
    info::INFO,
    place::Place,
    source::{ArchiveSource, Reader},
    survey::NAME_AN_ARCHIVE,
    target::{ArchiveTarget, Writer},
};
use super::{ConnectOptions, Connection, Connector, ConnectorInfo, Source, Target, WorkspaceListing};
use crate::model::{Error, ErrorKind, Location, PhysicalLocation, Result, Secret, Side, Values, Workspace};

/// A `.jsonl` or `.jsonl.zst` file, local or in a bucket.
pub struct Archive;

#[async_trait]
impl Connector for Archive {
    fn info(&self) -> &'static ConnectorInfo {
        &INFO
    }

    fn parse_uri(&self, place: &str) -> Result<Vec<(&'static str, Secret)>> {
        Ok(vec![("file", Secret::new(place))])
    }

    fn files(&self, values: &Values) -> Vec<PathBuf> {
        Config::file(values).into_iter().collect()
    }

    async fn connect(&self, values: &Values, options: &ConnectOptions) -> Result<Arc<dyn Connection>> {
        let config = Config::new(values)?;
        let place = Place::open(&config, options)?;
        // A damaged target is no base for a new one.
        let salvage = options.salvage && values.side() == Side::Source;
        let archive = Arc::new(Reader::new(place, values.side(), salvage));
        if values.side() == Side::Source && !archive.exists().await? {
            let message = format!("there is no archive {}", config.place);
            return Err(Error::new(ErrorKind::NotFound, message).with_remedy(NAME_AN_ARCHIVE));
        }
        Ok(Arc::new(ArchiveStorage {
            current: Mutex::new(Arc::new(Writer::new(archive, config.level))),
            config,
        }))
    }
}

struct ArchiveStorage {
    config: Config,
    /// The archive as it was opened; after it was replaced, the new one.
    current: Mutex<Arc<Writer>>,
}

impl ArchiveStorage {
    fn writer(&self) -> Arc<Writer> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn archive(&self) -> Arc<Reader> {
        Arc::clone(self.writer().archive())
    }

    /// Switches to the archive that is there now.
    fn open_anew(&self) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(current.anew());
    }
}

#[async_trait]
impl Connection for ArchiveStorage {
    fn location(&self) -> Location {
        Location {
            kind: INFO.kind.to_owned(),
            location: self.config.place.to_string(),
        }
    }

    async fn workspaces(&self) -> Result<WorkspaceListing> {
        let Some(survey) = self.archive().any_survey().await? else {
            return Ok(WorkspaceListing::default());
        };
        if let (None, Some(damage)) = (survey.workspaces().next(), &survey.damage) {
            let message = format!("{damage}; no record in it can be read");
            return Err(Error::new(ErrorKind::Damaged, message).with_remedy("name another copy of it"));
        }
        let found = survey.workspaces().map(|name| {
            Workspace::new(name).map_err(|error| {
                let message = format!("{}: {}", self.config.place, error.message());
                Error::new(ErrorKind::Damaged, message)
            })
        });
        Ok(found.collect::<Result<Vec<_>>>()?.into())
    }

    async fn physical_location(&self, workspace: &Workspace) -> Result<PhysicalLocation> {
        Ok(PhysicalLocation {
            server: "files".to_owned(),
            place: format!(
                "{}, workspace {workspace}",
                self.archive().place().name().display()
            ),
        })
    }

    fn is_published_as_a_whole(&self) -> bool {
        true
    }

    async fn begin(&self, source: &Location) -> Result<()> {
        self.writer().begin(source);
        Ok(())
    }

    async fn source(&self, workspace: &Workspace) -> Result<Arc<dyn Source>> {
        let archive = self.archive();
        // The copy of an object in a bucket is read by the whole run.
        if !archive.place().is_copied() && archive.was_replaced().await? {
            self.open_anew();
        }
        Ok(Arc::new(ArchiveSource {
            archive: self.archive(),
            workspace: workspace.clone(),
        }))
    }

    async fn target(&self, workspace: &Workspace) -> Result<Arc<dyn Target>> {
        Ok(Arc::new(ArchiveTarget::new(self.writer(), workspace)))
    }

    async fn finish(&self) -> Result<()> {
        let writer = self.writer();
        writer.publish().await?;
        self.open_anew();
        Ok(())
    }
}

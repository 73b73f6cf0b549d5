//! LightRAG's `JsonKVStorage`: one file per workspace.
//!
//! * `config`: where the files are.
//! * `codec`: converts a file's entries to records, in the current flat layout and the old nested one.
//! * `splitter`: finds entries in a file of any size.
//! * `survey`: a first pass over a file: counts, repeated keys, and the places of a shard's entries.
//! * `places`: reads only the entries of a shard.
//! * `index`: the positions of records in a file.
//! * `salvage`: reads intact entries, and skips damage with `--salvage`.
//! * `source`, `target`: reading; writing to a temporary file that replaces the cache file at the end.

mod codec;
mod config;
mod index;
mod places;
mod salvage;
mod source;
mod splitter;
mod survey;
mod target;

use std::{num::NonZeroUsize, path::PathBuf, sync::Arc};

use async_trait::async_trait;

use self::{config::Config, source::JsonSource, target::JsonTarget};
use super::{
    ConnectOptions, Connection, Connector, ConnectorInfo, Source, Target, WorkspaceListing, files::absolute,
};
use crate::model::{Location, PhysicalLocation, Workspace};
use crate::model::{Result, Secret, Side, Values};

/// The JSON files of `JsonKVStorage`.
pub struct Json;

/// The metadata of this storage.
const INFO: ConnectorInfo = ConnectorInfo {
    kind: "json",
    title: "JSON file",
    class_name: Some("JsonKVStorage"),
    aliases: &["file"],
    schemes: &[],
    path_endings: &[],
    takes_other_paths: true,
    ini_section: None,
    workspace_variable: None,
    workspace_ini_key: None,
    trims_workspace: true,
    batch_bytes: NonZeroUsize::new(512 << 10).unwrap(),
    in_flight_bytes: NonZeroUsize::new(6 << 20).unwrap(),
    fields: config::FIELDS,
};

#[async_trait]
impl Connector for Json {
    fn info(&self) -> &'static ConnectorInfo {
        &INFO
    }

    fn parse_uri(&self, place: &str) -> Result<Vec<(&'static str, Secret)>> {
        Ok(config::parse_uri(place))
    }

    fn files(&self, values: &Values) -> Vec<PathBuf> {
        Config::new(values).files()
    }

    async fn connect(&self, values: &Values, options: &ConnectOptions) -> Result<Arc<dyn Connection>> {
        let config = Config::new(values);
        match values.side() {
            Side::Source => config.check_source()?,
            Side::Target => config.check_target()?,
        }
        Ok(Arc::new(JsonStorage {
            side: values.side(),
            config,
            salvage: options.salvage,
        }))
    }
}

struct JsonStorage {
    side: Side,
    config: Config,
    salvage: bool,
}

#[async_trait]
impl Connection for JsonStorage {
    fn location(&self) -> Location {
        Location {
            kind: INFO.kind.to_owned(),
            location: self.config.parse_uri().display().to_string(),
        }
    }

    fn warnings(&self) -> Vec<String> {
        let meant = self.config.meant_workspace().map(|(working_dir, workspace)| {
            format!(
                "{folder} is the folder of a workspace; to use it under its name, give {side} {} and {side}-workspace \
                 {workspace}",
                working_dir.display(),
                folder = self.config.parse_uri().display(),
                side = match self.side {
                    Side::Source => "--source",
                    Side::Target => "--target",
                },
            )
        });
        meant.into_iter().collect()
    }

    async fn workspaces(&self) -> Result<WorkspaceListing> {
        self.config.workspaces()
    }

    async fn physical_location(&self, workspace: &Workspace) -> Result<PhysicalLocation> {
        Ok(PhysicalLocation {
            server: "files".to_owned(),
            place: absolute(&self.config.file(workspace))?.display().to_string(),
        })
    }

    async fn source(&self, workspace: &Workspace) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(JsonSource::new(
            self.config.file(workspace),
            self.salvage,
        )))
    }

    async fn target(&self, workspace: &Workspace) -> Result<Arc<dyn Target>> {
        // Follow a link, so that its target is replaced, not the link.
        let file = absolute(&self.config.file(workspace))?;
        Ok(Arc::new(JsonTarget::new(file)))
    }
}

//! Where the files are.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

use crate::model::{Error, ErrorKind, Field, NAMESPACE, Result, Secret, Values, Workspace, rejects};

/// The settings in the job file and the environment.
pub(super) const FIELDS: &[Field] = &[
    Field::new(
        "working_dir",
        "LightRAG's working directory, which holds a folder for each workspace",
    )
    .variable("WORKING_DIR")
    .read_as(directory)
    .default("./rag_storage")
    .plain()
    .address(),
    Field::new(
        "file",
        "the cache file itself, instead of a working directory (workspaces then play no part), or a rejects file \
         (.jsonl) to read back",
    )
    .plain()
    .address(),
];

/// An empty name is the current directory.
fn directory(text: &str) -> Option<Cow<'_, str>> {
    Some(Cow::Borrowed(if text.is_empty() { "." } else { text }))
}

/// A path, as a flag or a `uri` gives it: a working directory, or the cache file itself.
pub(super) fn parse_uri(path: &str) -> Vec<(&'static str, Secret)> {
    let has_ending = |ending: &str| {
        Path::new(path)
            .extension()
            .is_some_and(|e| e.eq_ignore_ascii_case(ending))
    };
    let is_file = Path::new(path).is_file() || has_ending("json") || has_ending(rejects::EXTENSION);
    let name = if is_file { "file" } else { "working_dir" };
    vec![(name, Secret::new(path))]
}

/// Where the files are.
#[derive(Debug, Clone)]
pub(super) enum Config {
    /// One file, whatever the workspace.
    File(PathBuf),
    /// What an earlier run rejected; to read alone.
    Rejects(PathBuf),
    /// A file for each workspace.
    WorkingDir(PathBuf),
}

impl Config {
    pub(super) fn new(values: &Values) -> Self {
        match values.text("file").map(PathBuf::from) {
            Some(file)
                if file
                    .extension()
                    .is_some_and(|e| e.eq_ignore_ascii_case(rejects::EXTENSION)) =>
            {
                Self::Rejects(file)
            }
            Some(file) => Self::File(file),
            None => Self::WorkingDir(values.required_text("working_dir").into()),
        }
    }

    /// The place, for people.
    pub(super) fn parse_uri(&self) -> &Path {
        match self {
            Self::File(path) | Self::Rejects(path) | Self::WorkingDir(path) => path,
        }
    }

    /// The cache file of a workspace: `WORKING_DIR/[workspace/]kv_store_llm_response_cache.json`.
    pub(super) fn file(&self, workspace: &Workspace) -> PathBuf {
        match self {
            Self::File(file) | Self::Rejects(file) => file.clone(),
            // Joining an empty name would add a slash.
            Self::WorkingDir(folder) if workspace.name().is_empty() => folder.join(file_name()),
            Self::WorkingDir(folder) => folder.join(workspace.name()).join(file_name()),
        }
    }

    /// A source must at least have a place; a workspace in it that has no file is one without records.
    pub(super) fn check_source(&self) -> Result<()> {
        let path = self.parse_uri();
        let metadata = path.metadata().map_err(|error| {
            Error::io("read the cache in", path, error)
                .with_remedy("name LightRAG's working directory (WORKING_DIR) or the cache file itself")
        })?;
        match self {
            Self::WorkingDir(_) if !metadata.is_dir() => {
                let message = format!("{} is not a directory", path.display());
                Err(Error::new(ErrorKind::NotFound, message)
                    .with_remedy("name a directory, or a file that ends in .json"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn workspaces(&self) -> Result<Vec<Workspace>> {
        let Self::WorkingDir(folder) = self else {
            return Ok(vec![Workspace::default()]);
        };
        let mut found = Vec::new();
        if folder.join(file_name()).is_file() {
            found.push(Workspace::default());
        }
        let failed = |error| Error::io("list", folder, error);
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.path().join(file_name()).is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                found.push(Workspace::new(name)?);
            }
        }
        found.sort();
        Ok(found)
    }
}

fn file_name() -> String {
    format!("kv_store_{NAMESPACE}.json")
}

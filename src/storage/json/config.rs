//! The settings: where the files are.

use std::{
    borrow::Cow,
    ffi::OsString,
    fs::DirEntry,
    io::ErrorKind as ErrorKindOfIo,
    path::{Path, PathBuf},
};

use crate::{
    model::{Error, ErrorKind, Field, NAMESPACE, Result, Secret, Values, Workspace},
    storage::{UnreadableWorkspace, WorkspaceListing, files::not_a_file},
};

/// LightRAG's default working directory.
const WORKING_DIR: &str = "rag_storage";

/// The settings in the job file and the environment.
pub(super) const FIELDS: &[Field] = &[
    Field::new(
        "working_dir",
        "LightRAG's working directory, which contains a folder for each workspace",
    )
    .variable("WORKING_DIR")
    .read_as(directory)
    .default("./rag_storage")
    .plain()
    .address(),
    Field::new(
        "file",
        "the cache file itself, instead of a working directory; a source then has no workspaces",
    )
    .plain()
    .address(),
];

/// Endings of files that are not LightRAG's: a working directory with such a name is probably a mistake.
const ENDINGS_OF_FILES: [&str; 14] = [
    "txt", "csv", "ndjson", "zst", "gz", "xz", "bz2", "zip", "tar", "tgz", "yaml", "yml", "db", "sqlite",
];

/// An empty path is the current directory.
fn directory(text: &str) -> Option<Cow<'_, str>> {
    Some(Cow::Borrowed(if text.is_empty() { "." } else { text }))
}

/// A path in a flag or a `uri`: a working directory, or the cache file itself.
pub(super) fn parse_uri(path: &str) -> Vec<(&'static str, Secret)> {
    let is_file = Path::new(path).is_file() || ending(Path::new(path)).is_some_and(|ending| ending == "json");
    let name = if is_file { "file" } else { "working_dir" };
    vec![(name, Secret::new(path))]
}

/// What follows the last dot of a name, in lower case.
fn ending(path: &Path) -> Option<String> {
    Some(path.extension()?.to_str()?.to_ascii_lowercase())
}

/// Where the files are.
#[derive(Debug, Clone)]
pub(super) enum Config {
    /// One file for any workspace.
    File(PathBuf),
    /// One file per workspace.
    WorkingDir(PathBuf),
}

impl Config {
    pub(super) fn new(values: &Values) -> Self {
        match values.text("file").map(PathBuf::from) {
            Some(file) => Self::File(file),
            None => Self::WorkingDir(values.required_text("working_dir").into()),
        }
    }

    /// The path for messages.
    pub(super) fn parse_uri(&self) -> &Path {
        match self {
            Self::File(path) | Self::WorkingDir(path) => path,
        }
    }

    /// The cache file of a workspace: `WORKING_DIR/[workspace/]kv_store_llm_response_cache.json`.
    pub(super) fn file(&self, workspace: &Workspace) -> PathBuf {
        match self {
            Self::File(file) => file.clone(),
            // Joining an empty name would add a slash.
            Self::WorkingDir(folder) if workspace.name().is_empty() => folder.join(file_name()),
            Self::WorkingDir(folder) => folder.join(workspace.name()).join(file_name()),
        }
    }

    /// The cache files of all workspaces, existing or not, and the working directory, which may not exist either.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let folder = match self {
            Self::File(file) => return vec![file.clone()],
            Self::WorkingDir(folder) => folder,
        };
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let is_file = |entry: &DirEntry| entry.file_type().is_ok_and(|found| found.is_file());
        let workspaces = entries.filter(|entry| !is_file(entry)).map(|entry| entry.path());
        let mut files = vec![folder.clone(), folder.join(file_name())];
        files.extend(workspaces.map(|workspace| workspace.join(file_name())));
        files
    }

    /// Checks that a source exists. A workspace without a file has no records.
    pub(super) fn check_source(&self) -> Result<()> {
        let path = self.parse_uri();
        let metadata = path.metadata().map_err(|error| {
            Error::io("read the cache in", path, error)
                .with_remedy("use LightRAG's working directory (WORKING_DIR) or the cache file itself")
        })?;
        match self {
            Self::WorkingDir(_) if metadata.is_dir() => Ok(()),
            Self::WorkingDir(_) if metadata.is_file() => {
                let message = format!("{} is not a directory", path.display());
                Err(Error::new(ErrorKind::NotFound, message)
                    .with_remedy("use a directory, or a file that ends in .json"))
            }
            _ if !metadata.is_file() => Err(not_a_file(path, metadata.file_type())),
            _ => self.check_store(),
        }
    }

    /// Checks that a target is not another file by mistake. What does not exist yet is created.
    pub(super) fn check_target(&self) -> Result<()> {
        if let Self::WorkingDir(folder) = self
            && !folder.exists()
            && let Some(ending) = ending(folder)
            && ENDINGS_OF_FILES.contains(&ending.as_str())
        {
            let message = format!(
                "a directory named {} would be created: the ending .{ending} is not one of a cache file or an archive",
                folder.display()
            );
            return Err(Error::new(ErrorKind::Config, message).with_remedy(
                "use .json for a cache file, .jsonl or .jsonl.zst for an archive, or create the directory first",
            ));
        }
        self.check_store()
    }

    /// Checks that a file is not one of LightRAG's other stores, which are not caches.
    fn check_store(&self) -> Result<()> {
        let Self::File(file) = self else {
            return Ok(());
        };
        let Some(store) = other_store(file) else {
            return Ok(());
        };
        let message = format!(
            "{} is LightRAG's store `{store}`, not its LLM cache",
            file.display()
        );
        let remedy = format!("name {} beside it", file_name());
        Err(Error::new(ErrorKind::NotFound, message).with_remedy(remedy))
    }

    /// The intended working directory and workspace, if the given directory is a workspace's
    /// folder: it has a cache, and the directory above it has one too or LightRAG's name for working directories.
    pub(super) fn meant_workspace(&self) -> Option<(PathBuf, Workspace)> {
        let Self::WorkingDir(folder) = self else {
            return None;
        };
        let has_cache = |folder: &Path| folder.join(file_name()).is_file();
        let above = folder.canonicalize().ok()?;
        let (above, name) = (above.parent()?, above.file_name()?.to_str()?);
        // A sibling directory with a cache may be another working directory.
        let is_working_dir = has_cache(above) || above.file_name().is_some_and(|name| name == WORKING_DIR);
        let is_workspace = has_cache(folder) && is_working_dir;
        let working_dir = match folder.parent() {
            Some(parent) if !parent.as_os_str().is_empty() && folder.ends_with(name) => parent.to_owned(),
            _ => above.to_owned(),
        };
        is_workspace.then_some((working_dir, Workspace::new(name).ok()?))
    }

    pub(super) fn workspaces(&self) -> Result<WorkspaceListing> {
        let Self::WorkingDir(folder) = self else {
            return Ok(vec![Workspace::default()].into());
        };
        let mut listing = WorkspaceListing::default();
        add_if_cache(&mut listing, Ok(String::new()), folder);
        let failed = |error| Error::io("list", folder, error);
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            add_if_cache(&mut listing, entry.file_name().into_string(), &entry.path());
        }
        listing.found.sort();
        listing.unreadable.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(listing)
    }
}

/// Adds the workspace of a folder to a listing, if it has a cache or cannot be read.
fn add_if_cache(listing: &mut WorkspaceListing, name: Result<String, OsString>, folder: &Path) {
    let shown = match &name {
        Ok(name) => Workspace::new(name.as_str()).map_or_else(|_| name.clone(), |named| named.to_string()),
        Err(name) => name.display().to_string(),
    };
    let workspace = match (look_for_cache(folder), name) {
        (Ok(false), _) => return,
        (Err(reason), _) => Err(reason),
        (Ok(true), Ok(name)) => Workspace::new(name).map_err(|error| error.message().to_owned()),
        (Ok(true), Err(_)) => Err("its name is not valid UTF-8: rename the folder".to_owned()),
    };
    match workspace {
        Ok(workspace) => listing.found.push(workspace),
        Err(reason) => listing
            .unreadable
            .push(UnreadableWorkspace { name: shown, reason }),
    }
}

/// Whether a folder contains a readable cache file; an error if it may contain one that cannot be read.
fn look_for_cache(folder: &Path) -> Result<bool, String> {
    let file = folder.join(file_name());
    let is_link = |path: &Path| {
        path.symlink_metadata()
            .is_ok_and(|metadata| metadata.is_symlink())
    };
    let dangling = |path: &Path| match path.read_link() {
        Ok(target) => format!("{} is a dangling link to {}", path.display(), target.display()),
        Err(error) => format!("{}: {error}", path.display()),
    };
    match file.metadata() {
        Ok(metadata) if !metadata.is_file() => Err(format!("{} is not a regular file", file.display())),
        Ok(_) => match std::fs::File::open(&file) {
            Ok(_) => Ok(true),
            Err(error) => Err(format!("cannot read {}: {error}", file.display())),
        },
        Err(error)
            if matches!(
                error.kind(),
                ErrorKindOfIo::NotFound | ErrorKindOfIo::NotADirectory
            ) =>
        {
            if is_link(&file) {
                return Err(dangling(&file));
            }
            if is_link(folder) && folder.metadata().is_err() {
                return Err(dangling(folder));
            }
            Ok(false)
        }
        Err(error) => Err(format!("cannot look into {}: {error}", folder.display())),
    }
}

fn file_name() -> String {
    format!("kv_store_{NAMESPACE}.json")
}

/// The name of LightRAG's other store that a file belongs to, if any: `full_docs`.
fn other_store(file: &Path) -> Option<&str> {
    let name = file.file_name()?.to_str()?;
    let store = name.strip_prefix("kv_store_")?.strip_suffix(".json")?;
    (store != NAMESPACE).then_some(store)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_stores_of_lightrag_are_recognized_by_their_names() {
        let store = |name: &'static str| other_store(Path::new(name));
        assert_eq!(store("/a/kv_store_full_docs.json"), Some("full_docs"));
        assert_eq!(store("kv_store_llm_response_cache.json"), None);
        assert_eq!(store("cache.json"), None);
    }
}

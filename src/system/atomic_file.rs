//! Atomic replacement of small files.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::os;

/// Writes a temporary file in the same folder, syncs it, and renames it over the file.
///
/// # Errors
/// The folder or the disk does not allow it; the file is then unchanged.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut sibling = sibling(path)?;
    sibling.write_all(content)?;
    sibling.as_file().sync_all()?;
    sibling.persist(path)?;
    os::sync_folder(folder(path))
}

/// Checks whether [`replace`] is possible, before the work whose result the file will contain.
///
/// # Errors
/// The folder is missing or not writable, or the path is not a regular file: a folder, or a device that the new file would
/// replace.
pub fn check(path: &Path) -> io::Result<()> {
    match path.metadata() {
        Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(found) if !found.is_file() => Err(io::Error::other("not a regular file")),
        _ => sibling(path).map(drop),
    }
}

/// The lock file of a file that a process replaces again and again, next to it.
pub fn lock_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".lock");
    path.with_file_name(name)
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn sibling(path: &Path) -> io::Result<tempfile::NamedTempFile> {
    os::with_usual_mode(tempfile::Builder::new().prefix(".replacing-"))
        .tempfile_in(folder(path))
        .map_err(without_path)
}

/// Removes the name of the temporary file from the error, since it means nothing to users.
fn without_path(error: io::Error) -> io::Error {
    let text = error.to_string();
    io::Error::new(
        error.kind(),
        text.split(" at path ").next().unwrap_or(&text).to_owned(),
    )
}

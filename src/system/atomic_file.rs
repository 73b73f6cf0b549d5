//! Replacing a small file in one step, so that nobody ever reads half of it.

use std::{
    io::{self, Write},
    path::Path,
};

use super::os;

/// Writes a sibling, and renames it over the file when it is on the disk.
///
/// # Errors
/// The folder or the disk does not allow it; the file is then as it was.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut sibling = sibling(path)?;
    sibling.write_all(content)?;
    sibling.as_file().sync_all()?;
    sibling.persist(path)?;
    os::sync_folder(folder(path))
}

/// Whether [`replace`] could do so now: found out in time, before the work whose result the file is to hold.
///
/// # Errors
/// The folder is missing or cannot be written, or there is something under this name that is no file: a folder, or a
/// device, which the new file would take the place of.
pub fn check(path: &Path) -> io::Result<()> {
    match path.metadata() {
        Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(found) if !found.is_file() => Err(io::Error::other("this is no file")),
        _ => sibling(path).map(drop),
    }
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

/// The name of the sibling, which the error repeats, means nothing to anybody.
fn without_path(error: io::Error) -> io::Error {
    let text = error.to_string();
    io::Error::new(
        error.kind(),
        text.split(" at path ").next().unwrap_or(&text).to_owned(),
    )
}

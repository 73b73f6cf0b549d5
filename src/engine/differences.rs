//! The differences file: every difference that a comparison found, one JSON object per line, in the order in which they
//! were found. Small workspaces are compared several at a time, so that this order may differ from run to run.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use crate::{
    model::{Error, ErrorKind, Result, Workspace, record::CacheKey},
    report::{Difference, DifferenceKind},
    system::atomic_file,
};

/// Writes differences, one per line.
#[derive(Debug)]
pub(crate) struct DifferencesFile {
    path: PathBuf,
    file: Mutex<File>,
}

impl DifferencesFile {
    /// Creates or truncates the file.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).map_err(|error| failed(path, error))?;
        Ok(Self {
            path: path.to_owned(),
            file: Mutex::new(file),
        })
    }

    /// Checks that [`Self::create`] would succeed, without changing anything.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn check(path: &Path) -> Result<()> {
        let checked = if path.exists() {
            File::options().write(true).open(path).map(drop)
        } else {
            atomic_file::check(path)
        };
        checked.map_err(|error| failed(path, error))
    }

    /// Adds a line.
    fn add(&self, difference: &Difference) -> Result<()> {
        let mut text = serde_json::to_vec(difference).map_err(|error| {
            Error::new(ErrorKind::Internal, "a difference has no JSON form").caused_by(error)
        })?;
        text.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&text).map_err(|error| failed(&self.path, error))
    }
}

/// A difference that was found in a workspace of the source, after it was added to the file, if there is one.
///
/// # Errors
/// It cannot be added.
pub(crate) fn found(
    workspace: &Workspace,
    key: &CacheKey,
    kind: DifferenceKind,
    fields: Vec<String>,
    file: Option<&DifferencesFile>,
) -> Result<Difference> {
    let difference = Difference {
        workspace: workspace.clone(),
        key: key.to_string(),
        kind,
        fields,
    };
    if let Some(file) = file {
        file.add(&difference)?;
    }
    Ok(difference)
}

fn failed(path: &Path, error: std::io::Error) -> Error {
    let failed = Error::io("write the differences file", path, error);
    Error::new(ErrorKind::Rejects, failed.message()).with_remedy("pass a writable path to --differences")
}

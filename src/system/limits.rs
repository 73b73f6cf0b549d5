//! System limits of the process, checked before a run so that they cause errors instead of aborts.

use std::{
    io,
    sync::{PoisonError, RwLock},
    thread,
};

use super::os::{self, Resource};
use crate::model::{Error, ErrorKind, Result};

/// How many threads a run may need in addition to the runtime's: to read and write the files of workspaces that are moved
/// at the same time, to scan a file in parts, to resolve host names.
const MORE_THREADS: usize = 40;

/// Starts and ends as many threads as a run needs. Without one of them the runtime would later panic or hang.
///
/// # Errors
/// The system refuses a thread.
pub fn check_threads() -> Result<()> {
    let runtime = thread::available_parallelism().map_or(1, usize::from);
    let needed = runtime + MORE_THREADS;
    let gate = RwLock::new(());
    let refused = thread::scope(|scope| {
        let closed = gate.write().unwrap_or_else(PoisonError::into_inner);
        let mut threads = (0..needed).map(|_| {
            let waiting = || drop(gate.read());
            thread::Builder::new().spawn_scoped(scope, waiting).map(drop)
        });
        let refused = threads.find_map(io::Result::err);
        drop(closed);
        refused
    });
    match refused {
        Some(error) => Err(refused_by_system(&format!("a run needs {needed} threads"), error)),
        None => Ok(()),
    }
}

/// The error of a runtime that could not be started.
pub fn runtime_failed(error: io::Error) -> Error {
    refused_by_system("the run cannot start", error)
}

fn refused_by_system(what: &str, error: io::Error) -> Error {
    let (why, remedy) = match os::exhausted(&error) {
        Some(Resource::OpenFiles) => (
            "the system refuses more open files",
            "raise the limit (ulimit -n)",
        ),
        Some(Resource::Threads) => (
            "the system refuses more threads",
            "raise the limit (ulimit -u), or that of the container or the service (pids, TasksMax)",
        ),
        None => (
            "the system refuses",
            "check the limits of this user and this service",
        ),
    };
    let message = format!("{what}, and {why}: {error}");
    Error::new(ErrorKind::Refused, message)
        .with_remedy(remedy)
        .caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_threads_as_a_run_needs_can_be_begun_here() {
        check_threads().unwrap();
    }
}

//! Limits that the system sets to a process: found out before the work, and errors instead of its end.

use std::{
    io,
    sync::{Arc, PoisonError, RwLock, atomic::AtomicBool},
    thread,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::model::{Error, ErrorKind, Result};

/// How many threads a run may have beside those of the runtime: for the files of workspaces that are moved at the same
/// time, one to read and one to write, for looking over one in parts, for names of hosts.
const MORE_THREADS: usize = 40;

/// Has a write beyond the largest file that the system allows (`ulimit -f`) fail, where the signal for it would end the
/// process without a report.
pub fn survive_large_files() {
    // Where the signal cannot be caught, the process ends as it would have.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::new(AtomicBool::new(false)));
}

/// Has this process open as many files at once as the system lets it: each workspace of a JSON storage is one, and the
/// limit that a shell sets by default is reached by a thousand.
pub fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // Without it, a run of many workspaces says what it lacks.
    let _ = setrlimit(Resource::Nofile, raised);
}

/// Begins and ends as many threads as a run needs. The runtime would panic, or wait for ever, where it lacks one later.
///
/// # Errors
/// The system refuses one.
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

/// What the runtime could not have.
pub fn runtime_failed(error: io::Error) -> Error {
    refused_by_system("the run cannot begin", error)
}

fn refused_by_system(what: &str, error: io::Error) -> Error {
    let is = |number: rustix::io::Errno| error.raw_os_error() == Some(number.raw_os_error());
    let (why, remedy) = if is(rustix::io::Errno::MFILE) || is(rustix::io::Errno::NFILE) {
        (
            "the system refuses more open files",
            "raise the limit (ulimit -n)",
        )
    } else if is(rustix::io::Errno::AGAIN) || is(rustix::io::Errno::NOMEM) {
        (
            "the system refuses more threads",
            "raise the limit (ulimit -u), or that of the container or the service (pids, TasksMax)",
        )
    } else {
        (
            "the system refuses",
            "look into the limits of this user and this service",
        )
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

    #[test]
    fn a_refusal_names_the_limit() {
        let refused = |number: rustix::io::Errno| {
            let error = runtime_failed(io::Error::from_raw_os_error(number.raw_os_error()));
            error.remedy().unwrap().to_owned()
        };
        assert!(refused(rustix::io::Errno::MFILE).contains("ulimit -n"));
        assert!(refused(rustix::io::Errno::AGAIN).contains("ulimit -u"));
    }
}

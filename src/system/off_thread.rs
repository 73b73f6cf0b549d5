//! Work on threads of their own.

use crate::model::{Error, Result};

/// Starts work on another thread, and returns its result. `what` names it in the error for a panic, which is a bug.
pub(crate) fn off_thread<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Result<T>> {
    let task = tokio::task::spawn_blocking(work);
    async move { task.await.map_err(|error| Error::panicked(what).caused_by(error)) }
}

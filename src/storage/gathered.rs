//! What a storage found out before it is needed.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// What was found out by name, such as the keys of workspaces or the facts of collections. Each is returned once: later it may
/// be outdated.
#[derive(Debug)]
pub(crate) struct Gathered<T>(Mutex<HashMap<String, T>>);

impl<T> Default for Gathered<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Gathered<T> {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was found out of a name, if anything was, and not taken yet.
    pub(crate) fn take(&self, name: &str) -> Option<T> {
        self.lock().remove(name)
    }

    /// Adds what was found out of a name.
    pub(crate) fn insert(&self, name: String, found: T) {
        self.lock().insert(name, found);
    }

    /// Keeps these instead of what was found out before.
    pub(crate) fn replace(&self, found: HashMap<String, T>) {
        *self.lock() = found;
    }

    /// Forgets what was found out before.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }
}

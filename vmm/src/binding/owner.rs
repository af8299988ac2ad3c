//! Whose changes are undone when it ends: one run of a machine.
//!
//! A run holds a lock on a file of its own. The kernel lets go of it with the last process that
//! has the file, berth or its guard, so that a lock that can be had means that nobody is left to
//! give anything back. Unlike a process ID it also means that in another PID namespace.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::BindingError;
use crate::state as state_folder;

const FOLDER: &str = "runs";

/// A run of a machine, for as long as this lives.
pub struct Owner {
    id: String,
    path: PathBuf,
    file: File,
}

impl Owner {
    /// This process's run of the machine `name`.
    pub fn new(state: &Path, name: &str) -> Result<Self, BindingError> {
        let folder = state.join(FOLDER);
        // Unique among PID namespaces too, which may share the folder.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let id = format!("{name}-{}-{:x}", std::process::id(), now.as_nanos());
        let path = folder.join(&id);
        let lock = || {
            state_folder::make_folder(&folder)?;
            let mut options = OpenOptions::new();
            // Only its lock is of use: a machine's thread has nothing to write there.
            options.read(true).write(true).create_new(true);
            drop(state_folder::open(&mut options, &path)?);
            let file = File::open(&path)?;
            // The name is nobody else's, so there is nobody to wait for.
            file.try_lock().map_err(|error| match error {
                TryLockError::Error(error) => error,
                TryLockError::WouldBlock => io::ErrorKind::ResourceBusy.into(),
            })?;
            Ok(file)
        };
        let file = lock().map_err(|source| BindingError::Journal { path: path.clone(), source })?;
        Ok(Self { id, path, file })
    }

    /// What the journal calls it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The descriptor whose lock says that this run lives.
    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Leaves no trace.
    pub fn retire(&self) {
        // A file without a lock is the same as none.
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether somebody is left who will undo the changes of the run `id`.
pub fn is_alive(state: &Path, id: &str) -> bool {
    let path = state.join(FOLDER).join(id);
    let Ok(file) = File::open(&path) else {
        return false;
    };
    let alive = file.try_lock().is_err();
    if !alive {
        let _ = fs::remove_file(path);
    }
    alive
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_lives_as_long_as_its_lock() {
        let state = tempfile::tempdir().expect("a folder");
        let owner = Owner::new(state.path(), "router").expect("an owner");
        let id = owner.id().to_owned();
        assert!(is_alive(state.path(), &id));
        drop(owner);
        assert!(!is_alive(state.path(), &id));
        assert!(!is_alive(state.path(), "never-was"));
    }
}

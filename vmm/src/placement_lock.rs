//! Machines that start at the same time do not choose the same CPUs.
//!
//! Others see which CPUs a machine has once its vCPUs' threads are pinned. A berth holds this lock
//! from its look at the others to the pin, and the next berth waits. The lock is free again before
//! memory is filled, which may take minutes.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use crate::state;

/// The right to look and to choose; ends when it is dropped, and with the process.
pub struct PlacementLock(Option<File>);

impl PlacementLock {
    /// Waits for it. Who may not write to the state folder goes without: two machines that such
    /// users start in the same instant may choose the same CPUs.
    pub fn take() -> Self {
        match Self::take_in(&state::folder()) {
            Ok(lock) => lock,
            Err(error) => {
                log::info!("machines that start now may choose the same CPUs: {error}");
                Self(None)
            }
        }
    }

    fn take_in(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let path = folder.join("placement.lock");
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        file.lock()?;
        Ok(Self(Some(file)))
    }
}

impl Drop for PlacementLock {
    fn drop(&mut self) {
        // Not by closing it alone: a child that was forked meanwhile may have it a moment longer.
        if let Some(Err(error)) = self.0.as_ref().map(File::unlock) {
            log::warn!("machines that start now have to wait: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_holds_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("placement.lock");
        let lock = PlacementLock::take_in(folder.path()).expect("the lock");
        let other = OpenOptions::new().write(true).open(path).expect("the lock");
        assert!(other.try_lock().is_err());
        drop(lock);
        assert!(other.try_lock().is_ok());
    }

    #[test]
    fn a_process_that_cannot_have_it_goes_without() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        assert!(PlacementLock::take_in(file.path()).is_err());
    }
}

//! Machines that start at the same time do not choose the same CPUs.
//!
//! A machine's CPUs are visible to others once its vCPUs' threads are pinned. The lock covers the
//! time from the look at the other machines to the pin. It is released before memory is filled,
//! which may take minutes.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use crate::binding;

/// The right to look at other machines and to choose CPUs. It ends when this is dropped, and with
/// the process.
pub struct PlacementLock(Option<File>);

impl PlacementLock {
    /// Waits for the lock. A user who may not write to the state folder goes without: two machines
    /// that such users start in the same instant may choose the same CPUs.
    pub fn take() -> Self {
        match Self::take_in(&binding::state_folder()) {
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
        // Closing alone is not enough: a child that was forked meanwhile may keep the file open a
        // moment longer.
        if let Some(Err(error)) = self.0.as_ref().map(File::unlock) {
            log::warn!("machines that start now have to wait: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_machine_at_a_time_has_the_lock() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("placement.lock");
        let lock = PlacementLock::take_in(folder.path()).expect("a lock");
        let other = OpenOptions::new().write(true).open(path).expect("the lock");
        assert!(other.try_lock().is_err());
        drop(lock);
        assert!(other.try_lock().is_ok());
    }

    #[test]
    fn a_user_who_cannot_have_the_lock_goes_without() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        assert!(PlacementLock::take_in(file.path()).is_err());
    }
}

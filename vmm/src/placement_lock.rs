//! Machines that start at the same time do not choose the same CPUs.
//!
//! Others see which CPUs a machine has once its vCPUs' threads are pinned. A berth holds this lock
//! from its look at the others to the pin, and the next berth waits. The lock is free again before
//! memory is filled, which may take minutes.

use std::path::Path;

use crate::state::{self, Lock, StateError};

/// The right to look and to choose; ends when it is dropped, and with the process.
pub struct PlacementLock {
    _lock: Option<Lock>,
}

impl PlacementLock {
    /// Waits for it. Who may not write to the state folder goes without: two machines that such
    /// users start in the same instant may choose the same CPUs.
    ///
    /// # Errors
    /// Others can change the state folder, or another berth has the lock for too long.
    pub fn take() -> Result<Self, StateError> {
        Self::take_in(&state::folder())
    }

    fn take_in(folder: &Path) -> Result<Self, StateError> {
        let lock = state::prepare(folder).and_then(|()| Lock::take(&folder.join("placement.lock")));
        match lock {
            Ok(lock) => Ok(Self { _lock: Some(lock) }),
            Err(StateError::Unusable { source, .. }) => {
                log::info!("machines that start now may choose the same CPUs: {source}");
                Ok(Self { _lock: None })
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn one_process_holds_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let lock = PlacementLock::take_in(folder.path()).expect("the lock");
        let other = File::open(folder.path().join("placement.lock")).expect("the lock");
        assert!(other.try_lock().is_err());
        drop(lock);
        assert!(other.try_lock().is_ok());
    }

    #[test]
    fn a_process_that_cannot_have_it_goes_without() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let lock = PlacementLock::take_in(file.path()).expect("a machine can do without");
        assert!(lock._lock.is_none());
    }

    #[test]
    fn a_lock_that_others_can_take_away_is_none() {
        let folder = tempfile::tempdir().expect("a folder");
        set_permissions(folder.path(), Permissions::from_mode(0o777)).expect("ours");
        assert!(PlacementLock::take_in(folder.path()).is_err());
    }
}

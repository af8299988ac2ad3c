//! The host whose functions change hands.

use std::path::{Path, PathBuf};

use super::BindingError;
use crate::host::Root;
use crate::state;

/// A host, and where berth keeps what it has changed there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    root: PathBuf,
    state: PathBuf,
}

impl Target {
    /// This host, with the journal where every berth on it looks for it.
    pub fn live() -> Self {
        Self { root: PathBuf::from("/"), state: state::folder() }
    }

    /// A folder that is laid out as a host's root, and one for the journal: for rehearsals.
    pub fn at(root: impl Into<PathBuf>, state: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), state: state.into() }
    }

    /// The folder that is laid out as the host's root; also that of its configuration.
    pub(super) fn folder(&self) -> &Path {
        &self.root
    }

    /// Where the journal is.
    pub(super) fn state(&self) -> &Path {
        &self.state
    }

    /// The host, to be read.
    ///
    /// # Errors
    /// The folder is no host's root.
    pub fn root(&self) -> Result<Root, BindingError> {
        Ok(Root::open(&self.root)?)
    }
}

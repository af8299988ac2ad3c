//! Codes and help of what goes wrong before a host can be judged.

use super::{Code, Steps};
use crate::config::ConfigError;
use crate::host::HostError;

impl ConfigError {
    /// As scripts see it.
    pub fn code(&self) -> Code {
        match self {
            Self::Read { .. } => Code::ConfigUnreadable,
            Self::Invalid { .. } => Code::ConfigInvalid,
        }
    }
}

impl HostError {
    /// As scripts see it.
    pub fn code(&self) -> Code {
        match self {
            Self::Read { .. } => Code::HostUnreadable,
            Self::Malformed { .. } => Code::HostMalformed,
            Self::Absent { .. } => Code::HostAbsent,
            Self::Archive { .. } | Self::NoSnapshot { .. } => Code::SnapshotInvalid,
        }
    }

    /// What to do about it.
    pub fn steps(&self) -> Steps {
        self.help().into_iter().collect()
    }
}

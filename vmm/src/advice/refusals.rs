//! Codes and help of what goes wrong before a host can be judged.

use super::{Code, Steps};
use crate::config::ConfigError;
use crate::host::HostError;
use crate::state::StateError;

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

impl StateError {
    /// As scripts see it.
    pub fn code(&self) -> Code {
        match self {
            Self::Unusable { .. } => Code::JournalUnusable,
            Self::Foreign { .. } | Self::Writable { .. } => Code::StateUnsafe,
            Self::Busy { .. } => Code::StateBusy,
        }
    }

    /// What to do about it, step by step.
    pub fn help(&self) -> Steps {
        match self {
            Self::Unusable { .. } => vec!["BERTH_STATE_DIR names another folder".to_owned()],
            Self::Foreign { owner, .. } => vec![format!(
                "run berth as user {owner}, or name a folder of your own with BERTH_STATE_DIR"
            )],
            Self::Writable { path, .. } => vec![
                format!("look whether its files are berth's: `ls -la {}`", path.display()),
                format!("`chmod 700 {}`, or name another with BERTH_STATE_DIR", path.display()),
            ],
            Self::Busy { path, .. } => vec![
                format!("`fuser -v {}` shows who has it", path.display()),
                "end that process if it hangs; the lock ends with it".to_owned(),
            ],
        }
    }
}

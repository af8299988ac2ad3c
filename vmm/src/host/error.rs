//! Why a host cannot be looked at.

use std::io;
use std::path::PathBuf;

/// Why a host cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A file is there but cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds something else than it should.
    #[error("{path} holds `{text}`, expected {expected}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it holds.
        text: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// A file that every host has is not there.
    #[error("{path} tells nothing of the host", path = path.display())]
    Absent {
        /// The file.
        path: PathBuf,
    },
    /// A file is no archive that can be read.
    #[error("{path} is no tar archive, plain or compressed with gzip, bzip2, xz or zstd", path = path.display())]
    Archive {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A folder or archive is not laid out as a root.
    #[error("{path} holds neither sys nor proc, not even below one folder", path = path.display())]
    NoSnapshot {
        /// The folder or archive.
        path: PathBuf,
    },
}

impl HostError {
    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Absent { .. } => Some("berth needs sysfs on /sys and procfs on /proc".to_owned()),
            Self::Archive { .. } | Self::NoSnapshot { .. } => {
                Some("`berth snapshot > host.tar.zst` on the other host makes one".to_owned())
            }
            Self::Read { .. } | Self::Malformed { .. } => None,
        }
    }
}

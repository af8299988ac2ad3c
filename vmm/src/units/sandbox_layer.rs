//! What stands behind seccomp.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A layer of what keeps berth in, beside the filters of system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// A user and a group of its own, without capabilities.
    User,
    /// Mounts, network, host name, System V IPC and cgroup tree of its own.
    Namespaces,
    /// An empty root folder that nobody can write to.
    Root,
    /// No file may be opened, whatever its mode (Landlock).
    Landlock,
}

impl Layer {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::User, Self::Namespaces, Self::Root, Self::Landlock];

    /// As a config has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Namespaces => "namespaces",
            Self::Root => "root",
            Self::Landlock => "landlock",
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

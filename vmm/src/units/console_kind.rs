//! What takes a guest's console outside of berth.

use std::fmt;

use serde::Serialize;

/// A word of the config for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsoleKind {
    /// A regular file.
    File,
    /// A pipe with a name.
    Fifo,
    /// A Unix socket.
    Socket,
}

impl fmt::Display for ConsoleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "file",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
        })
    }
}

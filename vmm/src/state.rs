//! Where berth keeps what has to outlive it.

use std::path::PathBuf;

/// The folder of the journal and of the locks: it has to outlive a reboot, so it is not in /run.
/// `BERTH_STATE_DIR` names another; users other than root have theirs in `XDG_STATE_HOME`.
pub fn folder() -> PathBuf {
    if let Some(folder) = std::env::var_os("BERTH_STATE_DIR") {
        return PathBuf::from(folder);
    }
    let root = rustix::process::geteuid().is_root();
    match std::env::var_os("XDG_STATE_HOME") {
        Some(folder) if !root => PathBuf::from(folder).join("berth"),
        _ => PathBuf::from("/var/lib/berth"),
    }
}

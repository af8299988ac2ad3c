//! Why there is no state to be kept.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why the state folder, or a lock in it, is not to be had.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "variants are documented, and a field is what it is called")]
pub enum StateError {
    /// It cannot be made, opened or written.
    #[error("cannot use {}", .path.display())]
    Unusable { path: PathBuf, source: io::Error },
    /// Its owner can change it under berth's feet.
    #[error("the state folder {} belongs to user {owner}, and berth runs as user {own}", .path.display())]
    Foreign { path: PathBuf, owner: u32, own: u32 },
    /// What is in it may be anybody's.
    #[error("others may write to the state folder {} (its mode is {mode:04o})", .path.display())]
    Writable { path: PathBuf, mode: u32 },
    /// Another berth has had the lock for too long.
    #[error(
        "{} has been locked for {} s by {}",
        .path.display(),
        .waited.as_secs(),
        .holder.as_deref().unwrap_or("a process that is not known")
    )]
    Busy { path: PathBuf, holder: Option<String>, waited: Duration },
}

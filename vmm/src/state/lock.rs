//! Locks of the state folder: one process has each, and the next one knows for whom it waits.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::StateError;
use crate::units::visible;

/// How long anybody waits. A berth has a lock for as long as the kernel takes to change drivers,
/// which is a minute for a card with many virtual functions, and others may be in front.
pub const LIMIT: Duration = Duration::from_secs(300);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);
/// Most of a holder's note that is read: a process ID and the beginning of a command.
const NOTE: usize = 160;

/// An exclusive lock that ends when it is dropped, and with this process, however it ends.
pub struct Lock(File);

impl Lock {
    /// Waits for the lock on the file `path`, and says for whom. Any signal that ends a process
    /// ends the wait.
    ///
    /// # Errors
    /// The file cannot be opened, or another process still has it after [`LIMIT`].
    pub fn take(path: &Path) -> Result<Self, StateError> {
        Self::take_within(path, LIMIT)
    }

    pub(super) fn take_within(path: &Path, limit: Duration) -> Result<Self, StateError> {
        let failed = |source| StateError::Unusable { path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = super::open(&mut options, path).map_err(failed)?;
        let deadline = Instant::now() + limit;
        let mut said = false;
        // Not one call that waits: nothing would end that after the limit.
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(error)) => return Err(failed(error)),
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                    let path = path.to_owned();
                    return Err(StateError::Busy { path, holder: holder(&file), waited: limit });
                }
                Err(TryLockError::WouldBlock) => {}
            }
            if !std::mem::replace(&mut said, true) {
                let holder = holder(&file).unwrap_or_else(|| "another process".to_owned());
                log::warn!("waiting for {holder}, which has {}", path.display());
            }
            thread::sleep(PAUSE);
        }
        // Only for the others' messages: not worth to fail for.
        let _ = sign(&file);
        Ok(Self(file))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.0.set_len(0);
        // Not by closing it alone: a child that was forked meanwhile may have it a moment longer.
        if let Err(error) = self.0.unlock() {
            log::warn!("others wait for a lock that is not needed any more: {error}");
        }
    }
}

/// Says in the file who has it.
fn sign(file: &File) -> io::Result<()> {
    let name = fs::read_to_string("/proc/self/comm").unwrap_or_default();
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let arguments = arguments.iter().map(|argument| argument.to_string_lossy());
    let command = [name.trim().into()].into_iter().chain(arguments).collect::<Vec<_>>().join(" ");
    file.set_len(0)?;
    file.write_all_at(format!("{} {command}", std::process::id()).as_bytes(), 0)
}

/// Who has it, by its own note; `None` when there is none.
fn holder(file: &File) -> Option<String> {
    let mut note = [0; NOTE];
    let length = file.read_at(&mut note, 0).ok()?;
    let note = String::from_utf8_lossy(&note[..length]);
    let (process, command) = note.split_once(' ')?;
    let process: u32 = process.parse().ok()?;
    Some(format!("`{}` (process {process})", visible(command)))
}

//! Waits for what a background command prints, or for its end: the files of its folder, as
//! `tests/harness/process.rs` makes them.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::FromRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Waits until `stdout` in the folder has the text of standard input; false when the command ends
/// without. An empty text never comes.
pub fn wait_for_output(folder: &Path) -> Result<bool> {
    let mut text = Vec::new();
    std::io::stdin().read_to_end(&mut text)?;
    let mut changes = changes(folder)?;
    let mut stdout = File::open(folder.join("stdout"))?;
    let mut seen = Vec::new();
    loop {
        // The status is looked at first: what was printed before the end is then surely seen.
        let ended = folder.join("status").exists();
        stdout.read_to_end(&mut seen)?;
        if !text.is_empty() && seen.windows(text.len()).any(|part| part == text) {
            return Ok(true);
        }
        if ended {
            return Ok(false);
        }
        // A text may be cut here.
        seen.drain(..seen.len().saturating_sub(text.len()));
        let mut events = [0; 4096];
        let length = changes.read(&mut events).context("inotify")?;
        ensure!(length > 0, "inotify ended");
    }
}

/// Becomes readable when a file in the folder is written to, made or renamed.
fn changes(folder: &Path) -> Result<File> {
    let path = CString::new(folder.as_os_str().as_bytes())?;
    // SAFETY: the call takes no memory of ours.
    let inotify = unsafe { libc::inotify_init1(libc::IN_CLOEXEC) };
    ensure!(inotify >= 0, "inotify: {}", std::io::Error::last_os_error());
    // SAFETY: the descriptor is new and nobody else's.
    let file = unsafe { File::from_raw_fd(inotify) };
    let mask = libc::IN_MODIFY | libc::IN_CREATE | libc::IN_MOVED_TO;
    // SAFETY: the path ends with a zero and outlives the call.
    let watch = unsafe { libc::inotify_add_watch(inotify, path.as_ptr(), mask) };
    ensure!(watch >= 0, "{}: {}", folder.display(), std::io::Error::last_os_error());
    Ok(file)
}

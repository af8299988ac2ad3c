//! Where berth keeps what has to outlive it: a folder that is its user's alone.
//!
//! Who can open a file for reading can lock it (flock(2)), and so keep every berth waiting. The
//! folder and its files are therefore closed to everybody else, whatever the umask is, and one
//! that others may write to is not used: what it says was not written by berth.

mod error;
mod lock;

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

pub use error::StateError;
pub(crate) use lock::Lock;

const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// Of the group and of everybody else.
const WRITABLE_BY_OTHERS: u32 = 0o022;

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

/// Makes `folder` when it is not there, and closes it to others when they may look into it.
///
/// # Errors
/// It cannot be made, is no folder, is somebody else's, or is one that others may write to.
pub(crate) fn prepare(folder: &Path) -> Result<(), StateError> {
    let failed = |source| StateError::Unusable { path: folder.to_owned(), source };
    let found = match fs::symlink_metadata(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut new = DirBuilder::new();
            new.recursive(true).mode(FOLDER_MODE).create(folder).map_err(failed)?;
            let parent = folder.parent().unwrap_or(Path::new("/"));
            File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)?;
            fs::symlink_metadata(folder)
        }
        found => found,
    };
    let found = found.map_err(failed)?;
    if !found.is_dir() {
        let what = if found.is_symlink() { "a symbolic link" } else { "not a folder" };
        return Err(failed(io::Error::new(io::ErrorKind::NotADirectory, format!("it is {what}"))));
    }
    let (own, owner, mode) = (rustix::process::geteuid().as_raw(), found.uid(), found.mode());
    // Everybody has to trust root. What root keeps to itself a user learns from open(2).
    if owner != own && owner != 0 {
        return Err(StateError::Foreign { path: folder.to_owned(), owner, own });
    }
    if mode & WRITABLE_BY_OTHERS != 0 {
        return Err(StateError::Writable { path: folder.to_owned(), mode: mode & 0o7777 });
    }
    if owner == own && mode & 0o777 != FOLDER_MODE {
        // The folder first: nobody opens anything in it afterwards.
        close(folder, FOLDER_MODE).and_then(|()| close_entries(folder)).map_err(failed)?;
    }
    Ok(())
}

fn close(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// What an earlier berth, or another umask, has left open to others.
fn close_entries(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (kind, path) = (entry.file_type()?, entry.path());
        if kind.is_dir() {
            close(&path, FOLDER_MODE)?;
            close_entries(&path)?;
        } else if kind.is_file() {
            close(&path, FILE_MODE)?;
        }
    }
    Ok(())
}

/// Makes a folder in the state folder.
pub(crate) fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path)
}

/// Opens a file of the state folder as `options` say. It is its owner's alone.
pub(crate) fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let file = options.mode(FILE_MODE).custom_flags(libc::O_NOFOLLOW).open(path)?;
    if file.metadata()?.mode() & 0o777 != FILE_MODE {
        file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests;

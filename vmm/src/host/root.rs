//! Files under a root directory: this host's own, or what was captured of another.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::tree::{Entries, Entry, Found, Tree, resolve};
use super::{HostError, archive};
use crate::units::visible;

/// Where `/proc`, `/sys` and `/dev` are found.
///
/// A file that does not exist is `None`, not an error: most of what the profile reads depends on
/// the kernel's options and on loaded modules.
#[derive(Debug)]
pub struct Root {
    source: Source,
    /// What was read so far, when that is to be kept.
    record: Option<RefCell<Tree>>,
}

#[derive(Debug)]
enum Source {
    /// This host.
    Live,
    /// A folder laid out as another host's root.
    Folder(PathBuf),
    /// An archive of such a folder.
    Archive { path: PathBuf, tree: Tree },
}

/// What is at a path, links followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A folder.
    Folder,
    /// A file of so many bytes.
    File(u64),
    /// A device, a pipe or a socket.
    Special,
}

impl Root {
    /// This host, as it is now.
    pub fn live() -> Self {
        Self { source: Source::Live, record: None }
    }

    /// The host that was captured at `path`: a folder laid out as its root, or a tar archive of
    /// one, plain or compressed, with or without one leading folder.
    ///
    /// # Errors
    /// There is no such file, or it is no such archive.
    pub fn open(path: &Path) -> Result<Self, HostError> {
        let read = |source| HostError::Read { path: path.to_owned(), source };
        let source = if path == Path::new("/") {
            Source::Live
        } else if fs::metadata(path).map_err(read)?.is_dir() {
            Source::Folder(leading_folder(path))
        } else {
            let tree = archive::read(path)?.without_leading_folder();
            Source::Archive { path: path.to_owned(), tree }
        };
        let root = Self { source, record: None };
        if root.exists("/sys") || root.exists("/proc") {
            Ok(root)
        } else {
            Err(HostError::NoSnapshot { path: path.to_owned() })
        }
    }

    /// A snapshot made by hand.
    #[cfg(test)]
    pub(super) fn of(tree: Tree) -> Self {
        Self { source: Source::Archive { path: PathBuf::from("snapshot"), tree }, record: None }
    }

    /// The same, remembering what is read of it.
    pub fn recorded(self) -> Self {
        Self { record: Some(RefCell::default()), ..self }
    }

    /// Whether it remembers what is read.
    pub(super) fn is_recorded(&self) -> bool {
        self.record.is_some()
    }

    /// What was read.
    pub(super) fn into_record(self) -> Tree {
        self.record.map(RefCell::into_inner).unwrap_or_default()
    }

    /// This host as it is now, rather than a snapshot.
    pub fn is_live(&self) -> bool {
        matches!(self.source, Source::Live)
    }

    /// `path` under this root, for people to find it.
    pub(super) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let below = path.as_ref().strip_prefix("/").unwrap_or(path.as_ref());
        match &self.source {
            Source::Live => Path::new("/").join(below),
            Source::Folder(folder) | Source::Archive { path: folder, .. } => folder.join(below),
        }
    }

    /// Whether there is a folder at `path`.
    pub(super) fn is_folder(&self, path: impl AsRef<Path>) -> bool {
        matches!(self.kind(path), Ok(Kind::Folder))
    }

    pub(super) fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.kind(path).is_ok()
    }

    /// At most `limit` bytes from the file's start; `None` when there is no such file.
    pub(super) fn head(
        &self,
        path: impl AsRef<Path>,
        limit: usize,
    ) -> Result<Option<Vec<u8>>, HostError> {
        let bytes = self.read(path.as_ref(), limit);
        self.found(path.as_ref(), bytes)
    }

    /// The names in a folder, sorted; none when there is no such folder.
    pub(super) fn names(&self, path: impl AsRef<Path>) -> Result<Vec<String>, HostError> {
        let names = self.list(path.as_ref());
        Ok(self.found(path.as_ref(), names)?.unwrap_or_default())
    }

    /// What a symbolic link points at.
    pub(super) fn link(&self, path: impl AsRef<Path>) -> Option<PathBuf> {
        let path = path.as_ref();
        let folder = self.resolved(path.parent()?).ok()?;
        let link = folder.join(path.file_name()?);
        let target = self.target(&link)?;
        // Nor has a target of the kernel's own links.
        if let Cow::Owned(_) = visible(&target.to_string_lossy()) {
            return None;
        }
        self.remember(&link, || Entry::Link(target.clone()));
        Some(target)
    }

    /// The last component of what a symbolic link points at.
    pub(super) fn link_name(&self, path: impl AsRef<Path>) -> Option<String> {
        Some(self.link(path)?.file_name()?.to_string_lossy().into_owned())
    }

    /// What is at `path`.
    pub(super) fn kind(&self, path: impl AsRef<Path>) -> io::Result<Kind> {
        let path = self.resolved(path.as_ref())?;
        let kind = match &self.source {
            Source::Archive { tree, .. } => match tree.get(&path) {
                Some(Found::Folder(_)) => Kind::Folder,
                Some(Found::File(bytes)) => Kind::File(bytes.len() as u64),
                Some(Found::Link(_)) | None => return Err(io::ErrorKind::NotFound.into()),
            },
            Source::Live | Source::Folder(_) => {
                let metadata = fs::metadata(self.path(&path))?;
                if metadata.is_dir() {
                    Kind::Folder
                } else if metadata.is_file() {
                    Kind::File(metadata.len())
                } else {
                    Kind::Special
                }
            }
        };
        self.remember(&path, || match kind {
            Kind::Folder => Entry::Folder(Entries::new()),
            Kind::File(_) | Kind::Special => Entry::File(Vec::new()),
        });
        Ok(kind)
    }

    /// At most `limit` bytes from the file's start.
    ///
    /// In sysfs a read that returns less than it asked for is the last, because the kernel makes
    /// an attribute whole: one call where the standard library makes three. Procfs returns as many
    /// records as fit into its own buffer.
    pub(super) fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        const CHUNK: usize = 16 << 10;

        let path = self.resolved(path)?;
        let attribute = path.starts_with("/sys");
        let mut bytes = Vec::new();
        match &self.source {
            Source::Archive { tree, .. } => match tree.get(&path) {
                Some(Found::File(all)) => bytes = all[..all.len().min(limit)].to_vec(),
                _ => return Err(io::ErrorKind::NotFound.into()),
            },
            Source::Live | Source::Folder(_) => {
                let mut file = self.open_file(&path)?;
                loop {
                    let start = bytes.len();
                    if start as u64 > archive::LARGEST_FILE && !self.is_live() {
                        return Err(io::Error::other("no file of a host is so large"));
                    }
                    let want = CHUNK.min(limit - start);
                    bytes.resize(start + want, 0);
                    let got = file.read(&mut bytes[start..])?;
                    bytes.truncate(start + got);
                    if got == 0 || bytes.len() == limit || (attribute && got < want) {
                        break;
                    }
                }
            }
        }
        self.remember(&path, || Entry::File(bytes.clone()));
        Ok(bytes)
    }

    /// A folder that somebody sent may hold anything: a pipe would be waited on, a device be read.
    fn open_file(&self, path: &Path) -> io::Result<File> {
        if self.is_live() {
            return File::open(self.path(path));
        }
        let options = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).clone();
        let file = options.open(self.path(path))?;
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let path = self.resolved(path)?;
        let mut names = Vec::new();
        match &self.source {
            Source::Archive { tree, .. } => match tree.get(&path) {
                Some(Found::Folder(entries)) => names.extend(entries.keys().cloned()),
                _ => return Err(io::ErrorKind::NotFound.into()),
            },
            Source::Live | Source::Folder(_) => {
                for entry in fs::read_dir(self.path(&path))? {
                    // The kernel's own names are ASCII.
                    names.push(entry?.file_name().to_string_lossy().into_owned());
                }
            }
        }
        // None of the kernel's has such characters; one that has names nothing.
        names.retain(|name| matches!(visible(name), Cow::Borrowed(_)));
        names.sort_unstable();
        if self.record.is_some() {
            self.remember(&path, || Entry::Folder(Entries::new()));
            for name in &names {
                let path = path.join(name);
                self.remember(&path, || match self.target(&path) {
                    Some(target) => Entry::Link(target),
                    None if self.path(&path).is_dir() => Entry::Folder(Entries::new()),
                    None => Entry::File(Vec::new()),
                });
            }
        }
        Ok(names)
    }

    /// `path` from this root, with its links followed where the kernel would not do that for us
    /// within the root.
    fn resolved(&self, path: &Path) -> io::Result<PathBuf> {
        if self.is_live() && self.record.is_none() {
            return Ok(path.to_owned());
        }
        resolve(path, |path| {
            let target = self.target(path)?;
            self.remember(path, || Entry::Link(target.clone()));
            Some(target)
        })
    }

    /// The target of what is a link; no link above it is followed.
    fn target(&self, path: &Path) -> Option<PathBuf> {
        match &self.source {
            Source::Archive { tree, .. } => match tree.get(path) {
                Some(Found::Link(target)) => Some(target.to_owned()),
                _ => None,
            },
            Source::Live | Source::Folder(_) => fs::read_link(self.path(path)).ok(),
        }
    }

    /// Keeps `entry` as what is at `path`, when that is wanted.
    pub(super) fn remember(&self, path: &Path, entry: impl FnOnce() -> Entry) {
        if let Some(record) = &self.record {
            let entry = entry();
            record.borrow_mut().insert(path, entry);
        }
    }

    /// `None` for what does not exist.
    fn found<T>(&self, path: &Path, result: io::Result<T>) -> Result<Option<T>, HostError> {
        match result {
            Ok(value) => Ok(Some(value)),
            // ENODEV, ESRCH: the object behind a sysfs or procfs file went away while it was read.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound)
                    || matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ESRCH)) =>
            {
                Ok(None)
            }
            Err(source) => Err(HostError::Read { path: self.path(path), source }),
        }
    }
}

/// The folder in `path` that is laid out as a root, when `path` only holds that one.
fn leading_folder(path: &Path) -> PathBuf {
    let mut below = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    match (below.next(), below.next()) {
        // A link would lead out of the snapshot.
        (Some(only), None) if only.is_symlink() => path.to_owned(),
        (Some(only), None) if only.join("sys").is_dir() || only.join("proc").is_dir() => only,
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device may go while its files are read.
    #[test]
    fn what_went_away_is_not_there_and_other_errors_are_errors() {
        let found = |errno| {
            let result = Err::<(), _>(io::Error::from_raw_os_error(errno));
            Root::live().found(Path::new("/sys/x"), result)
        };
        for errno in [libc::ENOENT, libc::ENODEV, libc::ESRCH] {
            assert!(matches!(found(errno), Ok(None)), "{errno}");
        }
        for errno in [libc::EIO, libc::EACCES] {
            assert!(matches!(found(errno), Err(HostError::Read { .. })), "{errno}");
        }
    }
}

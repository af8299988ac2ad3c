//! Files under a root directory, which may be another host's snapshot.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::HostError;

/// Where `/proc`, `/sys` and `/dev` are found.
///
/// A file that does not exist is `None`, not an error: most of what the profile reads depends on
/// the kernel's options and on loaded modules.
pub(super) struct Root<'a>(&'a Path);

impl<'a> Root<'a> {
    pub(super) fn new(path: &'a Path) -> Self {
        Self(path)
    }

    /// This host as it is now, rather than a snapshot.
    pub(super) fn is_live(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// `path` under this root, whether `path` is absolute or not.
    pub(super) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    pub(super) fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.path(path).exists()
    }

    /// The file's text without the white space around it.
    pub(super) fn text(&self, path: impl AsRef<Path>) -> Result<Option<String>, HostError> {
        let bytes = self.head(path, usize::MAX)?;
        // The kernel's own texts are ASCII.
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()))
    }

    /// The file's text as a `T`; `expected` says in words what a `T` is.
    pub(super) fn value<T: FromStr>(
        &self,
        path: impl AsRef<Path>,
        expected: &'static str,
    ) -> Result<Option<T>, HostError> {
        let Some(text) = self.text(&path)? else {
            return Ok(None);
        };
        self.parse(path, &text, expected).map(Some)
    }

    /// `text`, found in the file at `path`, as a `T`.
    pub(super) fn parse<T: FromStr>(
        &self,
        path: impl AsRef<Path>,
        text: &str,
        expected: &'static str,
    ) -> Result<T, HostError> {
        text.parse().map_err(|_| HostError::Malformed {
            path: self.path(path),
            text: text.chars().take(80).collect(),
            expected,
        })
    }

    /// A hexadecimal number such as `0x8086`.
    pub(super) fn hex(&self, path: impl AsRef<Path>) -> Result<Option<u64>, HostError> {
        let Some(text) = self.text(&path)? else {
            return Ok(None);
        };
        let digits = text.strip_prefix("0x").unwrap_or(&text);
        match u64::from_str_radix(digits, 16) {
            Ok(value) => Ok(Some(value)),
            Err(_) => self.parse::<u64>(path, &text, "a hexadecimal number").map(Some),
        }
    }

    /// At most `limit` bytes from the file's start.
    ///
    /// A read that returns less than it asked for is the last: the kernel gives attributes and the
    /// records of procfs whole, so that one call does where the standard library makes three.
    pub(super) fn head(
        &self,
        path: impl AsRef<Path>,
        limit: usize,
    ) -> Result<Option<Vec<u8>>, HostError> {
        const CHUNK: usize = 16 << 10;

        let path = self.path(path);
        let read = || {
            let mut file = File::open(&path)?;
            let mut bytes = Vec::new();
            loop {
                let start = bytes.len();
                let want = CHUNK.min(limit - start);
                bytes.resize(start + want, 0);
                let got = file.read(&mut bytes[start..])?;
                bytes.truncate(start + got);
                if got < want || bytes.len() == limit {
                    return Ok(bytes);
                }
            }
        };
        found(&path, read())
    }

    /// The names in a folder, sorted; none when there is no such folder.
    pub(super) fn names(&self, path: impl AsRef<Path>) -> Result<Vec<String>, HostError> {
        let path = self.path(path);
        let Some(entries) = found(&path, fs::read_dir(&path))? else {
            return Ok(Vec::new());
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|source| HostError::Read { path: path.clone(), source })?;
            // The kernel's own names are ASCII.
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The last component of what a symbolic link points at.
    pub(super) fn link_name(&self, path: impl AsRef<Path>) -> Option<String> {
        let target = fs::read_link(self.path(path)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }
}

/// `None` for what does not exist.
fn found<T>(path: &Path, result: io::Result<T>) -> Result<Option<T>, HostError> {
    match result {
        Ok(value) => Ok(Some(value)),
        // ENODEV, ESRCH: the object behind a sysfs or procfs file went away while it was read.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound)
                || matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ESRCH)) =>
        {
            Ok(None)
        }
        Err(source) => Err(HostError::Read { path: path.to_owned(), source }),
    }
}

//! Texts and numbers of files under a root.

use std::path::Path;
use std::str::FromStr;

use super::{HostError, Root};
use crate::units::visible;

impl Root {
    /// The file's text without the white space around it, and without what would act on a
    /// terminal: text of a host is data. `None` for a file of procfs that was captured empty.
    pub(super) fn text(&self, path: impl AsRef<Path>) -> Result<Option<String>, HostError> {
        let is_of_proc = path.as_ref().starts_with("/proc");
        let bytes = self.head(path, usize::MAX)?;
        // The kernel's own texts are ASCII. Old kernels wrote a zero byte behind some, and tar
        // fills what it reads of sysfs up to the size that is said there.
        let text = bytes.map(|bytes| {
            let text = String::from_utf8_lossy(&bytes);
            let around = |letter: char| letter == '\0' || letter.is_whitespace();
            visible(text.trim_matches(around)).into_owned()
        });
        // Files of procfs have no size, and tar copies nothing of them.
        Ok(text.filter(|text| self.is_live() || !is_of_proc || !text.is_empty()))
    }

    /// The file's text, where neither its absence nor that it may not be read means anything.
    pub(super) fn glance(&self, path: impl AsRef<Path>) -> Option<String> {
        self.text(path).ok().flatten()
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
}

//! What the kernel said of the IOMMU, of VFIO and of KVM.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::Serialize;

use super::root::Root;
use super::tree::Entry;

/// Lines of the kernel's log that concern passthrough.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KernelLog {
    /// Where they were read; `None` when no log can be read.
    pub source: Option<String>,
    /// The lines, without their times.
    pub lines: Vec<String>,
}

/// Where a snapshot keeps the log, and where some systems copy what was said at boot.
const COPY: &str = "/var/log/dmesg";

/// What a line that concerns passthrough speaks of. Nothing else is kept: the log also names
/// users' devices and disks.
const TOPICS: [&str; 15] = [
    "DMAR",
    "AMD-Vi",
    "IOMMU",
    "iommu",
    "emapping",
    "vfio",
    "kvm",
    "KVM",
    "SVM",
    "VMX",
    "RMRR",
    "ockdown",
    "Secure boot",
    "x2apic",
    "1:1 mapping",
];

impl KernelLog {
    pub(super) fn read(root: &Root) -> Self {
        let live = if root.is_live() { messages(Path::new("/dev/kmsg")) } else { None };
        let (source, lines) = match live {
            Some(lines) => ("the kernel's log", lines),
            None => match root.glance(COPY) {
                Some(text) => {
                    (COPY, text.lines().map(|line| without_time(line).to_owned()).collect())
                }
                None => return Self::default(),
            },
        };
        let about = |line: &String| TOPICS.iter().any(|topic| line.contains(topic));
        let lines: Vec<String> = lines.into_iter().filter(about).collect();
        root.remember(Path::new(COPY), || Entry::File((lines.join("\n") + "\n").into_bytes()));
        Self { source: Some(source.to_owned()), lines }
    }

    /// The first line with any of `words`.
    pub fn find(&self, words: &[&str]) -> Option<&str> {
        let mut lines = self.lines.iter().map(String::as_str);
        lines.find(|line| words.iter().any(|word| line.contains(word)))
    }
}

/// All records of /dev/kmsg: each read gives one, `priority,number,time,flags;text`, then lines
/// of properties that begin with a space (kernel, Documentation/ABI/testing/dev-kmsg).
fn messages(kmsg: &Path) -> Option<Vec<String>> {
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(kmsg).ok()?;
    let mut lines = Vec::new();
    let mut record = [0; 8192];
    loop {
        match file.read(&mut record) {
            Ok(0) => return Some(lines),
            Ok(length) => {
                let text = String::from_utf8_lossy(&record[..length]);
                if let Some((_, text)) = text.split_once(';') {
                    lines.extend(text.lines().next().map(str::to_owned));
                }
            }
            // The record was overwritten before it was read; the next one is the oldest.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // WouldBlock: that was the last.
            Err(_) => return Some(lines),
        }
    }
}

/// `[    0.123456] text` as `text`.
fn without_time(line: &str) -> &str {
    let time = line.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    time.map_or(line, |(_, text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_left_out() {
        assert_eq!(without_time("[    0.1] DMAR: x"), "DMAR: x");
        assert_eq!(without_time("DMAR: x"), "DMAR: x");
    }
}

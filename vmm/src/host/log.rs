//! What the kernel said of the IOMMU, of VFIO and of KVM.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::Serialize;

use super::root::Root;
use super::tree::Entry;
use crate::units::visible;

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
const TOPICS: [&str; 33] = [
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
    "IVRS",
    "IOAPIC",
    "SEV",
    "SME is active",
    "ACS overrides",
    // pci, by what it says of a function that cannot be used.
    "can't assign",
    "failed to assign",
    "can't reserve",
    "D3cold",
    "device inaccessible",
    "not ready",
    "resources for SR-IOV",
    "AER: Uncorrect",
    "severity=Uncorrect",
    "reset recovery",
    "change power state",
    "HugeTLB",
    "hugepages",
];

impl KernelLog {
    pub(super) fn read(root: &Root) -> Self {
        let live = if root.is_live() { messages(Path::new("/dev/kmsg")) } else { None };
        let (source, lines) = match live {
            Some(lines) => ("the kernel's log", lines),
            None => match root.glance(COPY) {
                Some(text) => (COPY, whole(&text)),
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
                    lines.extend(text.lines().next().map(unescaped));
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

/// A record's text has the kernel's own line ends as `\\x0a` (kernel, printk/printk.c,
/// append_char).
fn unescaped(record: &str) -> String {
    let lines: Vec<&str> = record.split("\\x0a").map(str::trim).collect();
    visible(lines.join(" ").trim()).into_owned()
}

/// The messages of a file, each in one line. A message of several lines goes on where there is no
/// time; in a file without times, with a small letter and without the name of who speaks.
fn whole(text: &str) -> Vec<String> {
    let has_times = text.lines().any(|line| line.starts_with('['));
    let mut messages: Vec<String> = Vec::new();
    for line in text.lines() {
        let goes_on = if has_times {
            !line.starts_with('[') && !line.starts_with('<')
        } else {
            line.starts_with(|first: char| first.is_lowercase() || first.is_whitespace())
                && !line.contains(": ")
        };
        match messages.last_mut() {
            Some(message) if goes_on => {
                message.push(' ');
                message.push_str(line.trim());
            }
            _ => messages.push(without_time(line).to_owned()),
        }
    }
    messages
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
    fn messages_of_several_lines_are_one() {
        let erratum = "DMAR-IR: This system BIOS has enabled interrupt remapping on a chipset";
        for text in [
            "DMAR-IR: This system BIOS has enabled interrupt remapping\non a chipset\nkvm: next",
            "[ 0.1] DMAR-IR: This system BIOS has enabled interrupt remapping\n\
             on a chipset\n[ 0.2] kvm: next",
        ] {
            assert_eq!(whole(text), [erratum, "kvm: next"]);
        }
        let record =
            "DMAR-IR: This system BIOS has enabled interrupt remapping\\x0aon a chipset\\x0a";
        assert_eq!(unescaped(record), erratum);
    }

    #[test]
    fn times_are_left_out() {
        assert_eq!(without_time("[    0.1] DMAR: x"), "DMAR: x");
        assert_eq!(without_time("DMAR: x"), "DMAR: x");
    }
}

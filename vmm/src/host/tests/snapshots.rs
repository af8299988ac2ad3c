//! Snapshots from anywhere: what is no snapshot, is cut off, too large or means harm.

use std::path::PathBuf;

use super::fixture::{archive as root, gathered};
use super::{HostError, Root};

#[test]
fn what_is_no_snapshot_is_refused() {
    assert!(matches!(
        root(b"#!/bin/sh\n"),
        Err(HostError::Archive { .. } | HostError::NoSnapshot { .. })
    ));
    let missing = Root::open(&PathBuf::from("/nonexistent/host.tar.zst"));
    assert!(matches!(missing, Err(HostError::Read { .. })));
}

/// A tar archive whose only file has `name`, and says that it has `size` bytes.
fn hostile(name: &str, size: u64, bytes: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    // Past the check of tar's own writer.
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_size(size);
    header.set_mode(0o444);
    header.set_cksum();
    let mut archive = header.as_bytes().to_vec();
    archive.extend_from_slice(bytes);
    archive.resize(archive.len().next_multiple_of(512), 0);
    archive
}

#[test]
fn paths_of_an_archive_stay_in_it() {
    for name in ["../../../../proc/cmdline", "/proc/cmdline", "./../proc/cmdline"] {
        let mut bytes = hostile(name, 4, b"evil");
        bytes.extend(hostile("proc/stat", 1, b"0"));
        let before = std::fs::read("/proc/cmdline").ok();
        let root = root(&bytes).expect("an archive");
        assert_eq!(root.glance("/proc/cmdline").as_deref(), Some("evil"), "{name}");
        assert_eq!(std::fs::read("/proc/cmdline").ok(), before);
    }
}

#[test]
fn what_is_cut_off_or_too_large_is_said() {
    use std::error::Error;

    let reason = |bytes: &[u8]| {
        let error = root(bytes).expect_err("no good archive");
        let cause = error.source().map(ToString::to_string).unwrap_or_default();
        assert!(matches!(error, HostError::Archive { .. }), "{error}");
        cause
    };
    let good = gathered();
    for length in [good.len() - 1, good.len() / 2, 20] {
        assert!(!reason(&good[..length]).is_empty());
    }
    // A file that ends before its size does.
    assert!(!reason(&hostile("proc/cpuinfo", 4 << 30, b"x")).is_empty());
    // A path of more folders than any stack has frames.
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    let path = "a/".repeat(1 << 18) + "proc";
    archive.append_data(&mut header, path, std::io::empty()).expect("memory takes all");
    let deep = archive.into_inner().expect("memory takes all");
    assert!(reason(&deep).contains("more than a snapshot"), "{}", reason(&deep));
}

#[test]
fn links_that_lead_nowhere_or_around_are_no_files() {
    let mut archive = tar::Builder::new(Vec::new());
    let mut link = |at: &str, target: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        archive.append_link(&mut header, at, target).expect("memory takes all");
    };
    link("proc/cpuinfo", "cpuinfo");
    link("proc/cmdline", "/etc/shadow");
    link("proc/self", "../../../../../../../proc/1");
    link("sys/a", "b");
    link("sys/b", "a");
    let root = root(&archive.into_inner().expect("memory takes all")).expect("an archive");
    for path in ["/proc/cpuinfo", "/proc/cmdline", "/proc/self/status", "/sys/a", "/sys/b/x"] {
        assert!(!root.exists(path) && root.glance(path).is_none(), "{path}");
    }
}

#[test]
fn a_folder_with_more_than_files_is_no_trap() {
    let folder = tempfile::tempdir().expect("a folder");
    let proc = folder.path().join("proc");
    std::fs::create_dir(&proc).expect("a folder");
    use rustix::fs::{CWD, FileType, Mode};

    let (kind, mode) = (FileType::Fifo, Mode::RUSR | Mode::WUSR);
    rustix::fs::mknodat(CWD, proc.join("cpuinfo"), kind, mode, 0).expect("a FIFO");
    let large = std::fs::File::create(proc.join("cmdline")).expect("a file");
    large.set_len(1 << 40).expect("a file with a hole");
    let root = Root::open(folder.path()).expect("a folder");
    assert!(root.glance("/proc/cpuinfo").is_none());
    let error = root.text("/proc/cmdline").expect_err("a file of a TiB");
    assert!(error.to_string().ends_with("proc/cmdline"), "{error}");
}

/// The only thing in the folder is a link to this very host's root.
#[test]
fn a_leading_link_is_no_leading_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    std::os::unix::fs::symlink("/", folder.path().join("host")).expect("a link");
    assert!(matches!(Root::open(folder.path()), Err(HostError::NoSnapshot { .. })));
}

#[test]
fn a_link_of_a_snapshot_stays_in_it() {
    use std::os::unix::fs::symlink;

    let folder = tempfile::tempdir().expect("a folder");
    let below = folder.path().join("leading/proc");
    std::fs::create_dir_all(&below).expect("a folder");
    symlink("/etc/passwd", below.join("cmdline")).expect("a link");
    symlink("../../../../../../../../../etc/passwd", below.join("cpuinfo")).expect("a link");
    let root = Root::open(folder.path()).expect("a folder with one folder");
    assert!(!root.exists("/proc/cmdline") && !root.exists("/proc/cpuinfo"));
    assert!(root.exists("/proc"));
}

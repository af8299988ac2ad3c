//! Any journal is read or refused; what it says to put back is named, and nothing is touched.

#![no_main]

use std::sync::LazyLock;

use berth::binding::{self, BindOptions, Target};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

/// A host on which nothing of what a journal names exists, and the folder of the journal.
static HOST: LazyLock<(TempDir, TempDir)> = LazyLock::new(|| {
    let folder = || TempDir::new_in("/dev/shm").expect("memory takes all");
    let (host, state) = (folder(), folder());
    std::fs::create_dir_all(host.path().join("sys/bus/pci/devices")).expect("memory takes all");
    (host, state)
});

fuzz_target!(|bytes: &[u8]| {
    let (host, state) = &*HOST;
    std::fs::write(state.path().join("journal"), bytes).expect("memory takes all");
    let target = Target::at(host.path(), state.path());
    let rehearsal = BindOptions { dry_run: true, ..BindOptions::default() };
    let Ok(planned) = binding::restore(&target, rehearsal) else { return };
    assert!(!planned.to_string().is_empty());
    // A setting may name any path of sysfs: none of them is here, so that all is obsolete.
    let done = binding::restore(&target, BindOptions::default());
    if let Ok(report) = done {
        assert!(!report.to_string().is_empty());
    }
    let left = std::fs::read_dir(host.path()).expect("a folder").count();
    assert_eq!(left, 1, "restoring made files on the host");
});

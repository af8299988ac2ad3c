//! Captures as others make them: archives, with a leading folder, of topology only.

use std::io::Write;
use std::path::PathBuf;

use rustix::fs::{CWD, FileType, Mode};
use serde_json::json;

use crate::config::Config;
use crate::host::{Facts, HostError, HostProfile, Root};
use crate::plan::Plan;

/// The kind of tree that hwloc-gather-topology keeps: masks rather than lists, no lists of what is
/// online, a folder of its own, and nothing of IOMMUs, drivers or processes.
fn gathered() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut file = |path: &str, text: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o444);
        let path = format!("./some-host/{path}");
        archive.append_data(&mut header, path, text.as_bytes()).expect("memory takes all");
    };
    for cpu in 0..4 {
        let mask = if cpu % 2 == 0 { "00000000,00000005\n" } else { "00000000,0000000a\n" };
        file(&format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings"), mask);
    }
    for (node, mask) in [(0, "00000000,00000005\n"), (1, "00000000,0000000a\n")] {
        let folder = format!("sys/devices/system/node/node{node}");
        file(&format!("{folder}/cpumap"), mask);
        file(&format!("{folder}/meminfo"), &format!("Node {node} MemTotal: 8388608 kB\n"));
        for name in ["nr_hugepages", "free_hugepages"] {
            file(&format!("{folder}/hugepages/hugepages-1048576kB/{name}"), "4\n");
        }
    }
    file("sys/kernel/mm/hugepages/hugepages-1048576kB/resv_hugepages", "0\n");
    file("proc/cpuinfo", "processor\t: 0\nvendor_id\t: GenuineIntel\n\n");
    let folder = "sys/devices/pci0000:40/0000:41:00.0";
    for (name, text) in [("vendor", "0x8086\n"), ("class", "0x020000\n"), ("numa_node", "1\n")] {
        file(&format!("{folder}/{name}"), text);
    }
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    let at = "./some-host/sys/bus/pci/devices/0000:41:00.0";
    let target = "../../../devices/pci0000:40/0000:41:00.0";
    archive.append_link(&mut link, at, target).expect("memory takes all");
    let bytes = archive.into_inner().expect("memory takes all");
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(&bytes).expect("memory takes all");
    bzip2.finish().expect("memory takes all")
}

fn root(bytes: &[u8]) -> Result<Root, HostError> {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(bytes).expect("a file");
    Root::open(file.path())
}

fn config() -> Config {
    let config = json!({
        "name": "vm", "kernel": "/boot/vmlinuz", "vcpus": 2, "memory": { "size_mib": 2048 },
        "devices": [{ "address": "41:00.0" }],
    });
    serde_json::from_value(config).expect("a good config")
}

#[test]
fn a_gathered_topology_can_be_planned_for() {
    let root = root(&gathered()).expect("an archive");
    assert!(root.lacks().contains(&"/proc/self/status"));
    let host = HostProfile::read(&root, &config()).expect("a host");
    assert_eq!(host.cpus.online.to_string(), "0-3");
    assert_eq!(host.cpus.core_of(3), 1);
    assert_eq!(host.memory.nodes[&1].cpus.to_string(), "1,3");
    let plan = Plan::new(&config(), &host).expect("a plan");
    assert_eq!(plan.memory.node, Some(1));
    assert_eq!(plan.vcpus.iter().map(|vcpu| vcpu.cpu).collect::<Vec<_>>(), [1, 3]);
}

/// With its option for devices, hwloc gathers their folders with all links, and not the groups and
/// drivers that those lead to.
#[test]
fn links_of_gathered_devices_tell_groups_and_drivers() {
    use crate::host::fixture::{Device, Fixture, NIC};
    use crate::listing::{Listing, Names};

    let mut host = Fixture::server();
    host.device(Device { address: "0000:41:00.1", driver: "igb", ..NIC });
    for path in ["/sys/kernel", "/sys/bus/pci/drivers", "/sys/class/iommu", "/proc/self", "/etc"] {
        host.remove(path);
    }
    let inventory = crate::host::Inventory::read(&host.root()).expect("an inventory");
    let listing = Listing::new(&inventory, &Names::default(), host.root().lacks());
    assert!(listing.lacks.contains(&"/sys/kernel/iommu_groups"));
    let nic = listing.devices.iter().find(|d| d.address.to_string() == NIC.address);
    let nic = nic.expect("the NIC");
    assert_eq!((nic.iommu_group, nic.driver.as_deref()), (Some(14), Some("vfio-pci")));
    let others: Vec<String> = nic.shares_group_with.iter().map(ToString::to_string).collect();
    assert_eq!(others, ["0000:41:00.1"]);
    let facts = Facts::read(&host.root(), Some(&config()), &[]).expect("facts");
    let report = crate::check::Report::new(&facts, Some(&config()));
    let viable = report.findings.iter().find(|f| f.code == crate::check::Code::GroupNotViable);
    assert!(viable.expect("a finding").seen.contains("0000:41:00.1 (igb)"), "{report}");
}

#[test]
fn what_a_capture_lacks_is_no_fault() {
    let root = root(&gathered()).expect("an archive");
    let facts = Facts::read(&root, Some(&config()), &[]).expect("facts");
    let report = crate::check::Report::new(&facts, Some(&config()));
    let fails = report.findings.iter().filter(|f| f.severity == crate::check::Severity::Fail);
    assert_eq!(fails.collect::<Vec<_>>(), Vec::<&crate::check::Finding>::new());
}

#[test]
fn what_is_no_capture_is_refused() {
    assert!(matches!(
        root(b"#!/bin/sh\n"),
        Err(HostError::Archive { .. } | HostError::NoCapture { .. })
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
    assert!(reason(&deep).contains("more than a capture"), "{}", reason(&deep));
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
    assert!(matches!(Root::open(folder.path()), Err(HostError::NoCapture { .. })));
}

#[test]
fn a_link_of_a_capture_stays_in_it() {
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

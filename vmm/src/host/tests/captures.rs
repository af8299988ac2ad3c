//! Captures as others make them: archives, with a leading folder, of topology only.

use std::io::Write;
use std::path::PathBuf;

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

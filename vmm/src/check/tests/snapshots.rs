//! Snapshots of topology only, as other tools make them, in every command.

use serde_json::json;

use crate::config::Config;
use crate::host::fixture::{archive as root, gathered};
use crate::host::{Facts, HostProfile, Query};
use crate::plan::Plan;

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
    let host =
        HostProfile::read(&root, &Query::from(&config())).expect("a host").with_assumptions(&root);
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
    use crate::device_list::{DeviceList, Names};
    use crate::host::fixture::{Device, Fixture, NIC};

    let mut host = Fixture::server();
    host.device(Device { address: "0000:41:00.1", driver: "igb", ..NIC });
    for path in ["/sys/kernel", "/sys/bus/pci/drivers", "/sys/class/iommu", "/proc/self", "/etc"] {
        host.remove(path);
    }
    let inventory = crate::host::Functions::read_all(&host.root()).expect("an inventory");
    let listing = DeviceList::new(&inventory, &Names::default(), host.root().lacks());
    assert!(listing.lacks.contains(&"/sys/kernel/iommu_groups"));
    let nic = listing.devices.iter().find(|d| d.address.to_string() == NIC.address);
    let nic = nic.expect("the NIC");
    assert_eq!((nic.iommu_group, nic.driver.as_deref()), (Some(14), Some("vfio-pci")));
    let others: Vec<String> = nic.shares_group_with.iter().map(ToString::to_string).collect();
    assert_eq!(others, ["0000:41:00.1"]);
    let facts = Facts::read(&host.root(), &Query::from(&config()), &[]).expect("facts");
    let report = crate::check::Report::new(&facts, Some(&config()));
    let viable = report.findings.iter().find(|f| f.code == crate::check::Code::GroupNotViable);
    assert!(viable.expect("a finding").seen.contains("0000:41:00.1 (igb)"), "{report}");
}

#[test]
fn what_a_snapshot_lacks_is_no_fault() {
    let root = root(&gathered()).expect("an archive");
    let facts = Facts::read(&root, &Query::from(&config()), &[]).expect("facts");
    let report = crate::check::Report::new(&facts, Some(&config()));
    let fails = report.findings.iter().filter(|f| f.severity == crate::check::Severity::Fail);
    assert_eq!(fails.collect::<Vec<_>>(), Vec::<&crate::check::Finding>::new());
}

//! Faults of the devices in question.

use super::*;

#[test]
fn devices_that_cannot_be_given() {
    let facts = facts(|_| ());
    let mut absent = facts.clone();
    absent.devices = vec!["0000:41:00.5".parse().expect("an address")];
    let finding = of_facts(Code::DeviceAbsent, &absent);
    fails(&finding, "no PCI function 0000:41:00.5", "/sys/bus/pci/devices", "berth devices");
    let mut bridge = facts;
    bridge.devices = vec!["0000:40:01.0".parse().expect("an address")];
    fails(&of_facts(Code::DeviceBridge, &bridge), "a bridge", "class", "behind it: 0000:41:00.0");

    let outside = fault(Code::DeviceNoIommu, |host| {
        host.without(NIC.address, "iommu_group");
    });
    fails(&outside, "behind none", "iommu_groups", "another slot");
}

#[test]
fn devices_that_the_host_uses() {
    let network = fault(Code::DeviceInUse, |host| {
        host.bind(NIC.address, "igb").of(NIC.address, "net/ens1/ifindex", "3").file(
            "/proc/net/route",
            "Iface\tDestination\nens1\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF",
        );
    });
    fails(&network, "it is ens1, which has an address", NIC.address, "ip link set ens1 down");
    let display = fault(Code::DeviceInUse, |host| {
        host.of(NIC.address, "boot_vga", "1");
    });
    warns(&display, "booted on", NIC.address, "screen goes dark");
}

#[test]
fn virtual_functions_that_would_go_are_not_forgotten() {
    let with_functions = |driver: &str| {
        facts(|host| {
            host.bind(NIC.address, driver).of(NIC.address, "sriov_numvfs", "1");
            host.device(Device { address: "0000:41:10.0", group: 15, driver: "igbvf", ..NIC });
            let folder = "/sys/devices/pci0000:40/0000:40:01.0";
            host.link(&format!("{folder}/0000:41:10.0/physfn"), "../0000:41:00.0");
            host.link(&format!("{folder}/0000:41:00.0/virtfn0"), "../0000:41:10.0");
        })
    };
    let native = with_functions("igb");
    let finding = of_facts(Code::DeviceInUse, &native);
    fails(&finding, "1 virtual functions", "sriov_numvfs", "berth sriov 0000:41:00.0 0");
    assert_eq!(of_facts(Code::DeviceNotBound, &native).fix, None);
    assert_eq!(verdict(Code::DeviceInUse, &with_functions("vfio-pci")).severity, Severity::Pass);
}

#[test]
fn binding_is_not_offered_for_what_is_in_use() {
    let bound = |host: &mut Fixture| {
        host.bind(NIC.address, "igb");
    };
    assert!(fault(Code::DeviceNotBound, bound).fix.is_some());
    let used = fault(Code::DeviceNotBound, |host| {
        bound(host);
        host.of(NIC.address, "boot_vga", "1");
    });
    fails(&used, "igb has it", "driver", "berth bind 0000:41:00.0");
    assert_eq!(used.fix, None);
    let none = fault(Code::DeviceNotBound, |host| {
        host.bind(NIC.address, "");
    });
    fails(&none, "no driver has it", "driver", "berth bind");
}

#[test]
fn what_takes_a_device_back() {
    let nothing = fault(Code::DeviceTakenBack, |host| {
        host.remove("/etc/modprobe.d/vfio.conf");
        host.of(NIC.address, "driver_override", "vfio-pci");
    });
    warns(&nothing, "igb takes it back", "/etc/modprobe.d", "--persist");
    let override_too = fault(Code::DeviceTakenBack, |host| {
        host.remove("/etc/modprobe.d/vfio.conf").of(NIC.address, "driver_override", "(null)");
    });
    warns(&override_too, "no driver_override", "driver_override", "--persist");
    let late = fault(Code::DeviceTakenBack, |host| {
        host.file("/etc/modprobe.d/vfio.conf", "options vfio-pci ids=8086:10c9");
    });
    warns(&late, "igb may load first", "/etc/modprobe.d/vfio.conf", "softdep igb pre: vfio-pci");
    assert!(late.remedy.contains(&"`update-initramfs -u`".to_owned()), "{late:?}");

    let kept = facts(|host| {
        host.remove("/etc/modprobe.d/vfio.conf");
        host.file("/etc/driverctl.d/pci-0000:41:00.0", "vfio-pci");
    });
    assert_eq!(verdict(Code::DeviceTakenBack, &kept).severity, Severity::Pass);
    let persisted = facts(|host| {
        let text = "softdep igb pre: vfio-pci\ninstall vfio-pci for f in 0000:41:00.0; do :; done";
        host.remove("/etc/modprobe.d/vfio.conf").file("/etc/modprobe.d/berth.conf", text);
    });
    let finding = verdict(Code::DeviceTakenBack, &persisted);
    assert_eq!(finding.severity, Severity::Pass, "{finding:?}");
    assert_eq!(finding.source, "/etc/modprobe.d/berth.conf");
}

/// The finding with `code` for the usual machine, whatever it says.
fn verdict(code: Code, facts: &Facts) -> Finding {
    let report = Report::new(facts, Some(&config("1G", 2048)));
    report.findings.into_iter().find(|finding| finding.code == code).expect("a finding")
}

#[test]
fn what_a_run_binds_need_not_be_bound() {
    let auto = machine("1G", 2048, json!({ "address": NIC.address, "bind": "auto" }));
    let report = |change: &dyn Fn(&mut Fixture)| {
        let mut host = Fixture::server();
        host.bind(NIC.address, "igb");
        change(&mut host);
        let facts = Facts::read(&host.root(), &Query::from(&auto), &[]).expect("facts");
        Report::new(&facts, Some(&auto))
    };
    let idle = report(&|_| ());
    assert!(idle.ready, "{idle}");
    let bound = idle.findings.iter().find(|finding| finding.code == Code::DeviceNotBound);
    assert_eq!(bound.expect("a finding").seen, "`berth run` takes it from igb, and gives it back");
    let used = report(&|host| {
        host.of(NIC.address, "net/ens1/ifindex", "3").file(
            "/proc/net/route",
            "Iface\tDestination\nens1\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF",
        );
    });
    let failed = used.findings.iter().filter(|finding| finding.severity == Severity::Fail);
    assert_eq!(failed.map(|finding| finding.code).collect::<Vec<_>>(), [Code::DeviceInUse]);
}

#[test]
fn a_free_virtual_function_is_looked_at_instead_of_all() {
    let any = machine("1G", 2048, json!({ "address": { "free_vf_of": NIC.address } }));
    let mut host = Fixture::server();
    let folder = "/sys/devices/pci0000:40/0000:40:01.0";
    host.bind(NIC.address, "igb").of(NIC.address, "sriov_numvfs", "2");
    for (index, (address, group)) in [("0000:42:10.0", 15), ("0000:42:10.2", 16)].iter().enumerate()
    {
        host.device(Device { address, group: *group, ..NIC });
        host.link(&format!("{folder}/{address}/physfn"), "../0000:41:00.0");
        host.link(&format!("{folder}/0000:41:00.0/virtfn{index}"), &format!("../{address}"));
    }
    host.of("0000:42:10.0", "enable", "1");
    let facts = Facts::read(&host.root(), &Query::from(&any), &[]).expect("facts");
    let report = Report::new(&facts, Some(&any));
    let devices: BTreeSet<_> = report.findings.iter().filter_map(|f| f.device).collect();
    let devices: Vec<String> = devices.iter().map(ToString::to_string).collect();
    assert_eq!(devices, ["0000:42:10.2"], "{report}");
    assert!(report.ready, "{report}");
}

#[test]
fn groups_name_their_culprits() {
    let idle = fault(Code::GroupNotViable, |host| {
        host.device(neighbour("0000:41:00.1", 14, "igb"));
        host.device(neighbour("0000:41:00.2", 14, ""));
        host.device(neighbour("0000:41:00.3", 14, "nvme"));
    });
    let culprits = "0000:41:00.1 (igb), 0000:41:00.3 (nvme)";
    fails(
        &idle,
        culprits,
        "/sys/kernel/iommu_groups/14/devices",
        "berth bind 0000:41:00.0 --group",
    );
    let used = fault(Code::GroupNotViable, |host| {
        host.join("0000:01:00.0", 14);
    });
    fails(
        &used,
        "0000:01:00.0 (nvme)",
        "iommu_groups/14",
        "mounted on /: the host cannot do without",
    );
    assert!(used.remedy.iter().any(|step| step.contains("slot")), "{used:?}");
}

#[test]
fn a_bridge_without_acs_is_named() {
    let beside = |host: &mut Fixture| {
        host.device(neighbour("0000:42:00.0", 14, ""));
    };
    let missing = fault(Code::AcsMissing, beside);
    let seen = "0000:40:01.0 (it has no such services) joins it to 0000:42:00.0";
    warns(&missing, seen, "iommu_group", "root port");
    let unseen = fault(Code::AcsMissing, |host| {
        beside(host);
        host.bytes("/sys/devices/pci0000:40/0000:40:01.0/config", vec![0; 64]);
    });
    warns(&unseen, "one of the bridges above it", "iommu_group", "root port");
    let card = fault(Code::AcsMissing, |host| {
        host.device(neighbour("0000:41:00.1", 14, ""));
    });
    warns(&card, "the card itself joins", "iommu_group", "same guest");
}

#[test]
fn resets_links_and_nodes() {
    let reset = fault(Code::ResetNone, |host| {
        host.of(NIC.address, "reset_method", "");
    });
    warns(&reset, "no way to reset", "reset_method", "power the host off");
    let old = fault(Code::ResetNone, |host| {
        host.without(NIC.address, "reset_method").file("/proc/sys/kernel/osrelease", "5.14.0");
    });
    assert_eq!(old.severity, Severity::Unknown);
    // The kernel lists a bus reset of the first function of a card, and refuses it.
    let first = fault(Code::ResetNone, |host| {
        host.of(NIC.address, "reset_method", "bus").device(neighbour("0000:41:00.1", 15, ""));
    });
    warns(&first, "no way to reset", "what else is on its bus", "give the guest 0000:41:00.1 too");
    let link = fault(Code::LinkReduced, |host| {
        host.of(NIC.address, "current_link_speed", "2.5 GT/s PCIe");
    });
    warns(&link, "2.5 GT/s x4, and the device has 8.0 GT/s x4", "current_link_speed", "under load");
    let no_node = |host: &mut Fixture| {
        host.of(NIC.address, "numa_node", "-1").of("0000:40:01.0", "numa_node", "-1");
    };
    let node = fault(Code::NodeUnknown, no_node);
    warns(&node, "does not say which node", "numa_node", "placement.node");
    // The root bus may know.
    let facts = facts(|host| {
        no_node(host);
        host.file("/sys/class/pci_bus/0000:40/cpulistaffinity", "4-7,12-15");
    });
    let report = Report::new(&facts, Some(&config("1G", 2048)));
    let node = report.findings.iter().find(|finding| finding.code == Code::NodeUnknown);
    assert_eq!(node.map(|finding| finding.severity), Some(Severity::Pass));
}

#[test]
fn memory_that_the_firmware_keeps() {
    let regions = "/sys/kernel/iommu_groups/14/reserved_regions";
    let finding = fault(Code::Rmrr, |host| {
        host.file(regions, "0x7a000000 0x7a00ffff direct\n0xfee00000 0xfeefffff msi").file(
            "/var/log/dmesg",
            "igb 0000:41:00.0: Device is ineligible for IOMMU domain attach due to platform RMRR requirement.",
        );
    });
    fails(&finding, "0x7a000000-0x7a00ffff", "platform RMRR requirement", "another slot");
    // AMD, before the kernel's core refused.
    let amd = fault(Code::Rmrr, |host| {
        host.file(regions, "0x7a000000 0x7a00ffff direct")
            .file("/proc/cpuinfo", "vendor_id\t: AuthenticAMD\nflags\t\t: svm")
            .file("/proc/sys/kernel/osrelease", "6.1.0");
    });
    warns(&amd, "0x7a000000", "reserved_regions", "another slot");
}

#[test]
fn faults_in_the_log() {
    let finding = fault(Code::DmaFaults, |host| {
        host.file(
            "/var/log/dmesg",
            "[ 9.1] DMAR: [DMA Read NO_PASID] Request device [41:00.0] fault addr 0x0 [fault reason 0x06]",
        );
    });
    warns(&finding, "1 faults", "fault addr 0x0", "see what ran");
    let unseen = fault(Code::DmaFaults, |host| {
        host.remove("/var/log/dmesg");
    });
    assert_eq!(unseen.severity, Severity::Unknown);
    assert!(unseen.seen.contains("not in the snapshot"), "{unseen:?}");
}

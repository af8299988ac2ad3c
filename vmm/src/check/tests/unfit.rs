//! Devices that cannot work, cards that moved, groups that lie, and what the log says of them.

use super::*;

const CONFIG: &str = "/sys/devices/pci0000:40/0000:40:01.0/0000:41:00.0/config";

#[test]
fn a_device_that_does_not_answer() {
    // Left in D3cold by its last guest, as the kernel says.
    let cold = fault(Code::DeviceUnreachable, |host| {
        host.bytes(CONFIG, vec![0xff; 4096]).file(
            "/var/log/dmesg",
            "vfio-pci 0000:41:00.0: Unable to change power state from D3cold to D0, device \
             inaccessible",
        );
    });
    fails(&cold, "does not come back from D3cold", "device inaccessible", "power the host off");
    // Pulled out under a driver that did not see it go; others only see 64 bytes.
    let gone = fault(Code::DeviceUnreachable, |host| {
        host.bytes(CONFIG, vec![0xff; 64]);
    });
    fails(&gone, "does not answer", "0000:41:00.0/config", "seat the card again");
    // What another device says in the log is not this one's.
    assert!(!gone.source.contains("kernel log"), "{gone:#?}");
}

#[test]
fn a_bar_without_an_address() {
    // The large one behind a small one: IORESOURCE_UNSET is bit 29.
    let large = fault(Code::BarUnassigned, |host| {
        host.of(
            NIC.address,
            "resource",
            "0xc0000000 0xc001ffff 0x40200\n0x0 0x0 0x0\n0x0 0xfffffffff 0x2014220c",
        )
        .file(
            "/var/log/dmesg",
            "pci 0000:41:00.0: BAR 2 [mem size 0x1000000000]: can't assign; no space",
        );
    });
    fails(&large, "its BAR 2 of 64 GiB", "can't assign; no space", "Above 4G");
    assert!(large.remedy.iter().any(|step| step.contains("pci=realloc")), "{large:#?}");
    // Told to place them anew already.
    let again = fault(Code::BarUnassigned, |host| {
        host.of(NIC.address, "resource", "0x0 0x3fff 0x20140204")
            .file("/proc/cmdline", "quiet intel_iommu=on iommu=pt pci=realloc");
    });
    assert!(!again.remedy.iter().any(|step| step.contains("add `pci=realloc`")), "{again:#?}");
}

#[test]
fn a_virtual_function_whose_card_a_guest_has() {
    let facts = |driver: &'static str| {
        let mut facts = facts(|host| {
            host.bind(NIC.address, driver)
                .device(Device { address: "0000:41:10.0", group: 20, ..NIC })
                .link(
                    "/sys/devices/pci0000:40/0000:40:01.0/0000:41:10.0/physfn",
                    "../0000:41:00.0",
                );
        });
        facts.devices = vec!["0000:41:10.0".parse().expect("an address")];
        Report::new(&facts, None)
    };
    for (driver, expected) in
        [("vfio-pci", Severity::Fail), ("igb", Severity::Pass), ("pci-pf-stub", Severity::Pass)]
    {
        let report = facts(driver);
        let token = report.findings.iter().find(|finding| finding.code == Code::VfToken);
        assert_eq!(token.map(|finding| finding.severity), Some(expected), "{driver}: {report}");
    }
}

#[test]
fn faults_are_those_of_the_device() {
    let said = |log: &'static str| {
        let facts = facts(|host| {
            host.file("/var/log/dmesg", log);
        });
        let report = Report::new(&facts, Some(&config("1G", 2048)));
        let finding = report.findings.iter().find(|finding| finding.code == Code::DmaFaults);
        finding.expect("a finding").clone()
    };
    for log in [
        "AMD-Vi: Event logged [IOTLB_INV_TIMEOUT device=41:00.0 address=0x1000]",
        "vfio-pci 0000:41:00.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x000f address=0x0 flags=0x0]",
        "AMD-Vi: Event logged [ILLEGAL_DEV_TABLE_ENTRY device=0000:41:00.0 pasid=0x00000 address=0x1]",
        "DMAR: [INTR-REMAP] Request device [41:00.0] fault index 0x1a [fault reason 0x22]",
    ] {
        assert_eq!(said(log).severity, Severity::Warn, "{log}");
    }
    for log in [
        // Another function, bus and domain.
        "DMAR: [DMA Read NO_PASID] Request device [41:00.1] fault addr 0x0",
        "AMD-Vi: Event logged [IO_PAGE_FAULT device=42:00.0 domain=0x0 address=0x0]",
        "vfio-pci 0001:41:00.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x000f address=0x0]",
        "vfio-pci 10000:41:00.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x000f address=0x0]",
        // The device, and no fault of the IOMMU.
        "vfio-pci 0000:41:00.0: enabling device (0000 -> 0002)",
    ] {
        assert_eq!(said(log).severity, Severity::Pass, "{log}");
    }
}

#[test]
fn a_card_that_moved_is_told_from_one_that_did_not() {
    let moved = |text: &'static str| {
        let facts = facts(|host| {
            host.file("/etc/modprobe.d/berth.conf", text);
        });
        let report = Report::new(&facts, None);
        let of_code = report.findings.iter().filter(|finding| finding.code == Code::PersistMoved);
        of_code.map(|finding| finding.severity).collect::<Vec<_>>()
    };
    // The NIC is where it was; nothing is at the second address any more.
    let here = "# berth function 0000:41:00.0 8086:10c9:8086:a03c igb";
    assert_eq!(moved(here), [Severity::Pass]);
    // A root drive has the address, and the same maker.
    let drive = "# berth function 0000:01:00.0 8086:10c9:8086:a03c igb";
    assert_eq!(moved(drive), [Severity::Warn]);
    // Two that changed places are two.
    let swapped = "# berth function 0000:41:00.0 8086:1572:8086:a03c i40e\n\
                   # berth function 0000:01:00.0 8086:10c9:8086:a03c igb";
    assert_eq!(moved(swapped), [Severity::Warn, Severity::Warn]);
}

#[test]
fn groups_that_a_parameter_made_small() {
    for parameter in
        ["pcie_acs_override=downstream", "pcie_acs_override=id:8086:1572,multifunction"]
    {
        let finding = fault(Code::AcsMissing, |host| {
            host.file("/proc/cmdline", &format!("quiet intel_iommu=on iommu=pt {parameter}"));
        });
        warns(&finding, "smaller than they are", "/proc/cmdline", &format!("`{parameter}`"));
    }
    // One for another purpose, with a like name.
    let other = facts(|host| {
        host.file("/proc/cmdline", "quiet intel_iommu=on iommu=pt pcie_aspm=off");
    });
    let report = Report::new(&other, Some(&config("1G", 2048)));
    let acs = report.findings.iter().find(|finding| finding.code == Code::AcsMissing);
    assert_eq!(acs.map(|finding| finding.severity), Some(Severity::Pass), "{report}");
}

//! Remedies on every kind of system, as operators read them.

use berth_devices::vfio::IommuBackend;

use super::*;
use crate::host::fixture::{Fixture, golden};
use crate::host::{CommandLine, Family, HostProfile, Initramfs, Loader, Query, System};

const FAMILIES: [Family; 8] = [
    Family::Debian,
    Family::RedHat,
    Family::Suse,
    Family::Arch,
    Family::Alpine,
    Family::Gentoo,
    Family::Void,
    Family::Other,
];

fn host(change: impl FnOnce(&mut Fixture)) -> HostProfile {
    let mut fixture = Fixture::server();
    change(&mut fixture);
    let root = fixture.root();
    let mut host = HostProfile::read(&root, &Query::default()).expect("a host");
    host.look_around(&root);
    host
}

fn on(system: System, cmdline: &str) -> HostProfile {
    let mut host = host(|_| ());
    host.system = system;
    host.command_line = CommandLine::from(cmdline);
    host
}

/// Every loader, on every family where that makes a difference.
#[test]
fn every_system_has_its_own_way_to_change_parameters() {
    let mut text = String::new();
    for loader in Loader::ALL {
        let mut seen = Vec::new();
        for family in FAMILIES {
            let id = "linux".to_owned();
            let system = System { id, loader, family, ..System::default() };
            let mut steps = String::new();
            for (add, remove) in [
                ("intel_iommu=on iommu=pt", None),
                ("iommu=pt", Some("amd_iommu=off")),
                ("", Some("intremap=off")),
            ] {
                let host = on(system.clone(), "quiet");
                steps += &format!("  {}\n", parameters::change(&host, add, remove).join("; "));
            }
            if !seen.contains(&steps) {
                text += &format!("{loader:?} on {family:?}\n{steps}");
                seen.push(steps);
            }
        }
    }
    for family in FAMILIES {
        let system = System { family, ..System::default() };
        let (initramfs, irqbalance) =
            (parameters::initramfs(&system), system::irqbalance_file(&system));
        text += &format!("{family:?}: {initramfs}; {irqbalance}\n");
    }
    golden("advice/golden/systems.txt", &text);
}

#[test]
fn the_initial_ram_disks_tool_counts_more_than_the_system() {
    for (tool, command) in [
        (Initramfs::Tools, "`update-initramfs -u`"),
        (Initramfs::Dracut, "`dracut --force`"),
        (Initramfs::Mkinitcpio, "`mkinitcpio -P`"),
    ] {
        for family in FAMILIES {
            let system = System { initramfs: tool, family, ..System::default() };
            assert_eq!(parameters::initramfs(&system), command);
        }
    }
}

#[test]
fn a_parameter_that_is_set_is_not_asked_for_again() {
    let grub = || System { loader: Loader::Grub, ..System::default() };
    let steps =
        parameters::change(&on(grub(), "quiet intel_iommu=on"), "intel_iommu=on iommu=pt", None);
    assert!(steps[0].starts_with("add `iommu=pt` to"), "{steps:?}");
    let all = on(grub(), "intel_iommu=on iommu=pt");
    assert_eq!(parameters::change(&all, "intel_iommu=on iommu=pt", None), Steps::new());
}

#[test]
fn a_parameter_that_waits_in_the_loaders_file_waits_for_a_boot() {
    for (path, text) in [
        ("/etc/default/grub", "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet intel_iommu=on iommu=pt\""),
        ("/etc/default/grub.d/50-iommu.cfg", "GRUB_CMDLINE_LINUX=\"intel_iommu=on iommu=pt\""),
    ] {
        let host = host(|host| {
            host.file("/proc/cmdline", "quiet").file(path, text);
        });
        let steps = parameters::change(&host, "intel_iommu=on iommu=pt", None).join("\n");
        assert!(steps.contains(&format!("is in {path} already")), "{steps}");
        assert!(steps.contains("update-grub") && steps.contains("efibootmgr"), "{steps}");
        assert!(!steps.contains("add `"), "{steps}");
    }
}

#[test]
fn what_another_parameter_defeats_is_not_advised() {
    // SEV-SNP goes off with iommu=pt.
    let snp = host(|host| {
        host.file("/proc/cpuinfo", "vendor_id\t: AuthenticAMD\nflags\t: svm")
            .remove("/sys/firmware/acpi/tables/DMAR")
            .file("/sys/firmware/acpi/tables/IVRS", "")
            .file("/sys/module/kvm_amd/parameters/sev_snp", "Y");
    });
    assert_eq!(iommu::parameters_on(&snp), "");
    let plain = host(|host| {
        host.file("/proc/cpuinfo", "vendor_id\t: AuthenticAMD\nflags\t: svm")
            .remove("/sys/firmware/acpi/tables/DMAR");
    });
    assert_eq!(iommu::parameters_on(&plain), "iommu=pt");
}

/// Why the IOMMU is off, by what is said of it.
#[test]
fn the_reason_for_an_iommu_that_is_off_decides_the_remedy() {
    let intel = |cmdline: &'static str, config: &'static str, log: &'static str| {
        host(|host| {
            host.remove("/sys/class/iommu")
                .file("/proc/cmdline", cmdline)
                .file("/var/log/dmesg", log);
            if !config.is_empty() {
                host.file("/boot/config-6.12.9-amd64", config);
            }
        })
    };
    for (host, has, lacks) in [
        (intel("quiet", "", ""), "add `intel_iommu=on iommu=pt`", "already"),
        (intel("quiet intel_iommu=on", "", ""), "on the command line already", "add `"),
        (
            intel("quiet intel_iommu=on", "CONFIG_AMD_IOMMU=y", ""),
            "built without CONFIG_INTEL_IOMMU",
            "add `",
        ),
        (
            intel("intel_iommu=on", "CONFIG_INTEL_IOMMU=y", ""),
            "the kernel gave the IOMMU up",
            "add `",
        ),
        (
            intel("quiet intel_iommu=off", "", ""),
            "in place of `intel_iommu=off`",
            "update the firmware",
        ),
        (
            intel("intel_iommu=on", "", "DMAR: Parse DMAR table failure."),
            "update the firmware",
            "already",
        ),
        (intel("quiet acpi=off", "", ""), "`acpi=off`", "VT-d"),
    ] {
        let steps = iommu::off(&host).1.steps.join("\n");
        assert!(steps.contains(has) && !steps.contains(lacks), "{steps}");
    }
}

#[test]
fn interrupt_remapping_is_off_for_many_reasons() {
    for (log, has, lacks) in [
        (
            "DMAR-IR: x\n on a chipset that contains an erratum making that",
            "no setting helps",
            "turn on",
        ),
        (
            "AMD-Vi: [Firmware Bug]: : IOAPIC[5] not in IVRS table",
            "ivrs_ioapic=5@0000:00:14.0",
            "x2APIC",
        ),
        ("DMAR-IR: ioapic 2 has no mapping iommu", "update the firmware", "x2APIC"),
        (
            "DMAR: Queued invalidation will be enabled to support x2apic and Intr-remapping",
            "x2APIC",
            "erratum",
        ),
    ] {
        let host = host(|host| {
            host.file("/var/log/dmesg", log);
        });
        let advice = remapping::off(&host, IommuBackend::Container);
        let steps = advice.steps.join("\n");
        assert!(steps.contains(has) && !steps.contains(lacks), "{log}: {steps}");
    }
    // What is said of something else is no reason.
    let harmless = host(|host| {
        host.file("/var/log/dmesg", "x2apic is disabled because BIOS sets x2apic opt out bit");
    });
    assert_eq!(remapping::off(&harmless, IommuBackend::Container).source, "/proc/interrupts");
}

#[test]
fn pools_of_other_nodes_stay_as_they_are() {
    let wanted = [(1, 6)];
    let steps = |host: &HostProfile| memory::at_boot(host, &wanted).join("\n");
    let now = host(|_| ());
    assert!(steps(&now).contains("hugepagesz=1G hugepages=0:8,1:6"), "{}", steps(&now));
    let given = host(|host| {
        host.file("/proc/cmdline", "hugepagesz=1G hugepages=0:8,1:4");
    });
    assert!(steps(&given).contains("in place of `hugepagesz=1G hugepages=0:8,1:4`"));
    let old = host(|host| {
        host.file("/proc/sys/kernel/osrelease", "5.15.0");
    });
    assert!(
        !steps(&old).contains("0:8") && steps(&old).contains("hugepages=16"),
        "{}",
        steps(&old)
    );
}

#[test]
fn hugepages_before_their_size_are_for_another() {
    let host = host(|host| {
        host.file("/proc/cmdline", "hugepages=16 hugepagesz=1G");
    });
    let steps = memory::short(&host, crate::units::PageSize::Size1G, 1, 64).1.steps.join("\n");
    assert!(steps.contains("order on the command line is wrong"), "{steps}");
}

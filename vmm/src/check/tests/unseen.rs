//! What was not seen, and what waits to happen, does not pass.

use super::*;

const REGIONS: &str = "/sys/kernel/iommu_groups/14/reserved_regions";

/// A module that is not loaded yet is told by modprobe.d and the command line what to do then.
#[test]
fn unsafe_interrupts_may_wait_for_the_module() {
    for (path, text) in [
        ("/etc/modprobe.d/x.conf", "options vfio_iommu_type1 allow_unsafe_interrupts=1"),
        ("/etc/modprobe.d/x.conf", "options vfio-iommu-type1 foo=2 allow_unsafe_interrupts"),
        ("/proc/cmdline", "quiet vfio_iommu_type1.allow_unsafe_interrupts=y"),
    ] {
        let finding = fault(Code::UnsafeInterrupts, |host| {
            host.remove("/sys/module/vfio_iommu_type1").file(path, text);
        });
        warns(&finding, "will do without", path, "trust");
    }
    // What is loaded says itself what it does.
    let loaded = facts(|host| {
        host.file("/etc/modprobe.d/x.conf", "options vfio_iommu_type1 allow_unsafe_interrupts=1");
    });
    let report = Report::new(&loaded, Some(&config("1G", 2048)));
    let finding = report.findings.iter().find(|finding| finding.code == Code::UnsafeInterrupts);
    assert_eq!(finding.map(|finding| finding.severity), Some(Severity::Pass));
}

/// Files that a snapshot lacks pass nothing.
#[test]
fn what_was_not_captured_does_not_pass() {
    for (code, path, config) in [
        (Code::Ksm, "/sys/kernel/mm", config("1G", 2048)),
        (Code::NumaBalancing, "/proc/sys", config("1G", 2048)),
        (Code::Balloon, "/sys/bus/pci/drivers", config("1G", 2048)),
        (Code::SmallPages, "/sys/kernel/mm/transparent_hugepage", config("4K", 512)),
        (Code::Rmrr, REGIONS, config("1G", 2048)),
        (Code::IovaHoles, REGIONS, config("1G", 2048)),
        (Code::AcsMissing, "/proc/cmdline", config("1G", 2048)),
        (Code::HugepagesLimited, "/proc/self", config("1G", 2048)),
        (Code::TasksLimited, "/proc/self", config("1G", 2048)),
        (Code::DmaFaults, "/var/log/dmesg", config("1G", 2048)),
    ] {
        let facts = facts(|host| {
            host.remove(path);
        });
        let report = Report::new(&facts, Some(&config));
        let of_code = report.findings.iter().filter(|finding| finding.code == code);
        let severities: Vec<Severity> = of_code.map(|finding| finding.severity).collect();
        assert_eq!(severities, [Severity::Unknown], "{code} without {path}");
    }
    // A kernel that was built without them shows no file, and its folder.
    for (code, path) in [
        (Code::Ksm, "/sys/kernel/mm/ksm"),
        (Code::NumaBalancing, "/proc/sys/kernel/numa_balancing"),
    ] {
        let facts = facts(|host| {
            host.remove(path);
        });
        let report = Report::new(&facts, None);
        let finding = report.findings.iter().find(|finding| finding.code == code);
        assert_eq!(finding.map(|finding| finding.severity), Some(Severity::Pass), "{code}");
    }
}

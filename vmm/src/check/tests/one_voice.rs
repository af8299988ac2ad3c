//! What `berth check`, a plan and `berth bind` say of one fault of one host is the same.

use super::*;
use crate::binding::BindingError;

const POOL: &str = "/sys/devices/system/node/node1/hugepages/hugepages-1048576kB/free_hugepages";

/// A fault, and the change of a good server that makes it.
type Faulty = (Code, fn(&mut Fixture));

fn without_group(host: &mut Fixture) {
    host.without(NIC.address, "iommu_group");
}

fn off(host: &mut Fixture) {
    without_group(host);
    host.remove("/sys/class/iommu").file("/proc/cmdline", "quiet");
}

#[test]
fn a_refusal_has_the_code_and_the_remedy_of_its_finding() {
    let cases: [Faulty; 12] = [
        (Code::IommuOff, off),
        (Code::IommuOff, |host| {
            off(host);
            host.file("/proc/cmdline", "intel_iommu=off");
        }),
        (Code::IommuAbsent, |host| {
            off(host);
            host.remove("/sys/firmware/acpi/tables/DMAR");
            host.file("/sys/firmware/acpi/tables/APIC", "");
        }),
        (Code::DeviceNoIommu, without_group),
        (Code::DeviceNotBound, |host| {
            host.bind(NIC.address, "igb");
        }),
        (Code::GroupNotViable, |host| {
            host.device(neighbour("0000:42:00.0", 14, "igb"));
        }),
        (Code::IntremapOff, |host| {
            host.file("/proc/interrupts", " 4:  9  IO-APIC  4-edge  ttyS0");
        }),
        (Code::IntremapOff, |host| {
            host.file("/proc/interrupts", " 4:  9  IO-APIC  4-edge  ttyS0");
            host.file("/proc/cmdline", "intremap=off");
        }),
        (Code::HugepagesElsewhere, |host| {
            host.file(POOL, "1");
        }),
        (Code::HugepagesShort, |host| {
            host.file(POOL, "0").file(&POOL.replace("node1", "node0"), "0");
        }),
        (Code::MemlockLow, |host| {
            host.file("/proc/self/limits", "Max locked memory  1  65536  bytes");
        }),
        (Code::FilesLow, |host| {
            host.file("/proc/self/limits", "Max open files  1  16  files");
        }),
    ];
    for (code, change) in cases {
        let facts = facts(change);
        let Err(error) = Plan::new(&config("1G", 2048), &facts.host) else {
            panic!("{code}: accepted");
        };
        assert_eq!(error.code(), code, "{error}");
        assert_eq!(error.help(&facts.host), of_facts(code, &facts).remedy, "{code}");
    }
}

#[test]
fn what_a_plan_says_could_be_better_is_what_the_check_warns_of() {
    let facts = facts(|host| {
        host.file("/sys/devices/system/cpu/isolated", "").file("/proc/cmdline", "iommu=pt");
        host.of(NIC.address, "current_link_width", "1");
    });
    let config = config("1G", 2048);
    let plan = Plan::new(&config, &facts.host).expect("a plan");
    let report = Report::new(&facts, Some(&config));
    let codes: Vec<Code> = plan.shortfalls.iter().map(|finding| finding.code).collect();
    assert!(codes.contains(&Code::CpuNotIsolated) && codes.contains(&Code::LinkReduced));
    for shortfall in plan.shortfalls {
        let same = report.findings.iter().filter(|finding| finding.code == shortfall.code);
        let remedies: Vec<_> = same.map(|finding| finding.remedy.clone()).collect();
        // What only the check can see, such as where interrupts land, it says better.
        if shortfall.code != Code::IrqOnVcpu {
            assert!(remedies.contains(&shortfall.remedy), "{shortfall:?}: {remedies:?}");
        }
    }
}

#[test]
fn bind_gives_the_remedy_of_the_check() {
    let device = NIC.address.parse().expect("an address");
    let no_group = BindingError::NoGroup { device };
    for (code, change) in
        [(Code::IommuOff, off as fn(&mut Fixture)), (Code::DeviceNoIommu, without_group)]
    {
        let facts = facts(change);
        assert_eq!(no_group.help(&facts.host), of_facts(code, &facts).remedy);
    }
    let facts = facts(|host| {
        host.of(NIC.address, "boot_vga", "1");
    });
    let uses = facts.host.functions.read[&device].uses.clone();
    let in_use = BindingError::InUse { device, uses };
    assert_eq!(in_use.code(), Code::DeviceInUse);
    let help = in_use.help(&facts.host);
    assert!(help.starts_with(&of_facts(Code::DeviceInUse, &facts).remedy), "{help:?}");
}

#[test]
fn an_iommu_as_wide_as_the_cpus_is_wide_enough() {
    let facts = facts(|host| {
        // MGAW, bits 16 to 21, is the width less one: the CPUs have 46 bits.
        host.file("/sys/class/iommu/dmar0/intel-iommu/cap", "2d0000");
    });
    let report = Report::new(&facts, Some(&config("1G", 2048)));
    let width = report.findings.iter().find(|finding| finding.code == Code::IommuNarrow);
    assert_eq!(width.map(|finding| finding.severity), Some(Severity::Pass), "{report}");
}

#[test]
fn siblings_that_the_run_takes_leave_a_group_viable() {
    let mut fixture = Fixture::server();
    fixture.bind(NIC.address, "igb").device(neighbour("0000:41:00.1", 14, "igb"));
    let mut machine = machine("1G", 2048, json!({ "address": NIC.address, "bind": "auto" }));
    let other = json!({ "address": "0000:41:00.1", "bind": "auto" });
    machine.devices.push(serde_json::from_value(other).expect("a device"));
    let facts = Facts::read(&fixture.root(), &Query::from(&machine), &[]).expect("facts");
    let report = Report::new(&facts, Some(&machine));
    let of_group = |finding: &&Finding| finding.code == Code::GroupNotViable;
    let mut groups = report.findings.iter().filter(of_group);
    assert!(groups.all(|finding| finding.severity == Severity::Pass), "{report}");
    // One of them alone does not get the group.
    machine.devices.pop();
    let facts = Facts::read(&fixture.root(), &Query::from(&machine), &[]).expect("facts");
    let finding = of_machine(Code::GroupNotViable, &facts, &machine);
    assert_eq!(finding.severity, Severity::Fail);
}

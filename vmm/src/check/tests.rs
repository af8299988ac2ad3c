//! Every fault on a snapshot made by hand: a server that is ready, with one thing wrong.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::host::fixture::{Device, Fixture, NIC, golden};
use crate::host::{Access, Holder, Query, Root};

mod cpu_power;
mod devices;
mod every_code;
mod fleet;
mod host;
mod looks_sound;
mod machine;
mod one_voice;
mod snapshots;
mod unfit;
mod unseen;

pub(super) fn config(pages: &str, mib: u64) -> Config {
    machine(pages, mib, json!({ "address": NIC.address }))
}

pub(super) fn machine(pages: &str, mib: u64, device: Value) -> Config {
    let config = json!({
        "name": "router",
        "kernel": "/boot/vmlinuz",
        "vcpus": 2,
        "memory": { "size_mib": mib, "page_size": pages },
        "devices": [device],
        "placement": { "cpus": [4, 12] },
    });
    serde_json::from_value(config).expect("a good config")
}

pub(super) fn facts(change: impl FnOnce(&mut Fixture)) -> Facts {
    let mut host = Fixture::server();
    change(&mut host);
    Facts::read(&host.root(), &Query::from(&config("1G", 2048)), &[]).expect("facts")
}

/// The only finding with `code` that is no pass.
pub(super) fn fault(code: Code, change: impl FnOnce(&mut Fixture)) -> Finding {
    of_facts(code, &facts(change))
}

pub(super) fn of_facts(code: Code, facts: &Facts) -> Finding {
    of_machine(code, facts, &config("1G", 2048))
}

pub(super) fn of_machine(code: Code, facts: &Facts, config: &Config) -> Finding {
    let report = Report::new(facts, Some(config));
    let of_code = |finding: &&Finding| finding.code == code && finding.severity != Severity::Pass;
    let mut found = report.findings.iter().filter(of_code);
    let finding = found.next().unwrap_or_else(|| panic!("no {code} in {report}")).clone();
    assert!(found.next().is_none(), "{code} is there twice: {report}");
    finding
}

/// Says that a finding fails, saw `seen`, in `source`, and has `step` in its remedy.
pub(super) fn fails(finding: &Finding, seen: &str, source: &str, step: &str) {
    says(finding, Severity::Fail, seen, source, step);
}

pub(super) fn warns(finding: &Finding, seen: &str, source: &str, step: &str) {
    says(finding, Severity::Warn, seen, source, step);
}

fn says(finding: &Finding, severity: Severity, seen: &str, source: &str, step: &str) {
    assert_eq!(finding.severity, severity, "{finding:#?}");
    assert!(finding.seen.contains(seen), "{finding:#?}");
    assert!(finding.source.contains(source), "{finding:#?}");
    assert!(finding.remedy.iter().any(|line| line.contains(step)), "{finding:#?}");
}

#[test]
fn a_good_server_has_no_fault() {
    let report = Report::new(&facts(|_| ()), Some(&config("1G", 2048)));
    assert!(report.ready);
    let faults = report.findings.iter().filter(|finding| finding.severity > Severity::Unknown);
    assert_eq!(faults.collect::<Vec<_>>(), Vec::<&Finding>::new());
    // What a snapshot cannot hold.
    let unseen = report.findings.iter().filter(|f| f.severity == Severity::Unknown);
    let unseen: BTreeSet<Code> = unseen.map(|finding| finding.code).collect();
    assert_eq!(unseen, [Code::KvmUnavailable, Code::VfioNoAccess, Code::GroupHeld].into());
    assert!(report.fixes().is_empty());
}

#[test]
fn nothing_seen_is_no_verdict() {
    let mut empty = Fixture::default();
    empty.file("/sys/devices/system/cpu/online", "0-3");
    let facts = Facts::read(&empty.root(), &Query::default(), &[]).expect("facts");
    let report = Report::new(&facts, None);
    assert_eq!(report.verdict, Verdict::NotSeenEnough);
    assert!(
        report.findings.iter().all(|finding| finding.severity <= Severity::Unknown),
        "{report}"
    );
    assert!(facts.lacks.contains(&"/proc/cmdline"));
}

#[test]
fn text_is_as_the_readme_shows_it() {
    let facts = facts(|host| {
        host.bind(NIC.address, "igb").device(neighbour("0000:41:00.1", 14, "nvme"));
        let pool = "/sys/devices/system/node/node1/hugepages/hugepages-1048576kB";
        host.file(&format!("{pool}/free_hugepages"), "1");
        host.remove("/etc/default/irqbalance").file("/sys/devices/system/cpu/isolated", "");
        host.file("/proc/cmdline", "quiet intel_iommu=on iommu=pt");
    });
    let report = Report::new(&facts, Some(&config("1G", 2048)));
    let text = anstream::adapter::strip_str(&report.to_string()).to_string();
    golden("check/golden/server.txt", &text);
}

#[test]
fn text_names_faults_first_and_sums_the_rest_up() {
    let facts = facts(|host| {
        host.bind(NIC.address, "igb").file("/sys/kernel/mm/ksm/run", "1");
    });
    let report = Report::new(&facts, Some(&config("1G", 2048)));
    let text = anstream::adapter::strip_str(&report.to_string()).to_string();
    let expected = "FAIL  DEVICE-NOT-BOUND  0000:41:00.0: igb has it\n      \
        seen in /sys/bus/pci/devices/0000:41:00.0/driver\n      \
        VFIO hands over only what vfio-pci is bound to\n      \
        - `berth bind 0000:41:00.0`\n      \
        - or set its \"bind\" to \"auto\", to take it for the run only\n\n\
        warn  KSM  ksmd merges pages\n";
    assert!(text.starts_with(expected), "{text}");
    assert!(text.contains("not ready: 1 failed, 1 warnings, "), "{text}");
    assert!(text.lines().count() < 40 && text.lines().all(|line| line.len() <= 110), "{text}");
}

#[test]
fn json_has_stable_names() {
    let facts = facts(|host| {
        host.bind(NIC.address, "igb");
    });
    let report = Report::new(&facts, Some(&config("1G", 2048)));
    let json = serde_json::to_value(&report).expect("plain data");
    let finding = json["findings"].as_array().expect("a list").iter();
    let finding = finding.into_iter().find(|f| f["code"] == "DEVICE-NOT-BOUND").expect("the fault");
    assert_eq!(
        *finding,
        json!({
            "code": "DEVICE-NOT-BOUND",
            "severity": "fail",
            "device": "0000:41:00.0",
            "seen": "igb has it",
            "source": "/sys/bus/pci/devices/0000:41:00.0/driver",
            "remedy": [
                "`berth bind 0000:41:00.0`",
                "or set its \"bind\" to \"auto\", to take it for the run only",
            ],
            "fix": { "kind": "bind", "device": "0000:41:00.0" },
        })
    );
}

#[test]
fn modules_come_before_what_needs_them() {
    let facts = facts(|host| {
        host.bind(NIC.address, "igb").remove("/sys/module/vfio_pci");
        let pool = "/sys/devices/system/node/node1/hugepages/hugepages-1048576kB/free_hugepages";
        host.file(pool, "1");
    });
    let report = Report::new(&facts, Some(&config("1G", 2048)));
    let fixes: Vec<String> = report.fixes().iter().map(ToString::to_string).collect();
    assert_eq!(
        fixes,
        [
            "modprobe vfio-pci",
            "echo 9 > /sys/devices/system/node/node1/hugepages/hugepages-1048576kB/nr_hugepages",
            "berth bind 0000:41:00.0",
        ]
    );
}

#[test]
fn this_host_can_be_checked() {
    let facts = Facts::read(&Root::live(), &Query::default(), &[]).expect("facts");
    let report = Report::new(&facts, None);
    assert!(!report.findings.is_empty());
}

fn held(access: Access) -> Facts {
    let mut facts = facts(|_| ());
    facts.host.group_files.insert(14, access);
    facts
}

#[test]
fn device_files_are_judged() {
    let holder = Holder { pid: 4711, comm: "qemu".to_owned() };
    let busy = of_facts(Code::GroupHeld, &held(Access::Busy(Some(holder))));
    fails(&busy, "held by process 4711 (qemu)", "/dev/vfio/14", "end process 4711");
    let busy = of_facts(Code::GroupHeld, &held(Access::Busy(None)));
    fails(&busy, "held by another process", "/dev/vfio/14", "fuser -v /dev/vfio/14");

    let mut denied = held(Access::Denied);
    denied.host.vfio = Access::Granted;
    let denied = of_facts(Code::VfioNoAccess, &denied);
    fails(&denied, "may not be opened", "/dev/vfio/14", "chown USER /dev/vfio/14");

    let mut facts = facts(|host| {
        host.remove("/sys/module/kvm_intel");
    });
    facts.host.kvm = Access::Missing;
    let kvm = of_facts(Code::KvmUnavailable, &facts);
    fails(&kvm, "does not exist", "/dev/kvm", "modprobe kvm_intel");
    assert_eq!(kvm.fix, Some(Fix::LoadModule { module: "kvm_intel" }));
    facts.host.kvm = Access::Denied;
    fails(
        &of_facts(Code::KvmUnavailable, &facts),
        "may not be opened",
        "/dev/kvm",
        "usermod -aG kvm",
    );
}

/// A kernel without the container, whose iommufd opens like this.
fn without_container(iommufd: Access) -> Facts {
    let mut facts = facts(|host| {
        host.remove("/sys/module/vfio_iommu_type1")
            .file("/lib/modules/6.12.9-amd64/modules.dep", "")
            .of(NIC.address, "vfio-dev/vfio3/dev", "252:0");
    });
    (facts.host.vfio, facts.host.iommufd) = (Access::Missing, iommufd);
    facts.host.group_files.insert(14, Access::Missing);
    facts
}

#[test]
fn files_of_the_backend_are_judged() {
    let denied = of_facts(Code::VfioNoAccess, &without_container(Access::Denied));
    fails(&denied, "/dev/iommu may not be opened", "/dev/iommu", "chgrp kvm /dev/iommu");

    let mut denied = without_container(Access::Granted);
    let device = "0000:41:00.0".parse().expect("an address");
    denied.host.device_files.insert(device, Access::Denied);
    let denied = of_facts(Code::VfioNoAccess, &denied);
    fails(&denied, "may not be opened", "/dev/vfio/devices/vfio3", "SUBSYSTEM==\"vfio-dev\"");

    let mut held = without_container(Access::Granted);
    let holder = Holder { pid: 4711, comm: "qemu".to_owned() };
    held.host.device_files.insert(device, Access::Busy(Some(holder)));
    let held = of_facts(Code::GroupHeld, &held);
    fails(&held, "held by process 4711 (qemu)", "/dev/vfio/devices/vfio3", "end process 4711");

    // Nothing is missing: neither the container's file nor its module.
    let mut good = without_container(Access::Granted);
    good.host.device_files.insert(device, Access::Granted);
    let report = Report::new(&good, Some(&config("1G", 2048)));
    let vfio = [Code::VfioNoAccess, Code::VfioNoModule, Code::GroupHeld];
    let findings = report.findings.iter().filter(|finding| vfio.contains(&finding.code));
    let faults = findings.filter(|finding| finding.severity == Severity::Fail).count();
    assert_eq!(faults, 0, "{report}");
}

/// A second function of the card, on a bus of its own.
pub(super) fn neighbour(
    address: &'static str,
    group: u32,
    driver: &'static str,
) -> Device<'static> {
    Device { address, group, driver, ..NIC }
}

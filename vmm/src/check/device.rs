//! The devices in question as they are: there, idle, resettable, on a good link and a known node.

use berth_devices::pci::Bdf;

use super::code::Code;
use super::{Case, Finding};
use crate::host::{CpuVendor, Holder, HostFunction, HostUse, LinuxVersion};

const DEVICES: &str = "/sys/bus/pci/devices";

pub(super) fn check(case: &Case) -> Vec<Finding> {
    let functions = &case.facts.host.functions.read;
    let absent = case.devices.keys().filter(|device| !functions.contains_key(device));
    let mut findings: Vec<Finding> = absent
        .map(|device| {
            Finding::fail(Code::DeviceAbsent, DEVICES, format!("there is no PCI function {device}"))
                .of(*device)
                .step("`berth devices` lists the host's functions")
        })
        .collect();
    for (device, listed) in case.present() {
        let seen = "it is there";
        findings.push(Finding::pass(Code::DeviceAbsent, DEVICES, seen).of(device));
        if listed.function.is_bridge() {
            let seen = "it is a bridge";
            findings.push(
                Finding::fail(Code::DeviceBridge, format!("{DEVICES}/{device}/class"), seen)
                    .of(device)
                    .step(instead_of(case, device)),
            );
            continue;
        }
        let all = [
            Some(Finding::pass(
                Code::DeviceBridge,
                format!("{DEVICES}/{device}/class"),
                "it is an endpoint",
            )),
            idle(case, device, listed),
            behind_iommu(case, listed),
            Some(reset(case, device)),
            reserved_memory(case, listed),
            link(device, listed),
            node(case, device, listed),
            faults(case, device),
        ];
        findings.extend(all.into_iter().flatten().map(|finding| finding.of(device)));
    }
    findings
}

/// The endpoints behind a bridge.
fn instead_of(case: &Case, bridge: Bdf) -> String {
    let functions = case.facts.host.functions.read.iter();
    let behind = functions
        .filter(|(_, listed)| listed.path.contains(&bridge) && !listed.function.is_bridge());
    let behind: Vec<String> = behind.map(|(address, _)| address.to_string()).collect();
    if behind.is_empty() {
        "nothing is behind it: name an endpoint, as `berth devices` lists them".to_owned()
    } else {
        format!("name what is behind it: {}", behind.join(", "))
    }
}

/// What the host uses it for; who has it open through VFIO is the group's to say.
fn idle(case: &Case, device: Bdf, listed: &HostFunction) -> Option<Finding> {
    let code = Code::DeviceInUse;
    let source = format!("{DEVICES}/{device}");
    let functions = &case.facts.host.functions;
    let usage = functions.uses_of(device).into_iter().find(|usage| !usage.is_vfio());
    if let Some(usage) = usage {
        return Some(end_of_use(&usage, source));
    }
    Some(match (listed.functions_to_lose(), listed.unseen.as_slice()) {
        (0, []) => Finding::pass(code, source, "the host does not use it"),
        (0, _) if listed.function.is_bound_to_vfio() => {
            Finding::pass(code, source, "the host does not use it")
        }
        (0, unseen) => {
            let unseen: Vec<String> = unseen.iter().map(ToString::to_string).collect();
            let seen = format!("it cannot be seen {}", unseen.join(", nor "));
            Finding::unknown(code, source, seen).step("ask as root on the host itself")
        }
        (count, _) => {
            let seen = format!("it has {count} virtual functions, which go when it changes hands");
            Finding::fail(code, format!("{source}/sriov_numvfs"), seen)
                .step(format!("`berth sriov {device} 0`, when nobody needs them"))
                .step("or give a guest one of them: \"address\": { \"free_vf_of\": ... }")
        }
    })
}

/// How each use ends.
fn end_of_use(usage: &HostUse, source: String) -> Finding {
    let seen = format!("it {usage}");
    let fail = || Finding::fail(Code::DeviceInUse, source.clone(), seen.clone());
    let without = ", if the host can do without";
    match usage {
        HostUse::Network { interface, master: Some(_), .. } => {
            fail().step(format!("`ip link set {interface} nomaster`{without}"))
        }
        HostUse::Network { interface, .. } => fail()
            .step("give the host another way to its network first")
            .step(format!("`ip addr flush dev {interface} && ip link set {interface} down`")),
        HostUse::NetworkUpper { upper, .. } => fail()
            .step("give the host another way to its network first")
            .step(format!("take {upper} apart (`ip -d link show {upper}` shows what it is)")),
        HostUse::NetworkElsewhere { .. } => fail()
            .step("end the container or pod that has it; `lsns -t net` lists network namespaces")
            .step("or choose another function"),
        HostUse::Mounted { at, .. } if at == "swap" => {
            fail().step("`swapoff` it, if the host has memory enough")
        }
        HostUse::Mounted { at, .. } => fail().step(format!("`umount {at}`{without}")),
        HostUse::MountedElsewhere { at, holder: Holder { pid, .. }, .. } => fail()
            .step(format!("end the container of process {pid}, or `nsenter -m -t {pid} umount {at}`")),
        HostUse::Volume { of, .. } => fail()
            .step(format!("take {of} apart or stop it{without}: `lsblk` shows what it is")),
        HostUse::Claimed { device } => fail()
            .step(format!("`lsblk /dev/{device}` and `fuser -v /dev/{device}` tell what has it")),
        HostUse::PoolMember { pools, .. } => fail()
            .step("`zpool status -P` names the drives of each pool")
            .step(format!("`zpool export {}`{without}", pools.join(" "))),
        HostUse::OpenNode { holder: Holder { pid, .. }, .. } => {
            fail().step(format!("end process {pid} first"))
        }
        HostUse::HasDomain { .. } => fail().step(
            "turn VMD off for these ports in the firmware's setup, and their drives are functions \
             of their own; or give the guest the controller with all that is behind it",
        ),
        HostUse::GuestHasVf { function } => fail().step(format!("end the machine that has {function}")),
        HostUse::Keyboard { .. } | HostUse::ConsolePort { .. } => {
            Finding::warn(Code::DeviceInUse, source, seen)
                .step("log in over the network: the console goes with it")
        }
        HostUse::BootDisplay | HostUse::Console => Finding::warn(Code::DeviceInUse, source, seen)
            .step("let the firmware start on another display, or log in over the network: the screen goes dark")
            .step("boot the host with `video=efifb:off`, or its driver keeps the memory of the display"),
        // Not told here.
        HostUse::OpenVfio { .. } => fail(),
    }
}

fn behind_iommu(case: &Case, listed: &HostFunction) -> Option<Finding> {
    const SOURCE: &str = "/sys/kernel/iommu_groups";
    let code = Code::DeviceNoIommu;
    if case.facts.host.iommu.units.is_empty() {
        return None;
    }
    Some(match listed.function.group {
        Some(group) => Finding::pass(code, SOURCE, format!("it is in IOMMU group {group}")),
        None => Finding::fail(code, SOURCE, "it is behind none of the host's IOMMUs")
            .step("move the card to another slot"),
    })
}

/// By what a machine with all of the devices in question would do.
fn reset(case: &Case, device: Bdf) -> Finding {
    let code = Code::ResetNone;
    let source = "reset_method, and what else is on its bus";
    let resets = case.facts.host.functions.resets(device, &case.devices.keys().copied().collect());
    if let Some(best) = resets.ways.first() {
        return Finding::pass(code, source, format!("it is reset by {best}"));
    }
    // The file is there since 5.15.
    if case.facts.host.linux.is_none_or(|version| version < LinuxVersion(5, 15)) {
        return Finding::unknown(code, source, "this kernel does not show how it is reset");
    }
    let none = Finding::warn(code, source, "the kernel knows no way to reset it alone");
    let none = match resets.others.as_slice() {
        [] => none,
        others => {
            let others: Vec<String> = others.iter().map(ToString::to_string).collect();
            none.step(format!(
                "give the guest {} too: their bus is then reset as a whole",
                others.join(", ")
            ))
        }
    };
    none.step("let the guest shut its driver down in order; power the host off after a crash").step(
        "set its \"reset\" to \"required\" in the config, if no guest may find another's state",
    )
}

/// Regions of kind `direct`: Intel's RMRR, AMD's IVMD. What firmware needs only until a driver
/// starts is `direct-relaxable`, and VFIO lets go of it.
fn reserved_memory(case: &Case, listed: &HostFunction) -> Option<Finding> {
    let code = Code::Rmrr;
    let number = listed.function.group?;
    let group = case.facts.host.functions.groups.get(&number)?;
    let source = format!("/sys/kernel/iommu_groups/{number}/reserved_regions");
    let Some(region) = group.reserved.iter().find(|region| region.kind == "direct") else {
        return Some(Finding::pass(code, source, "the firmware keeps no memory for it"));
    };
    let seen =
        format!("the firmware keeps {:#x}-{:#x} for it", region.range.start(), region.range.end());
    // Intel's driver has refused since 3.16, the kernel's core since 6.6 ("Firmware has requested
    // this device have a 1:1 IOMMU mapping").
    let refused = case.facts.host.cpus.vendor == CpuVendor::Intel
        || case.facts.host.linux.is_none_or(|version| version >= LinuxVersion(6, 6));
    let found = if refused { Finding::fail } else { Finding::warn };
    let said = case.facts.log.find(&["RMRR requirement", "1:1 mapping", "1:1 IOMMU mapping"]);
    let source = said.map_or(source.clone(), |line| format!("{source}; kernel log: {line}"));
    Some(
        found(code, source, seen)
            .step("turn off the card's management features in the firmware's setup (HP: shared memory of iLO; others: legacy USB, option ROM)")
            .step("or move the card to another slot, or choose another function"),
    )
}

fn link(device: Bdf, listed: &HostFunction) -> Option<Finding> {
    let code = Code::LinkReduced;
    let link = listed.function.link.as_ref()?;
    let source = format!("{DEVICES}/{device}/current_link_speed, current_link_width");
    let (now, most) = (link.negotiated, link.capable);
    Some(if now == most {
        Finding::pass(code, source, format!("the link is {now}, all that the device has"))
    } else {
        Finding::warn(code, source, format!("the link is {now}, and the device has {most}"))
            .step("look at it again under load: idle devices slow their links down")
            .step("move the card to a slot with more lanes, or seat it again")
    })
}

fn node(case: &Case, device: Bdf, listed: &HostFunction) -> Option<Finding> {
    let code = Code::NodeUnknown;
    let source = format!("{DEVICES}/{device}/numa_node");
    if case.facts.host.memory.nodes.len() < 2 {
        return None;
    }
    Some(match listed.function.node {
        Some(node) => Finding::pass(code, source, format!("it is on node {node}")),
        None => Finding::warn(code, source, "the firmware does not say which node it is on")
            .step("set placement.node to the node of its slot (the board's manual has it)")
            .step(format!("or tell the kernel: `echo NODE > {DEVICES}/{device}/numa_node`")),
    })
}

/// `DMAR: [DMA Read NO_PASID] Request device [41:00.0] fault addr 0x0`, `vfio-pci 0000:41:00.0:
/// AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x0001 ...]`.
fn faults(case: &Case, device: Bdf) -> Option<Finding> {
    let code = Code::DmaFaults;
    let log = &case.facts.log;
    let Some(source) = &log.source else {
        let seen = "the kernel's log is not to be read by this user (kernel.dmesg_restrict)";
        let seen = if case.facts.live { seen } else { "the kernel's log is not in the snapshot" };
        return Some(Finding::unknown(code, "/dev/kmsg", seen));
    };
    let short = device.to_string();
    let short = short.split_once(':').map_or(short.as_str(), |(_, short)| short);
    let of_device = log.lines.iter().filter(|line| line.contains(short));
    let fault = |line: &&String| {
        ["fault addr", "IO_PAGE_FAULT", "[DMA Read", "[DMA Write"].iter().any(|w| line.contains(w))
    };
    let faults: Vec<&String> = of_device.filter(fault).collect();
    Some(match faults.last() {
        None => Finding::pass(code, source, "the IOMMU stopped nothing of it"),
        Some(last) => Finding::warn(
            code,
            format!("{source}: {last}"),
            format!("{} faults", faults.len()),
        )
        .step("see what ran when it happened; a driver that was just unbound may leave one behind"),
    })
}

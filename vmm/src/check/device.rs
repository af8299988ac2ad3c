//! The devices in question as they are: there, idle, resettable, on a good link and a known node.

use berth_devices::pci::HostBdf;

use super::{Case, Code, Finding};
use crate::advice;
use crate::host::{CpuVendor, HostFunction, LinuxVersion};

const DEVICES: &str = "/sys/bus/pci/devices";

pub(super) fn check(case: &Case) -> Vec<Finding> {
    let functions = &case.facts.host.functions.read;
    let absent = case.devices.keys().filter(|device| !functions.contains_key(device));
    let mut findings: Vec<Finding> = absent
        .map(|device| {
            Finding::fail(Code::DeviceAbsent, DEVICES, format!("there is no PCI function {device}"))
                .of(*device)
                .steps(advice::binding::absent(&[]))
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
                    .steps(instead_of(case, device)),
            );
            continue;
        }
        let all = [
            Some(Finding::pass(
                Code::DeviceBridge,
                format!("{DEVICES}/{device}/class"),
                "it is an endpoint",
            )),
            unfit(case, device, listed),
            held(case, device, listed),
            idle(case, device, listed),
            behind_iommu(case, listed),
            Some(reset(case, device)),
            reserved_memory(case, listed),
            link(device, listed),
            node(case, device, listed),
            faults(case, device),
            failed(case, device),
            room(case, device, listed),
        ];
        let all = all.into_iter().flatten().chain(fit(device, listed));
        findings.extend(all.map(|finding| finding.of(device)));
    }
    findings
}

/// The endpoints behind a bridge.
fn instead_of(case: &Case, bridge: HostBdf) -> Vec<String> {
    let functions = case.facts.host.functions.read.iter();
    let behind = functions
        .filter(|(_, listed)| listed.path.contains(&bridge) && !listed.function.is_bridge());
    let behind: Vec<HostBdf> = behind.map(|(address, _)| *address).collect();
    advice::binding::bridge(&behind)
}

/// What keeps it from working in any guest; the first of such faults hides the others.
fn unfit(case: &Case, device: HostBdf, listed: &HostFunction) -> Option<Finding> {
    let unfit = listed.function.unfit.first()?;
    let advice = advice::device::unfit(&case.facts.host, device, unfit);
    Some(Finding::failed(advice::device::unfit_code(unfit), advice))
}

/// Faults of that kind that it has not.
fn fit(device: HostBdf, listed: &HostFunction) -> Vec<Finding> {
    let has =
        |code| listed.function.unfit.iter().any(|unfit| advice::device::unfit_code(unfit) == code);
    [
        (Code::DeviceUnreachable, "config", "it answers"),
        (Code::BarUnassigned, "resource", "its BARs have addresses"),
        (Code::VfToken, "physfn", "VFIO opens it without a token"),
    ]
    .into_iter()
    .filter(|(code, ..)| !has(*code))
    .map(|(code, file, seen)| Finding::pass(code, format!("{DEVICES}/{device}/{file}"), seen))
    .collect()
}

/// Whether something on the host had a BAR's memory when VFIO wanted it.
fn held(case: &Case, device: HostBdf, listed: &HostFunction) -> Option<Finding> {
    let code = Code::BarHeld;
    let holder = case.facts.settings.boot_framebuffer.as_deref();
    if listed.function.bars.is_empty() {
        return None;
    }
    Some(match advice::device::bar_held(&case.facts.host, device, holder) {
        Some(advice) => Finding::failed(code, advice),
        None if case.facts.host.log.source.is_none() => {
            let seen = "the kernel's log, which would say who holds its memory, was not seen";
            Finding::unknown(code, "/dev/kmsg", seen)
        }
        None => Finding::pass(code, "/proc/iomem", "nothing else was found to hold its memory"),
    })
}

/// What the host uses it for; who has it open through VFIO is the group's to say.
fn idle(case: &Case, device: HostBdf, listed: &HostFunction) -> Option<Finding> {
    let code = Code::DeviceInUse;
    let source = format!("{DEVICES}/{device}");
    let host = &case.facts.host;
    let usage = host.functions.uses_of(device).into_iter().find(|usage| !usage.is_vfio());
    if let Some(usage) = usage {
        let found = if usage.is_consoles() { Finding::warn } else { Finding::fail };
        let steps = advice::binding::in_use(host, &usage);
        return Some(found(code, source, format!("it {usage}")).steps(steps));
    }
    Some(match (listed.functions_to_lose(), listed.unseen.as_slice()) {
        (0, []) => Finding::pass(code, source, "the host does not use it"),
        (0, _) if listed.function.is_bound_to_vfio() => {
            Finding::pass(code, source, "the host does not use it")
        }
        (0, unseen) => {
            let unseen: Vec<String> = unseen.iter().map(ToString::to_string).collect();
            let seen = format!("it cannot be seen {}", unseen.join(", nor "));
            Finding::unknown(code, source, seen).steps(advice::binding::not_seen())
        }
        (count, _) => {
            let seen = format!("it has {count} virtual functions, which go when it changes hands");
            Finding::fail(code, format!("{source}/sriov_numvfs"), seen)
                .steps(advice::binding::has_virtual_functions(device))
        }
    })
}

fn behind_iommu(case: &Case, listed: &HostFunction) -> Option<Finding> {
    const SOURCE: &str = "/sys/kernel/iommu_groups";
    let code = Code::DeviceNoIommu;
    if case.facts.host.iommu.units.is_empty() {
        return None;
    }
    Some(match listed.function.group {
        Some(group) => Finding::pass(code, SOURCE, format!("it is in IOMMU group {group}")),
        None => Finding::failed(
            code,
            advice::iommu::not_behind(&case.facts.host, &listed.function, listed.path.is_empty()),
        ),
    })
}

/// By what a machine with all of the devices in question would do.
fn reset(case: &Case, device: HostBdf) -> Finding {
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
        others => none.steps(advice::device::no_reset(others)),
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
    if !group.is_seen() {
        let seen = "what the firmware keeps for it was not seen";
        return Some(Finding::unknown(code, source, seen));
    }
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
    let said = case.facts.host.log.find(&["RMRR requirement", "1:1 mapping", "1:1 IOMMU mapping"]);
    let source = said.map_or(source.clone(), |line| format!("{source}; kernel log: {line}"));
    Some(
        found(code, source, seen)
            .step("turn off the card's management features in the firmware's setup (HP: exclude the slot from iLO's shared memory by `conrep` or `hprcu`; others: legacy USB, option ROM)")
            .step("or move the card to another slot, or choose another function"),
    )
}

fn link(device: HostBdf, listed: &HostFunction) -> Option<Finding> {
    let code = Code::LinkReduced;
    let link = listed.function.link.as_ref()?;
    let source = format!("{DEVICES}/{device}/current_link_speed, current_link_width");
    Some(match advice::link(device, link) {
        None => {
            let seen = format!("the link is {}, all that the device has", link.negotiated);
            Finding::pass(code, source, seen)
        }
        Some(advice) => Finding::warned(code, advice),
    })
}

fn node(case: &Case, device: HostBdf, listed: &HostFunction) -> Option<Finding> {
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
fn faults(case: &Case, device: HostBdf) -> Option<Finding> {
    let code = Code::DmaFaults;
    let source = match said_by(case) {
        Ok(source) => source,
        Err(seen) => return Some(Finding::unknown(code, "/dev/kmsg", seen)),
    };
    let faults = advice::device::faults(&case.facts.host, device);
    Some(match faults.last() {
        None => Finding::pass(code, source, "the IOMMU stopped nothing of it"),
        Some(last) => {
            Finding::warn(code, format!("{source}: {last}"), format!("{} faults", faults.len()))
                .steps(advice::device::faulty(last))
        }
    })
}

/// Where the kernel's log was read, or why it was not.
fn said_by<'a>(case: &'a Case) -> Result<&'a str, &'static str> {
    case.facts.host.log.source.as_deref().ok_or(if case.facts.live {
        "the kernel's log cannot be read by this user (kernel.dmesg_restrict)"
    } else {
        "the kernel's log is not in the snapshot"
    })
}

/// What else the log says of it.
fn failed(case: &Case, device: HostBdf) -> Option<Finding> {
    let code = Code::DeviceFailed;
    Some(match (said_by(case), advice::device::failed(&case.facts.host, device)) {
        (Err(seen), _) => Finding::unknown(code, "/dev/kmsg", seen),
        (Ok(_), Some(advice)) => Finding::warned(code, advice),
        (Ok(source), None) => Finding::pass(code, source, "the kernel reported no failure of it"),
    })
}

/// Of a card that can have virtual functions, whether there is memory for them. The card itself may
/// go to a guest without.
fn room(case: &Case, device: HostBdf, listed: &HostFunction) -> Option<Finding> {
    let code = Code::SriovNoRoom;
    let sriov = listed.sriov.as_ref().filter(|sriov| sriov.max > 0)?;
    Some(match sriov.has_room {
        Some(false) => Finding::warned(code, advice::device::no_room(&case.facts.host, device)),
        Some(true) => {
            let seen = "the memory of its virtual functions has addresses";
            Finding::pass(code, format!("{DEVICES}/{device}/resource"), seen)
        }
        None => {
            let seen = "the memory of its virtual functions was not seen";
            Finding::unknown(code, format!("{DEVICES}/{device}/resource"), seen)
        }
    })
}

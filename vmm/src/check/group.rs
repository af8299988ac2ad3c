//! Whether the devices' IOMMU groups can go to a guest, and what made them so large.

use std::collections::BTreeSet;

use berth_devices::pci::HostBdf;

use super::{Case, Code, Finding};
use crate::advice;
use crate::advice::groups::{self, Culprit, same_card};
use crate::host::{Acs, HostFunction};

pub(super) fn check(case: &Case) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut seen = BTreeSet::new();
    for (device, listed) in case.endpoints() {
        let Some(group) = listed.function.group.filter(|group| seen.insert(*group)) else {
            continue;
        };
        let others = others(case, device, group);
        findings.push(viable(case, device, listed, &others).of(device));
        findings.push(isolated(case, device, listed, &others).of(device));
    }
    findings
}

/// The group's other functions.
fn others<'a>(case: &Case<'a>, device: HostBdf, group: u32) -> Vec<(HostBdf, &'a HostFunction)> {
    let members = case.facts.host.functions.members(Some(group));
    members.filter(|(member, _)| *member != device).collect()
}

fn viable(
    case: &Case,
    device: HostBdf,
    listed: &HostFunction,
    others: &[(HostBdf, &HostFunction)],
) -> Finding {
    let code = Code::GroupNotViable;
    let group = listed.function.group.unwrap_or_default();
    let source = format!("/sys/kernel/iommu_groups/{group}/devices");
    let stands_in_the_way = |(address, other): &&(HostBdf, &HostFunction)| {
        !other.function.allows_passthrough_of_its_group() && !case.is_bound_for_run(*address)
    };
    let culprits: Vec<Culprit> = others
        .iter()
        .filter(stands_in_the_way)
        .map(|(address, other)| Culprit {
            address: *address,
            driver: other.function.driver.clone().unwrap_or_default(),
            uses: case.facts.host.functions.uses_of(*address),
        })
        .collect();
    if culprits.is_empty() && !others.is_empty() && !case.facts.has_drivers() {
        let seen = "the drivers of the group's other functions are not in the snapshot";
        return Finding::unknown(code, source, seen);
    }
    if culprits.is_empty() {
        let idle = match others.len() {
            0 => "it is alone in its group".to_owned(),
            1 => "the other function of its group is idle".to_owned(),
            count => format!("the {count} other functions of its group are idle"),
        };
        return Finding::pass(code, source, idle);
    }
    let named = culprits.iter().map(|culprit| format!("{} ({})", culprit.address, culprit.driver));
    let named = named.collect::<Vec<_>>().join(", ");
    Finding::fail(code, source, format!("it shares its group with {named}")).steps(
        groups::not_viable(device, groups::seat(&case.facts.host.functions, device), &culprits),
    )
}

/// The bridge that joins a group: the kernel puts functions into one group when something between
/// them and the root may turn DMA around (`pci_device_group` in drivers/iommu/iommu.c).
fn isolated(
    case: &Case,
    device: HostBdf,
    listed: &HostFunction,
    others: &[(HostBdf, &HostFunction)],
) -> Finding {
    let code = Code::AcsMissing;
    let source = format!("/sys/bus/pci/devices/{device}/iommu_group");
    let endpoints: Vec<HostBdf> = others
        .iter()
        .filter(|(_, l)| !l.function.is_bridge())
        .map(|(address, _)| *address)
        .collect();
    if let Some(advice) = advice::device::acs_override(&case.facts.host) {
        return Finding::warned(code, advice);
    }
    if let Some((vmd, _)) = others.iter().find(|(_, o)| o.function.driver.as_deref() == Some("vmd"))
    {
        let seen = format!("it is behind the Intel VMD controller {vmd}, as all drives below it");
        return Finding::warn(code, source, seen)
            .step("turn VMD off for this port in the firmware's setup");
    }
    if endpoints.is_empty() && !case.facts.host.command_line.is_seen() {
        let seen = format!(
            "{}: with pcie_acs_override= groups look smaller than they are",
            advice::parameters::UNSEEN
        );
        return Finding::unknown(code, "/proc/cmdline", seen);
    }
    if endpoints.is_empty() {
        return Finding::pass(code, source, "nothing else can reach it past the IOMMU");
    }
    if endpoints.iter().all(|other| same_card(*other, device)) {
        let seen = format!("the card itself joins {device} to {}", list(&endpoints));
        return Finding::warn(code, source, seen)
            .step("give all functions of the card to the same guest");
    }
    // Behind a bridge and without a link of its own: it is on a conventional bus.
    if let (None, Some(bridge)) = (&listed.function.link, listed.path.last()) {
        let seen = format!(
            "{bridge} leads to a conventional PCI bus, which joins it to {}",
            list(&endpoints)
        );
        return Finding::warn(code, source, seen)
            .step("give all functions of that bus to the same guest")
            .step("or take a PCI Express card in a slot of its own instead");
    }
    // Ports of one device in a row on a root bus, none of which keeps the others apart.
    let ports = groups::shared_ports(&case.facts.host.functions, device);
    if ports.len() > 1 {
        let ports: Vec<HostBdf> = ports.into_iter().collect();
        let seen = format!(
            "the ports {} are one device without access control services, which joins {device} to {}",
            list(&ports),
            list(&endpoints)
        );
        return Finding::warn(code, source, seen)
            .step("give all functions behind these ports to the same guest")
            .step("or take another port of the processor, where the board has a slot on one");
    }
    let state = |bridge: &HostBdf| case.facts.host.functions.get(*bridge).map(|listed| listed.acs);
    let known =
        listed.path.iter().filter(|bridge| matches!(state(bridge), Some(Acs::Missing | Acs::Off)));
    let known: Vec<String> = known
        .map(|bridge| match state(bridge) {
            Some(Acs::Off) => format!("{bridge} (its services are off)"),
            _ => format!("{bridge} (it has no such services)"),
        })
        .collect();
    let seen = if known.is_empty() {
        // Without root the capabilities stay hidden; the path tells where to look.
        match listed.path.last() {
            Some(_) => format!(
                "one of the bridges above it joins it to {}: {}",
                list(&endpoints),
                list(&listed.path)
            ),
            None => format!("it is joined to {} on the root bus", list(&endpoints)),
        }
    } else {
        format!("{} joins it to {}", known.join(", "), list(&endpoints))
    };
    Finding::warn(code, source, seen)
        .step("move the card to a slot of its own root port, best one of the CPU's")
        .step("or turn on ACS in the firmware's setup, where it has such a setting")
}

fn list(addresses: &[HostBdf]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

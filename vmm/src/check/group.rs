//! Whether the devices' IOMMU groups can go to a guest, and what made them so large.

use std::collections::BTreeSet;

use berth_devices::pci::Bdf;

use super::code::Code;
use super::{Case, Finding};
use crate::host::{Acs, HostFunction, HostUse};

pub(super) fn check(case: &Case) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut seen = BTreeSet::new();
    for (device, listed) in case.endpoints() {
        let Some(group) = listed.function.group.filter(|group| seen.insert(*group)) else {
            continue;
        };
        let others = others(case, device, group);
        findings.push(viable(case, device, group, &others).of(device));
        findings.push(isolated(case, device, listed, &others).of(device));
    }
    findings
}

/// The group's other functions.
fn others<'a>(case: &Case<'a>, device: Bdf, group: u32) -> Vec<(Bdf, &'a HostFunction)> {
    let members = case.facts.host.functions.members(Some(group));
    members.filter(|(member, _)| *member != device).collect()
}

fn viable(case: &Case, device: Bdf, group: u32, others: &[(Bdf, &HostFunction)]) -> Finding {
    let code = Code::GroupNotViable;
    let source = format!("/sys/kernel/iommu_groups/{group}/devices");
    let culprits: Vec<_> = others
        .iter()
        .filter(|(address, listed)| {
            !listed.function.allows_passthrough_of_its_group() && !case.is_bound_for_run(*address)
        })
        .collect();
    if culprits.is_empty() {
        let idle = match others.len() {
            0 => "it is alone in its group".to_owned(),
            1 => "the other function of its group is idle".to_owned(),
            count => format!("the {count} other functions of its group are idle"),
        };
        return Finding::pass(code, source, idle);
    }
    let named = culprits.iter().map(|(address, listed)| {
        let driver = listed.function.driver.as_deref().unwrap_or_default();
        format!("{address} ({driver})")
    });
    let named = named.collect::<Vec<_>>().join(", ");
    let finding = Finding::fail(code, source, format!("it shares its group with {named}"));
    let functions = &case.facts.host.functions;
    let uses = |address: Bdf| functions.uses_of(address).into_iter().next();
    let steps = culprits.iter().map(|(address, _)| match uses(*address) {
        Some(HostUse::HasDomain { .. }) => format!(
            "{device} is behind {address}, Intel's Volume Management Device: turn VMD off for its \
             port in the firmware's setup, or give the guest {address} with all that is behind it"
        ),
        Some(usage) => format!("{address} {usage}: the host cannot do without it as it is"),
        None => format!("`berth bind {address}`: take it from the host too"),
    });
    let all_idle = culprits.iter().all(|(address, _)| uses(*address).is_none());
    let is_behind = culprits
        .iter()
        .any(|(address, _)| matches!(uses(*address), Some(HostUse::HasDomain { .. })));
    let finding = finding.steps(steps);
    if all_idle {
        finding.step(format!("or all at once: `berth bind {device} --group`"))
    } else if is_behind {
        finding
    } else {
        finding.step("or move the card to a slot whose group it has alone")
    }
}

/// The bridge that joins a group: the kernel puts functions into one group when something between
/// them and the root may turn DMA around (`pci_device_group` in drivers/iommu/iommu.c).
fn isolated(
    case: &Case,
    device: Bdf,
    listed: &HostFunction,
    others: &[(Bdf, &HostFunction)],
) -> Finding {
    let code = Code::AcsMissing;
    let source = format!("/sys/bus/pci/devices/{device}/iommu_group");
    let endpoints: Vec<Bdf> = others
        .iter()
        .filter(|(_, l)| !l.function.is_bridge())
        .map(|(address, _)| *address)
        .collect();
    let same_card = |other: &Bdf| other.slot() == device.slot();
    if endpoints.is_empty() {
        return Finding::pass(code, source, "nothing else can reach it past the IOMMU");
    }
    if endpoints.iter().all(same_card) {
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
    let state = |bridge: &Bdf| case.facts.host.functions.get(*bridge).map(|listed| listed.acs);
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

fn list(addresses: &[Bdf]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

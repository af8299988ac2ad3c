//! Whether the devices' IOMMU groups can go to a guest, and what made them so large.

use std::collections::BTreeSet;

use berth_devices::pci::Bdf;

use super::{Case, Code, Finding};
use crate::advice::groups::{self, Culprit, Seat, same_card};
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
fn others<'a>(case: &Case<'a>, device: Bdf, group: u32) -> Vec<(Bdf, &'a HostFunction)> {
    let inventory = &case.facts.inventory;
    let members = inventory.groups.get(&group).into_iter().flat_map(|group| &group.members);
    members
        .filter(|member| **member != device)
        .filter_map(|member| Some((*member, inventory.functions.get(member)?)))
        .collect()
}

fn viable(
    case: &Case,
    device: Bdf,
    listed: &HostFunction,
    others: &[(Bdf, &HostFunction)],
) -> Finding {
    let code = Code::GroupNotViable;
    let group = listed.function.group.unwrap_or_default();
    let source = format!("/sys/kernel/iommu_groups/{group}/devices");
    let stands_in_the_way = |(address, other): &&(Bdf, &HostFunction)| {
        !other.function.allows_passthrough_of_its_group() && !case.is_bound_for_run(*address)
    };
    let culprits: Vec<Culprit> = others
        .iter()
        .filter(stands_in_the_way)
        .map(|(address, other)| Culprit {
            address: *address,
            driver: other.function.driver.clone().unwrap_or_default(),
            uses: other.uses.clone(),
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
    let named = culprits.iter().map(|culprit| format!("{} ({})", culprit.address, culprit.driver));
    let named = named.collect::<Vec<_>>().join(", ");
    Finding::fail(code, source, format!("it shares its group with {named}"))
        .steps(groups::not_viable(device, seat(listed), &culprits))
}

/// What is on a root bus sits in no slot.
fn seat(listed: &HostFunction) -> Seat {
    if listed.path.is_empty() { Seat::Board } else { Seat::Slot }
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
    let state = |bridge: &Bdf| case.facts.inventory.functions.get(bridge).map(|listed| listed.acs);
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

//! IOMMU groups: who stands in the way, and whether a slot can change that.

use std::collections::BTreeSet;

use berth_devices::pci::HostBdf;

use super::Steps;
use crate::host::{Functions, HostUse};

/// A member of the group that the host has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Culprit {
    /// Its address.
    pub address: HostBdf,
    /// Its driver.
    pub driver: String,
    /// What it is used for, as far as that was looked for.
    pub uses: Vec<HostUse>,
}

/// What a device is, as far as moving it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seat {
    /// In a slot, or what may be one.
    Slot,
    /// On a root bus: part of the processor, the chipset or the board.
    Board,
    /// Behind one of several root ports of one device that do not keep apart what is behind them.
    SharedPorts,
}

/// Where a device sits, by the bridges above it and above the others of its group.
pub fn seat(functions: &Functions, device: HostBdf) -> Seat {
    let Some(found) = functions.get(device) else { return Seat::Slot };
    if found.path.is_empty() {
        return Seat::Board;
    }
    if shared_ports(functions, device).len() > 1 { Seat::SharedPorts } else { Seat::Slot }
}

/// Root ports of one device that lead to members of the group of `device`, that of its own
/// included: without access control they pass requests on among themselves.
pub fn shared_ports(functions: &Functions, device: HostBdf) -> BTreeSet<HostBdf> {
    let Some(found) = functions.get(device) else { return BTreeSet::new() };
    let Some(port) = found.path.first().copied() else { return BTreeSet::new() };
    let members = functions.members(found.function.group);
    let ports = members.flat_map(|(member, other)| {
        let own = other.function.is_bridge().then_some(member);
        other.path.first().copied().into_iter().chain(own)
    });
    ports.filter(|other| same_card(*other, port)).collect()
}

/// Others of the device's group are the host's.
pub fn not_viable(device: HostBdf, seat: Seat, culprits: &[Culprit]) -> Steps {
    if let Some(vmd) = culprits.iter().find(|culprit| culprit.driver == "vmd") {
        let behind =
            format!("{device} is behind {}, Intel's Volume Management Device", vmd.address);
        return std::iter::once(behind).chain(behind_vmd()).collect();
    }
    let mut steps: Steps = culprits
        .iter()
        .map(|culprit| match culprit.uses.first() {
            Some(usage) => {
                format!("{} {usage}: the host cannot do without it as it is", culprit.address)
            }
            None => format!("`berth bind {}`: take it from the host too", culprit.address),
        })
        .collect();
    if culprits.iter().all(|culprit| culprit.uses.is_empty()) {
        steps.push(format!("or all at once: `berth bind {device} --group`"));
    }
    let is_card = culprits.iter().all(|culprit| same_card(culprit.address, device));
    match seat {
        Seat::Board => steps.push(
            "it is on the board itself, and its group stays as it is: or take a card in a slot \
             instead"
                .to_owned(),
        ),
        // Functions of one card stay together wherever it is.
        _ if is_card => {}
        Seat::SharedPorts => steps.push(
            "no other slot of these ports helps: or take one on a port of another device, where \
             the board has such"
                .to_owned(),
        ),
        Seat::Slot => steps.push("or move the card to a slot whose group it has alone".to_owned()),
    }
    steps
}

/// Whether both are functions of one device.
pub fn same_card(one: HostBdf, other: HostBdf) -> bool {
    one.slot() == other.slot()
}

/// A controller has drives behind it, each a function of a PCI domain of its own.
pub fn behind_vmd() -> Steps {
    vec![
        "turn VMD off for these ports in the firmware's setup, and their drives are functions of \
         their own"
            .to_owned(),
        "or give the guest the controller with all that is behind it".to_owned(),
    ]
}

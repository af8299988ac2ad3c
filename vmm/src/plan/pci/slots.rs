//! Slots: which functions stay together, on which root bus, behind a port or not.

use std::collections::BTreeMap;

use berth_devices::pci::{GuestBdf, Link};

use super::super::devices::Assigned;
use super::super::{NumaPlan, PlanError};

/// Devices of a bus less the first, which bus 0 has for the host bridge.
const SLOTS_PER_ROOT: usize = 31;

/// A device of the guest: one or more functions of a card.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    /// Positions among the assigned functions, with their function numbers in the guest.
    pub(super) functions: Vec<(usize, u8)>,
    /// The link of the port that it is behind; `None` when it is on the root bus itself.
    pub(super) port: Option<Link>,
    /// Node on the host.
    pub(super) node: Option<u32>,
}

/// The slots, in the order of the config. Functions of one host device stay together: drivers
/// look for their siblings. They keep their numbers, which drivers use too, except that one must
/// be function 0: software looks for others only when it finds that (PCI Express Base 6.0,
/// section 7.5.1.1.9).
///
/// Virtual functions are devices of their own; that they share a device number is numbering only.
pub(super) fn slots(assigned: &[Assigned]) -> Vec<Slot> {
    let mut slots: Vec<Slot> = Vec::new();
    let mut of_device = BTreeMap::new();
    for (index, Assigned { address, function, .. }) in assigned.iter().enumerate() {
        let new = Slot {
            functions: vec![(index, address.function())],
            port: function.link,
            node: function.node,
        };
        if function.is_virtual {
            slots.push(new);
            continue;
        }
        let device = address.slot();
        match of_device.get(&device).and_then(|slot: &usize| slots.get_mut(*slot)) {
            Some(slot) => {
                slot.functions.push((index, address.function()));
                // Conventional functions do not belong behind a port.
                slot.port = slot.port.and(function.link);
            }
            None => {
                of_device.insert(device, slots.len());
                slots.push(new);
            }
        }
    }
    for slot in &mut slots {
        slot.functions.sort_by_key(|(_, number)| *number);
        if let Some((_, first)) = slot.functions.first_mut() {
            *first = 0;
        }
    }
    slots
}

/// Where the slots are in the guest.
#[derive(Clone, Debug)]
pub(super) struct Hierarchy {
    /// Root buses.
    pub(super) roots: Vec<Root>,
    /// By slot: which root bus, and the device number on it.
    pub(super) places: Vec<(usize, u8)>,
    /// By slot: the bus behind its port.
    pub(super) secondary: Vec<Option<u8>>,
}

/// A root bus.
#[derive(Clone, Debug)]
pub(super) struct Root {
    /// The guest's proximity domain.
    pub(super) domain: u32,
    /// Its own number.
    pub(super) first_bus: u8,
    /// Highest number below it.
    pub(super) last_bus: u8,
}

impl Hierarchy {
    /// A root bus for each proximity domain that has devices, and at least one. Buses are numbered
    /// as firmware does: a root bus, then the buses behind its ports in the order of their
    /// devices.
    pub(super) fn new(slots: &[Slot], numa: &NumaPlan) -> Result<Self, PlanError> {
        let too_many = || PlanError::TooManyDevices { count: slots.len() };
        let mut domains: Vec<u32> = slots.iter().map(|slot| numa.domain(slot.node)).collect();
        domains.sort_unstable();
        domains.dedup();
        if domains.is_empty() {
            domains.push(0);
        }
        let mut this = Self {
            roots: Vec::new(),
            places: vec![(0, 0); slots.len()],
            secondary: vec![None; slots.len()],
        };
        let mut next_bus = Some(0u8);
        for (root, domain) in domains.into_iter().enumerate() {
            let first_bus = next_bus.ok_or_else(too_many)?;
            let mut last_bus = first_bus;
            let here = slots.iter().enumerate().filter(|(_, s)| numa.domain(s.node) == domain);
            for (position, (index, slot)) in here.enumerate() {
                if position >= SLOTS_PER_ROOT {
                    return Err(too_many());
                }
                // Device 0 is the host bridge.
                this.places[index] = (root, position as u8 + 1);
                if slot.port.is_some() {
                    last_bus = last_bus.checked_add(1).ok_or_else(too_many)?;
                    this.secondary[index] = Some(last_bus);
                }
            }
            this.roots.push(Root { domain, first_bus, last_bus });
            next_bus = last_bus.checked_add(1);
        }
        Ok(this)
    }

    /// Address of the port of a slot, or of the slot's function `number` when there is no port.
    fn on_root(&self, slot: usize, number: u8) -> GuestBdf {
        let (root, device) = self.places[slot];
        let bdf = GuestBdf::new(self.roots[root].first_bus, device, number);
        bdf.expect("at most 31 slots, and functions keep the host's numbers")
    }

    /// Address of the port of a slot.
    pub(super) fn port(&self, slot: usize) -> GuestBdf {
        self.on_root(slot, 0)
    }

    /// Address of a slot's function.
    pub(super) fn function(&self, slot: usize, number: u8) -> GuestBdf {
        match self.secondary[slot] {
            Some(bus) => GuestBdf::new(bus, 0, number).expect("functions keep the host's numbers"),
            None => self.on_root(slot, number),
        }
    }
}

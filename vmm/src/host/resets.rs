//! How a function can be reset, in the company that it has on its bus.
//!
//! The kernel makes its list of a function's ways before it finds what else is on the bus
//! (`pci_device_add` in drivers/pci/probe.c). So the first function of a card or of a bus lists a
//! reset of the bus, which the kernel then refuses: it wants the function alone there
//! (`pci_parent_bus_reset` in drivers/pci/pci.c). Through VFIO the bus is reset none the less, by
//! who has all of it; that it can be is not in the list of any but the first function.
//!
//! This is the only place that decides it. Plans, checks and lists say what follows.

use std::collections::BTreeSet;

use berth_devices::pci::HostBdf;
use berth_devices::vfio::ResetMethod;

use super::functions::Functions;

/// How a function can be reset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resets {
    /// The ways, best first.
    pub ways: Vec<ResetMethod>,
    /// What a hot reset would hit beside the guest's functions, which keeps it from being a way;
    /// empty where there is no hot reset.
    pub others: Vec<HostBdf>,
}

impl Resets {
    /// The best way.
    pub fn method(&self) -> ResetMethod {
        self.ways.first().copied().unwrap_or(ResetMethod::None)
    }

    /// The best way that leaves all other functions alone.
    pub fn alone(&self) -> ResetMethod {
        let alone = self.ways.iter().find(|way| **way != ResetMethod::Hot);
        alone.copied().unwrap_or(ResetMethod::None)
    }
}

impl Functions {
    /// How the function at `address` can be reset, when one guest has all of `guests`.
    ///
    /// Functions of one bus are reset together when one of them cannot be reset by itself: they
    /// are hit anyway.
    pub fn resets(&self, address: HostBdf, guests: &BTreeSet<HostBdf>) -> Resets {
        let mut ways = self.ways_alone(address);
        let Some(others) = self.hit_by_hot_reset(address, guests) else {
            return Resets { ways, others: Vec::new() };
        };
        let is_best = |function: HostBdf| {
            let possible = others.is_empty() && self.is_behind_bus_that_resets(function);
            ResetMethod::best(&self.ways_alone(function), possible) == ResetMethod::Hot
        };
        let mut together = self.company(address).filter(|other| guests.contains(other));
        if is_best(address) || together.any(is_best) {
            ways.insert(0, ResetMethod::Hot);
        }
        Resets { ways, others }
    }

    /// How a guest could reset the function at `address` that has its whole group.
    pub fn resets_with_group(&self, address: HostBdf) -> Resets {
        let group = self.neighbours(address).map(|(other, _)| other);
        self.resets(address, &group.chain([address]).collect())
    }

    /// The others on the bus of the function.
    fn company(&self, address: HostBdf) -> impl Iterator<Item = HostBdf> {
        let bus = |bdf: HostBdf| (bdf.domain(), bdf.bus());
        let on_bus = move |other: &HostBdf| *other != address && bus(*other) == bus(address);
        self.addresses.iter().copied().filter(on_bus)
    }

    /// Ways of the kernel that hit nothing else, in its order.
    fn ways_alone(&self, address: HostBdf) -> Vec<ResetMethod> {
        let listed = self.pci(address).map_or(&[][..], |function| &function.reset_methods);
        let alone = self.company(address).next().is_none();
        listed.iter().copied().filter(|way| alone || !way.is_of_the_bus()).collect()
    }

    /// Whether the kernel resets the bus that the function is on. What keeps it from that of a lone
    /// function shows in the list, such as a device that does not come back
    /// (`PCI_DEV_FLAGS_NO_BUS_RESET`).
    fn is_behind_bus_that_resets(&self, address: HostBdf) -> bool {
        let Some(found) = self.get(address).filter(|found| !found.function.is_virtual) else {
            return false;
        };
        // Conventional functions have no link, as those on a root bus, which nothing resets.
        let is_behind_bridge = found.function.link.is_some() || !found.path.is_empty();
        let is_listed = found.function.reset_methods.contains(&ResetMethod::Bus);
        is_behind_bridge && (is_listed || self.company(address).next().is_some())
    }

    /// What a hot reset of the function would hit that is not in the hands of who has `guests`;
    /// `None` when there is no such reset.
    fn hit_by_hot_reset(
        &self,
        address: HostBdf,
        guests: &BTreeSet<HostBdf>,
    ) -> Option<Vec<HostBdf>> {
        let groups: BTreeSet<Option<u32>> =
            guests.iter().filter_map(|guest| Some(self.pci(*guest)?.group)).collect();
        let is_in_hand = |other: &HostBdf| {
            let Some(function) = self.pci(*other) else { return false };
            // VFIO has no bridge, and virtual functions go with what they are part of.
            if function.is_bridge() || function.is_virtual {
                return false;
            }
            // Idle ones of the guest's groups nobody else can have; the kernel resets them too when
            // VFIO's driver is bound to them.
            let is_idle = function.group.is_some()
                && groups.contains(&function.group)
                && function.is_bound_to_vfio();
            guests.contains(other) || is_idle
        };
        let others = || self.company(address).filter(|other| !is_in_hand(other)).collect();
        self.is_behind_bus_that_resets(address).then(others)
    }
}

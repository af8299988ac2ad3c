//! What the tables are about: vCPUs, PCI host bridges, NUMA.

use std::ops::{Range, RangeInclusive};

use super::super::layout;

/// What the tables describe.
#[derive(Clone, Copy, Debug)]
pub struct AcpiConfig<'a> {
    /// APIC ID of every vCPU; the position is the processor UID
    /// ([`Topology::apic_ids`](crate::topology::Topology::apic_ids)).
    pub apic_ids: &'a [u32],
    /// PCI host bridges of segment 0. The first is `\_SB.PCI0`; at most 256, with buses of their
    /// own.
    pub roots: &'a [PciRoot],
    /// Proximity domains; without them there is no SRAT.
    pub numa: Option<&'a Numa>,
}

/// A PCI Express host bridge and what it decodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciRoot {
    /// Bus numbers of the bridge and of everything below it.
    pub buses: RangeInclusive<u8>,
    /// I/O ports for BARs, if it has any; within 0..0x1_0000 and not all of it.
    pub io: Option<Range<u32>>,
    /// Addresses for 32-bit BARs; below 4 GiB.
    pub window32: Option<Range<u64>>,
    /// Addresses for 64-bit BARs.
    pub window64: Option<Range<u64>>,
    /// Proximity domain of its devices (`_PXM`).
    pub proximity_domain: Option<u32>,
}

impl PciRoot {
    /// The only root of a machine: buses up to `last_bus`, the I/O window, the 32-bit window.
    #[must_use]
    pub fn only(last_bus: u8, window64: Option<Range<u64>>) -> Self {
        Self {
            buses: 0..=last_bus,
            io: Some(layout::PCI_IO_WINDOW),
            window32: Some(layout::PCI_WINDOW32),
            window64,
            proximity_domain: None,
        }
    }
}

/// Which proximity domain memory, vCPUs and devices belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numa {
    /// Proximity domain of every vCPU, by index; as many as there are vCPUs.
    pub vcpus: Vec<u32>,
    /// Guest physical addresses of RAM with their proximity domain.
    pub memory: Vec<(Range<u64>, u32)>,
    /// Bus, device and function of PCI functions in segment 0, with the domain of their root.
    pub initiators: Vec<(u16, u32)>,
}

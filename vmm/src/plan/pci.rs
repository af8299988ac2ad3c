//! Where the guest finds its devices: slots on bus 0 and addresses in BARs.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;

use berth_arch::{layout, ram};
use berth_devices::pci::{Bar, BarKind, BarSpec, Bdf};

use super::devices::Assigned;
use super::memory::{cpu_address_bits, holes};
use super::{BarPlan, FunctionPlan, MemoryPlan, PciPlan, PlanError};
use crate::host::{HostBar, HostProfile};

/// Memory BARs start on pages of their own: KVM maps whole pages, and two small BARs on one page
/// could both not be mapped.
const PAGE: u64 = 4096;

pub(super) fn plan(
    assigned: &[Assigned],
    host: &HostProfile,
    memory: &MemoryPlan,
    notes: &mut Vec<String>,
) -> Result<PciPlan, PlanError> {
    let slots = slots(assigned)?;
    let window64 = window64(assigned, host, memory)?;
    let mut bars = bars(assigned, &window64)?;
    let mut functions = Vec::new();
    for &Assigned { address, function, group } in assigned {
        if function.msix_vectors.is_none() {
            notes.push(format!(
                "only root sees the capabilities of {address}; its MSI-X vectors are not counted"
            ));
        }
        functions.push(FunctionPlan {
            host: address,
            guest: slots[&address],
            id: [function.vendor, function.device],
            group,
            node: function.node,
            bars: bars.remove(&address).unwrap_or_default(),
            msix_vectors: function.msix_vectors.unwrap_or(0),
        });
    }
    Ok(PciPlan { last_bus: 0, window32: layout::PCI_WINDOW32, window64, functions })
}

impl PciPlan {
    /// Whether the device of `guest`, an address in the guest, has other functions too.
    pub fn is_multi_function(&self, guest: Bdf) -> bool {
        let place = |bdf: Bdf| (bdf.domain(), bdf.bus(), bdf.device());
        let of_device = self.functions.iter().filter(|f| place(f.guest) == place(guest));
        of_device.count() > 1
    }
}

impl From<&BarPlan> for BarSpec {
    fn from(plan: &BarPlan) -> Self {
        let BarPlan { index, kind, size, address } = *plan;
        Self { bar: Bar::new(index).expect("a function has BARs 0 to 5"), kind, size, address }
    }
}

/// The guest's address of every function: one slot each, in the order of the config. Functions of
/// one host device stay together, where function 0 is among them: software looks for the others
/// only when it finds that one (PCI Local Bus 3.0, section 3.2.2.3.4).
///
/// Virtual functions are devices of their own; that they share a device number is numbering only.
fn slots(assigned: &[Assigned]) -> Result<BTreeMap<Bdf, Bdf>, PlanError> {
    let function0 = |bdf: Bdf| Bdf::new(bdf.domain(), bdf.bus(), bdf.device(), 0);
    let mut owners: Vec<Bdf> = Vec::new();
    let mut places = Vec::new();
    for &Assigned { address, function, .. } in assigned {
        let first = function0(address).filter(|first| {
            !function.is_virtual && assigned.iter().any(|other| other.address == *first)
        });
        let owner = first.unwrap_or(address);
        let slot = owners.iter().position(|other| *other == owner);
        let slot = slot.unwrap_or_else(|| {
            owners.push(owner);
            owners.len() - 1
        });
        let number = if first.is_some() { address.function() } else { 0 };
        places.push((address, slot, number));
    }
    let full = || PlanError::TooManyDevices { count: owners.len() };
    places
        .into_iter()
        .map(|(host, slot, function)| {
            // Device 0 is the host bridge.
            let device = u8::try_from(slot + 1).map_err(|_| full())?;
            let guest = Bdf::new(0, 0, device, function).ok_or_else(full)?;
            Ok((host, guest))
        })
        .collect()
}

/// Below what the IOMMU translates where there is room, so that devices could reach each other's
/// BARs; else wherever the CPUs can.
fn window64(
    assigned: &[Assigned],
    host: &HostProfile,
    memory: &MemoryPlan,
) -> Result<Range<u64>, PlanError> {
    let sizes = || {
        let bars = assigned.iter().flat_map(|device| &device.function.bars);
        bars.filter(|bar| matches!(bar.kind, BarKind::Memory64 { .. })).map(span)
    };
    let ram_end = memory.regions.last().map_or(0, |region| region.guest.end);
    let needed = sizes().fold(0, u64::saturating_add);
    let align = sizes().max().unwrap_or(PAGE);
    let holes = holes(host);
    let cpu_bits = cpu_address_bits(host);
    let iommu_bits = host.iommu.address_bits.unwrap_or(cpu_bits).min(cpu_bits);
    [iommu_bits, cpu_bits]
        .into_iter()
        .find_map(|bits| ram::pci_window64(ram_end, needed, align, bits, &holes))
        .ok_or(PlanError::AddressSpace {
            what: "64-bit BARs",
            end: ram_end.saturating_add(align).saturating_add(needed),
            limit: "the CPUs'",
            bits: cpu_bits,
        })
}

/// Bytes of address space that a BAR takes.
fn span(bar: &HostBar) -> u64 {
    match bar.kind {
        BarKind::Io => bar.size,
        BarKind::Memory32 { .. } | BarKind::Memory64 { .. } => bar.size.max(PAGE),
    }
}

/// Addresses for all BARs, largest first: then each is naturally aligned where the last one ended.
fn bars(
    assigned: &[Assigned],
    window64: &Range<u64>,
) -> Result<BTreeMap<Bdf, Vec<BarPlan>>, PlanError> {
    let ports = layout::PCI_IO_WINDOW;
    let mut io = u64::from(ports.start)..u64::from(ports.end);
    let mut memory32 = layout::PCI_WINDOW32;
    let mut memory64 = window64.clone();

    let mut bars: Vec<(Bdf, &HostBar)> = assigned
        .iter()
        .flat_map(|device| device.function.bars.iter().map(|bar| (device.address, bar)))
        .collect();
    // Stable: equals stay in the order of the config.
    bars.sort_by_key(|(_, bar)| Reverse(span(bar)));
    let mut plans: BTreeMap<Bdf, Vec<BarPlan>> = BTreeMap::new();
    for (device, bar) in bars {
        let (free, window) = match bar.kind {
            BarKind::Io => (&mut io, "the guest's I/O ports"),
            BarKind::Memory32 { .. } => (&mut memory32, "the guest's window for 32-bit BARs"),
            BarKind::Memory64 { .. } => (&mut memory64, "the guest's window for 64-bit BARs"),
        };
        let address = take(free, span(bar)).ok_or(PlanError::WindowFull {
            device,
            bar: bar.index,
            size: bar.size,
            window,
        })?;
        plans.entry(device).or_default().push(BarPlan {
            index: bar.index,
            kind: bar.kind,
            size: bar.size,
            address,
        });
    }
    for bars in plans.values_mut() {
        bars.sort_by_key(|bar| bar.index);
    }
    Ok(plans)
}

/// Takes `size` bytes, aligned to it, from the start of `free`.
fn take(free: &mut Range<u64>, size: u64) -> Option<u64> {
    let address = free.start.checked_next_multiple_of(size)?;
    let end = address.checked_add(size)?;
    if end > free.end {
        return None;
    }
    free.start = end;
    Some(address)
}

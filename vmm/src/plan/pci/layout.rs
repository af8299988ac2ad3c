//! Everything in its place: buses for slots, windows for ports, addresses for BARs.

use berth_arch::{layout, ram};
use berth_devices::pci::{BarKind, GuestBdf, PortWindows};

use super::super::devices::Assigned;
use super::super::memory::{cpu_address_bits, holes};
use super::super::{MemoryPlan, Note, NumaPlan, PlanError};
use super::concessions::Concessions;
use super::slots::{Hierarchy, Slot};
use super::windows::{Arrangement, Block, Decoder, Placed, SlotPlace, Window};
use super::{BarPlan, FunctionPlan, PciPlan, PortPlan, RomPlan, RootPlan};
use crate::config::{DeviceReset, OnRemoval};
use crate::host::{HostBar, HostProfile};

/// The window that is too small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB.
    Low,
}

/// Everything of an assigned function that decodes addresses.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    /// Position among the assigned functions.
    function: usize,
    /// A BAR; `None` for the expansion ROM.
    bar: Option<HostBar>,
}

/// Everything in its place.
pub(super) struct Layout {
    slots: Vec<Slot>,
    hierarchy: Hierarchy,
    wanted: Vec<Wanted>,
    decoders: Vec<Decoder>,
    io: Placed,
    low: Placed,
    high: Placed,
}

impl Layout {
    /// Places what `concessions` leave. The inner error says which window is too small.
    pub(super) fn new(
        assigned: &[Assigned],
        concessions: &Concessions,
        host: &HostProfile,
        memory: &MemoryPlan,
        numa: &NumaPlan,
    ) -> Result<Result<Self, Full>, PlanError> {
        let slots = concessions.slots.clone();
        let hierarchy = Hierarchy::new(&slots, numa)?;
        let (wanted, decoders) = decoders(assigned, concessions);
        let roots = hierarchy.places.iter().map(|(root, _)| *root);
        let places: Vec<SlotPlace> = roots
            .zip(&slots)
            .map(|(root, slot)| SlotPlace { root, behind_port: slot.port.is_some() })
            .collect();
        let arrange = |window| Arrangement::new(window, &decoders, &places, hierarchy.roots.len());

        let ports = u64::from(layout::PCI_IO_WINDOW.start)..u64::from(layout::PCI_IO_WINDOW.end);
        let Some(io) = arrange(Window::Io).and_then(|io| io.place(ports)) else {
            return Ok(Err(Full::Io));
        };
        let Some(low) = arrange(Window::Low).and_then(|low| low.place(layout::PCI_WINDOW32)) else {
            return Ok(Err(Full::Low));
        };
        let high = place_high(arrange(Window::High), assigned, host, memory)?;
        Ok(Ok(Self { slots, hierarchy, wanted, decoders, io, low, high }))
    }

    /// The plan of it.
    pub(super) fn plan(
        &self,
        assigned: &[Assigned],
        numa: &NumaPlan,
        notes: &mut Vec<Note>,
    ) -> PciPlan {
        let functions = self.functions(assigned, notes);
        PciPlan { roots: self.roots(numa, &functions), functions, largest_peer_bar: 0 }
    }

    fn roots(&self, numa: &NumaPlan, functions: &[FunctionPlan]) -> Vec<RootPlan> {
        let [io, low, high] = [&self.io, &self.low, &self.high].map(Placed::roots);
        let windows = io.into_iter().zip(low).zip(high);
        let roots = self.hierarchy.roots.iter().enumerate().zip(windows);
        roots
            .map(|((index, root), ((io, window32), window64))| RootPlan {
                buses: root.first_bus..=root.last_bus,
                domain: root.domain,
                node: numa.domains[root.domain as usize],
                io,
                window32,
                window64,
                ports: self.ports(index, functions),
            })
            .collect()
    }

    fn ports(&self, root: usize, functions: &[FunctionPlan]) -> Vec<PortPlan> {
        let here = (0..self.slots.len()).filter(|slot| self.hierarchy.places[*slot].0 == root);
        here.filter_map(|slot| {
            let secondary = self.hierarchy.secondary[slot]?;
            let mut behind = functions.iter().filter(|f| f.guest.bus() == secondary);
            Some(PortPlan {
                guest: self.hierarchy.port(slot),
                secondary,
                hot_plug: behind.any(|f| f.on_removal == OnRemoval::Unplug),
                link: self.slots[slot].port?,
                windows: PortWindows {
                    io: self.io.port(slot),
                    memory: self.low.port(slot),
                    prefetchable: self.high.port(slot),
                },
            })
        })
        .collect()
    }

    fn functions(&self, assigned: &[Assigned], notes: &mut Vec<Note>) -> Vec<FunctionPlan> {
        let mut functions: Vec<(usize, FunctionPlan)> = Vec::new();
        for (slot, Slot { functions: members, .. }) in self.slots.iter().enumerate() {
            for &(index, number) in members {
                let device = &assigned[index];
                let &Assigned { address, function, group, .. } = device;
                let guest = self.hierarchy.function(slot, number);
                let pin = function.interrupt_pin.checked_sub(1);
                functions.push((
                    index,
                    FunctionPlan {
                        host: address,
                        guest,
                        take: device.take,
                        port: device.port,
                        id: [function.vendor, function.device],
                        group,
                        node: function.node,
                        bars: self.bars(index),
                        rom: self.rom(index),
                        msix_vectors: function.msix_vectors.unwrap_or(0),
                        intx_gsi: pin.map(|pin| {
                            let port = self.hierarchy.secondary[slot];
                            intx_gsi(guest, pin, port.map(|_| self.hierarchy.port(slot)))
                        }),
                        vfio_file: device.vfio_file.clone(),
                        resteer: device.resteer,
                        interrupt_cpus: device.interrupt_cpus.clone(),
                        reset: device.reset,
                        reset_alone: device.reset_alone,
                        reset_required: device.demand == DeviceReset::Required,
                        on_error: device.on_error,
                        on_removal: self.on_removal(slot, device, notes),
                    },
                ));
            }
        }
        functions.sort_by_key(|(index, _)| *index);
        functions.into_iter().map(|(_, function)| function).collect()
    }

    /// A guest lets go of a slot, which is behind a port.
    fn on_removal(&self, slot: usize, device: &Assigned, notes: &mut Vec<Note>) -> OnRemoval {
        if device.on_removal == OnRemoval::Unplug && self.slots[slot].port.is_none() {
            notes.push(Note::NotUnpluggable { device: device.address });
            return OnRemoval::Stop;
        }
        device.on_removal
    }

    fn address(&self, decoder: usize) -> u64 {
        let windows = [&self.io, &self.low, &self.high];
        let address = windows.into_iter().find_map(|window| window.decoder(decoder));
        address.expect("every decoder is in one of the three windows")
    }

    /// What a function wants, with positions among the decoders.
    fn wanted(&self, function: usize) -> impl Iterator<Item = (usize, &Wanted, &Decoder)> {
        let all = self.wanted.iter().zip(&self.decoders).enumerate();
        all.map(|(at, (wanted, decoder))| (at, wanted, decoder))
            .filter(move |(_, wanted, _)| wanted.function == function)
    }

    fn bars(&self, function: usize) -> Vec<BarPlan> {
        let bars = self.wanted(function).filter_map(|(at, wanted, _)| {
            let HostBar { index, kind, size } = wanted.bar?;
            Some(BarPlan { index, kind, size, address: self.address(at) })
        });
        bars.collect()
    }

    fn rom(&self, function: usize) -> Option<RomPlan> {
        let (at, _, decoder) = self.wanted(function).find(|(_, wanted, _)| wanted.bar.is_none())?;
        Some(RomPlan { size: decoder.size, address: self.address(at) })
    }
}

fn decoders(assigned: &[Assigned], concessions: &Concessions) -> (Vec<Wanted>, Vec<Decoder>) {
    let Concessions { slots, without_io, without_roms } = concessions;
    let mut all = Vec::new();
    for (slot, Slot { functions, port, .. }) in slots.iter().enumerate() {
        for &(function, _) in functions {
            let facts = assigned[function].function;
            for &bar in facts.bars.iter().filter(|b| b.kind != BarKind::Io || !without_io[slot]) {
                let window = window_of(bar.kind, port.is_some());
                let decoder = Decoder { slot, window, size: bar.size };
                all.push((Wanted { function, bar: Some(bar) }, decoder));
            }
            if facts.rom_size > 0 && !without_roms {
                let decoder = Decoder { slot, window: Window::Low, size: facts.rom_size };
                all.push((Wanted { function, bar: None }, decoder));
            }
        }
    }
    all.into_iter().unzip()
}

/// Where a BAR may be. A port has one window above 4 GiB, and it is prefetchable: a 64-bit BAR
/// that is not must lie below (PCI Express Base 6.0, section 7.5.1.3.9). Host bridges have no
/// such rule.
fn window_of(kind: BarKind, behind_port: bool) -> Window {
    match kind {
        BarKind::Io => Window::Io,
        BarKind::Memory32 { .. } => Window::Low,
        BarKind::Memory64 { prefetchable: false } if behind_port => Window::Low,
        BarKind::Memory64 { .. } => Window::High,
    }
}

/// Below what the IOMMU translates where there is room, so that devices could reach each other's
/// BARs; else wherever the CPUs can.
fn place_high(
    arranged: Option<Arrangement>,
    assigned: &[Assigned],
    host: &HostProfile,
    memory: &MemoryPlan,
) -> Result<Placed, PlanError> {
    let ram_end = memory.regions.last().map_or(0, |region| region.guest.end);
    let holes = holes(host, assigned.iter().map(|device| device.group));
    let cpu_bits = cpu_address_bits(host);
    let iommu_bits = host.iommu.address_bits.unwrap_or(cpu_bits).min(cpu_bits);
    let whole = arranged.as_ref().map(|arranged| arranged.whole);
    let Block { size, align } = whole.unwrap_or(Block { size: u64::MAX, align: 1 });
    let window = [iommu_bits, cpu_bits]
        .into_iter()
        .find_map(|bits| ram::pci_window64(ram_end, size, align, bits, &holes))
        // Where there are no addresses above RAM, nothing needs them either.
        .or((size == 0).then_some(0..0));
    let placed = arranged.zip(window).and_then(|(arranged, window)| arranged.place(window));
    placed.ok_or(PlanError::AddressSpace {
        what: "64-bit BARs",
        end: ram_end.saturating_add(align).saturating_add(size),
        limit: "the CPUs'",
        bits: cpu_bits,
    })
}

/// GSI of a pin, 0 for INTA, of the function at `guest`. Behind `port` the pin first turns by the
/// device number, as it does at every bridge (PCI-to-PCI Bridge 1.2, section 9.1), and is then the
/// port's; ports have device 0 below them, so that it turns by nothing.
fn intx_gsi(guest: GuestBdf, pin: u8, port: Option<GuestBdf>) -> u32 {
    match port {
        Some(port) => layout::intx_gsi(port.device(), (pin + guest.device()) % 4),
        None => layout::intx_gsi(guest.device(), pin),
    }
}

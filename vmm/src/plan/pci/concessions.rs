//! What devices do without when the guest's address space is too small for all that they have.

use berth_devices::pci::{BarKind, HostBdf};

use super::super::devices::Assigned;
use super::super::{Note, PlanError};
use super::slots::{self, Slot};
use crate::host::HostBar;

/// The slots as the plan would like them, and what was given up.
#[derive(Clone, Debug)]
pub(super) struct Concessions {
    /// Slots; those that gave up their port have none.
    pub(super) slots: Vec<Slot>,
    /// By slot: I/O BARs are left out.
    pub(super) without_io: Vec<bool>,
    /// Expansion ROMs are left out.
    pub(super) without_roms: bool,
}

impl Concessions {
    /// Nothing given up.
    pub(super) fn none(assigned: &[Assigned]) -> Self {
        let slots = slots::slots(assigned);
        Self { without_io: vec![false; slots.len()], without_roms: false, slots }
    }

    /// Takes the I/O BARs from the last device behind a port that has some. PCI Express functions
    /// work without theirs (PCI Express Base 6.0, section 1.3.2.2), and a port's window takes
    /// 4 KiB of the 60 that there are.
    pub(super) fn give_up_io(
        &mut self,
        assigned: &[Assigned],
        notes: &mut Vec<Note>,
    ) -> Result<(), PlanError> {
        let behind_port =
            |index: usize| self.slots[index].port.is_some() && !self.without_io[index];
        let bars = bars(assigned, &self.slots).filter(|(.., bar)| bar.kind == BarKind::Io);
        let bars: Vec<_> = bars.collect();
        if let Some((slot, address, _)) = bars.iter().rev().find(|(slot, ..)| behind_port(*slot)) {
            self.without_io[*slot] = true;
            notes.push(Note::WithoutIo { device: *address });
            return Ok(());
        }
        Err(full(bars.into_iter(), "the guest's I/O ports"))
    }

    /// Takes away the expansion ROMs, then a port: from the device with the largest 64-bit BAR
    /// that is not prefetchable. On the root bus such a BAR may lie above 4 GiB.
    pub(super) fn give_up_low(
        &mut self,
        assigned: &[Assigned],
        notes: &mut Vec<Note>,
    ) -> Result<(), PlanError> {
        let has_rom = assigned.iter().any(|device| device.function.rom_size > 0);
        if has_rom && !self.without_roms {
            self.without_roms = true;
            notes.push(Note::WithoutRoms);
            return Ok(());
        }
        let movable = bars(assigned, &self.slots).filter(|(slot, _, bar)| {
            let prefetchable = false;
            bar.kind == BarKind::Memory64 { prefetchable } && self.slots[*slot].port.is_some()
        });
        if let Some((slot, device, bar)) = movable.max_by_key(|(.., bar)| bar.size) {
            notes.push(Note::WithoutPort { device, bar: bar.index, size: bar.size });
            self.slots[slot].port = None;
            return Ok(());
        }
        let low = |kind| matches!(kind, BarKind::Memory32 { .. });
        let low = bars(assigned, &self.slots).filter(|(.., bar)| low(bar.kind));
        Err(full(low, "the guest's window for 32-bit BARs"))
    }
}

/// All BARs, with slot and function.
fn bars<'a>(
    assigned: &'a [Assigned],
    slots: &'a [Slot],
) -> impl Iterator<Item = (usize, HostBdf, HostBar)> + 'a {
    slots.iter().enumerate().flat_map(move |(slot, Slot { functions, .. })| {
        functions.iter().flat_map(move |&(index, _)| {
            let Assigned { address, function, .. } = assigned[index];
            function.bars.iter().map(move |bar| (slot, address, *bar))
        })
    })
}

/// The refusal, of the largest of `bars`.
fn full(bars: impl Iterator<Item = (usize, HostBdf, HostBar)>, window: &'static str) -> PlanError {
    let largest = bars.max_by_key(|(.., bar)| bar.size);
    let (_, device, bar) = largest.expect("a window is full only where there are BARs for it");
    PlanError::WindowFull { device, bar: bar.index, size: bar.size, window }
}

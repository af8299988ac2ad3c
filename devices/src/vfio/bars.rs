//! The BARs of an assigned function, following the guest: from where they are to where they
//! should be.

use std::mem;
use std::ops::Range;

use super::backend::VfioPort;
use super::mapping::HostMapping;
use super::regions::direct_parts;
use super::wiring::{FunctionError, Wiring};
use crate::pci::msix::MsixCapability;
use crate::pci::regs::{COMMAND_IO, COMMAND_MEMORY};
use crate::pci::{BarDecode, BarSpec, ConfigSpace, Freed, GuestBdf, Space};
use crate::warnings::Warnings;

/// All BARs of a function, and where each answers now.
pub struct FunctionBars {
    bdf: GuestBdf,
    wiring: Wiring,
    bars: Vec<FunctionBar>,
}

struct FunctionBar {
    spec: BarSpec,
    parts: Vec<DirectPart>,
    /// Where it answers now.
    at: Option<Range<u64>>,
    /// Where it was last refused, so that it is said once.
    refused: Option<Range<u64>>,
}

/// A part of a BAR that the guest reaches without an exit.
struct DirectPart {
    slot: u32,
    offset: u64,
    mapping: HostMapping,
    /// Mapped in the IOMMU too.
    open_to_peers: bool,
}

impl FunctionBars {
    /// Maps what the guest will reach directly, which stays mapped here for good. Nothing
    /// answers yet. Takes one of `slots` per part.
    pub fn new(
        device: &dyn VfioPort,
        bdf: GuestBdf,
        specs: impl Iterator<Item = BarSpec>,
        msix: Option<&MsixCapability>,
        slots: &mut impl Iterator<Item = u32>,
        wiring: &Wiring,
    ) -> Result<Self, FunctionError> {
        let mut bars = Vec::new();
        for spec in specs {
            let mut parts = Vec::new();
            for part in direct_parts(device.profile(), spec.bar, spec.kind, msix) {
                let (bar, offset) = (spec.bar.index(), part.start);
                let mapping = device.mmap(spec.bar, &part);
                let mapping = mapping.map_err(|source| FunctionError::Map { bar, part, source })?;
                let slot = slots.next().expect("memory slots are a range that does not end");
                parts.push(DirectPart { slot, offset, mapping, open_to_peers: false });
            }
            bars.push(FunctionBar { spec, parts, at: None, refused: None });
        }
        Ok(Self { bdf, wiring: wiring.clone(), bars })
    }

    /// Where each BAR should answer, from its register in `config` and the spaces that `command`
    /// enables.
    pub fn decode(&self, config: &ConfigSpace, command: u16) -> BarDecode {
        let mut decode = BarDecode::default();
        for FunctionBar { spec, .. } in &self.bars {
            let space = Space::from(spec.kind);
            let enable = if space == Space::Io { COMMAND_IO } else { COMMAND_MEMORY };
            let address = config.bar_address(spec);
            let on = command & enable != 0 && config.bar_enabled(spec);
            let end = address.checked_add(spec.size).filter(|_| on);
            decode.0[spec.bar.index()] = end.map(|end| (space, address..end));
        }
        decode
    }

    /// Whether the guest reaches the device's memory, without an exit, where `wanted` says that it
    /// must not: KVM or the IOMMU did not let go of it.
    pub fn is_stuck(&self, wanted: &BarDecode) -> bool {
        let mut shown = self.bars.iter().filter(|bar| bar.is_shown());
        shown.any(|bar| wanted.0[bar.spec.bar.index()].is_none())
    }

    /// Brings every BAR where `wanted` says, as far as the addresses are free: first all that
    /// leave, then all that come, so that two can change places.
    pub fn sync(&mut self, wanted: &BarDecode, warnings: &mut Warnings) -> Freed {
        let mut freed = Freed::Nothing;
        for bar in &mut self.bars {
            let wanted = wanted.0[bar.spec.bar.index()].as_ref().map(|(_, range)| range);
            if bar.at.is_some() && bar.at.as_ref() != wanted {
                freed |= bar.leave(&self.wiring, warnings);
            }
        }
        for bar in &mut self.bars {
            if let (None, Some((space, range))) = (&bar.at, &wanted.0[bar.spec.bar.index()]) {
                bar.answer(self.bdf, (*space, range), &self.wiring, warnings);
            }
        }
        freed
    }
}

impl FunctionBar {
    /// The guest reaches the device's memory through it, without an exit.
    fn is_shown(&self) -> bool {
        self.at.is_some() && !self.parts.is_empty()
    }

    /// Starts to answer at a range, wholly or not at all.
    fn answer(
        &mut self,
        bdf: GuestBdf,
        (space, range): (Space, &Range<u64>),
        Wiring { port, routes, peers, .. }: &Wiring,
        warnings: &mut Warnings,
    ) {
        let bar = self.spec.bar;
        if let Err(error) = routes.insert(space, range.clone(), bdf, bar) {
            let known = self.refused.replace(range.clone()).as_ref() == Some(range);
            // Zero is what a BAR holds before anyone gave it an address.
            if !known && range.start != 0 {
                warnings.say(format_args!("BAR {} does not answer: {error}", bar.index()));
            }
            return;
        }
        for (index, DirectPart { slot, offset, mapping, .. }) in self.parts.iter().enumerate() {
            let (guest, host, length) = (range.start + offset, mapping.address(), mapping.length());
            // SAFETY: the mapping lives as long as the BAR, which leaves in `drop` at the latest,
            // and is never borrowed.
            let mapped = unsafe { port.map_slot(*slot, guest, host, length) };
            if let Err(error) = mapped {
                for undone in &self.parts[..index] {
                    // What was mapped a moment ago can be unmapped.
                    let _ = port.unmap_slot(undone.slot);
                }
                routes.remove(space, range);
                warnings.say(format_args!(
                    "BAR {} cannot be mapped at {guest:#x}: {error}",
                    bar.index()
                ));
                return;
            }
        }
        for part in &mut self.parts {
            let (iova, length) = (range.start + part.offset, part.mapping.length());
            // SAFETY: as for the slot; `leave` takes it back first.
            let opened = unsafe { peers.open(iova, part.mapping.address(), length) };
            part.open_to_peers = opened.unwrap_or_else(|error| {
                let bar = bar.index();
                warnings.say(format_args!("no peer-to-peer DMA to BAR {bar}: {error}"));
                false
            });
        }
        self.at = Some(range.clone());
        self.refused = None;
    }

    /// Stops to answer.
    fn leave(&mut self, wiring: &Wiring, warnings: &mut Warnings) -> Freed {
        let Wiring { port, routes, peers, .. } = wiring;
        let Some(range) = self.at.clone() else { return Freed::Nothing };
        for part in self.parts.iter_mut().filter(|part| part.open_to_peers) {
            if let Err(error) = peers.close(range.start + part.offset, part.mapping.length()) {
                warnings.say(format_args!("peer-to-peer DMA cannot be taken back: {error}"));
                return Freed::Nothing;
            }
            part.open_to_peers = false;
        }
        for DirectPart { slot, .. } in &self.parts {
            if let Err(error) = port.unmap_slot(*slot) {
                warnings.say(format_args!("memory slot {slot} cannot be removed: {error}"));
                return Freed::Nothing;
            }
        }
        routes.remove(self.spec.kind.into(), &range);
        self.at = None;
        Freed::Addresses
    }
}

impl Drop for FunctionBars {
    fn drop(&mut self) {
        // The other functions are synced by whoever takes this one out of the segment.
        let _: Freed = self.sync(&BarDecode::default(), &mut Warnings::about(self.bdf));
        for bar in self.bars.iter_mut().filter(|bar| bar.at.is_some()) {
            // The guest, or another device, reaches the memory still: it must stay mapped here.
            bar.parts.drain(..).for_each(|part| mem::forget(part.mapping));
        }
    }
}

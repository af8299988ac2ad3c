//! Addresses for BARs: each in its port's window, each window in its host bridge's.
//!
//! From the inside out: the BARs behind a port are packed into a block, the blocks and BARs on a
//! root bus into a larger one, and those into the machine's window. A block is aligned to the
//! largest BAR in it, so that all are naturally aligned wherever it comes to lie.
//!
//! A block is packed with vm-allocator's [`AddressAllocator`], first match: the lowest address that
//! fits. It manages one space whose size is known. What it is short of is done here: a window has
//! the size of what is packed into it (the crate does not tell where the allocated part ends), and
//! requests are ordered so that little is wasted. Its `ExactMatch`, with which the guest's own
//! choices could be reserved, gives out again what is taken (0.1.4), and is not used.

use std::cmp::Reverse;
use std::ops::Range;

use vm_allocator::{AddressAllocator, AllocPolicy};

/// Steps of a port's window (PCI Express Base 6.0, sections 7.5.1.3.6 and 7.5.1.3.8).
const IO_STEP: u64 = 4 << 10;
const MEMORY_STEP: u64 = 1 << 20;

/// Memory BARs start on pages of their own: KVM maps whole pages, and two small BARs on one page
/// could both not be mapped.
const PAGE: u64 = 4096;

/// What a BAR can be placed in; each port and each host bridge has one window for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Window {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB.
    Low,
    /// Memory above 4 GiB; of a port, prefetchable.
    High,
}

impl Window {
    fn step(self) -> u64 {
        match self {
            Self::Io => IO_STEP,
            Self::Low | Self::High => MEMORY_STEP,
        }
    }
}

/// Something that decodes addresses: a BAR, or an expansion ROM.
#[derive(Clone, Debug)]
pub(super) struct Decoder {
    /// Which of the tree's slots it is in.
    pub(super) slot: usize,
    /// Where it may be placed.
    pub(super) window: Window,
    /// Bytes, a power of two.
    pub(super) size: u64,
}

/// Where slots are.
#[derive(Clone, Debug)]
pub(super) struct SlotPlace {
    /// Which root bus.
    pub(super) root: usize,
    /// Behind a port, rather than on the root bus itself.
    pub(super) behind_port: bool,
}

/// Bytes that stay together, at a multiple of `align`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) size: u64,
    pub(super) align: u64,
}

/// Everything that decodes addresses of one kind, with offsets from the start of the whole.
#[derive(Clone, Debug)]
pub(super) struct Arrangement {
    /// What all of it takes.
    pub(super) whole: Block,
    /// By decoder; `None` for those of other windows.
    decoders: Vec<Option<u64>>,
    /// By slot; `None` where there is no port or nothing behind it.
    ports: Vec<Option<Range<u64>>>,
    /// By root; `None` where there is nothing below it.
    roots: Vec<Option<Range<u64>>>,
}

impl Arrangement {
    /// Packs the decoders of `window`. `None` when sizes exceed the address space.
    pub(super) fn new(
        window: Window,
        decoders: &[Decoder],
        slots: &[SlotPlace],
        roots: usize,
    ) -> Option<Self> {
        let mut at: Vec<Option<u64>> = vec![None; decoders.len()];
        let mut ports: Vec<Option<Range<u64>>> = vec![None; slots.len()];
        let mut root_blocks = vec![Block::default(); roots];

        let of = |slot: usize| {
            let all = decoders.iter().enumerate();
            all.filter(move |(_, d)| d.slot == slot && d.window == window)
        };
        for (root, root_block) in root_blocks.iter_mut().enumerate() {
            // On this root bus: whole windows of ports, and single decoders.
            let mut blocks = Vec::new();
            let mut owners: Vec<(usize, Vec<(usize, u64)>)> = Vec::new();
            for (slot, place) in slots.iter().enumerate().filter(|(_, place)| place.root == root) {
                let members: Vec<(usize, Block)> = of(slot).map(|(i, d)| (i, d.block())).collect();
                let inner: Vec<Block> = members.iter().map(|(_, block)| *block).collect();
                if place.behind_port {
                    let (block, offsets) = pack(&inner, window.step())?;
                    let members = members.iter().map(|(index, _)| *index);
                    blocks.push(block);
                    owners.push((slot, members.zip(offsets).collect()));
                } else {
                    blocks.extend(inner);
                    owners.extend(members.iter().map(|(index, _)| (slot, vec![(*index, 0)])));
                }
            }
            let (block, offsets) = pack(&blocks, window.step())?;
            *root_block = block;
            for ((start, inner), (slot, members)) in offsets.into_iter().zip(&blocks).zip(owners) {
                for (index, offset) in members {
                    at[index] = Some(start + offset);
                }
                if slots[slot].behind_port && inner.size > 0 {
                    ports[slot] = Some(start..start + inner.size);
                }
            }
        }

        let (whole, offsets) = pack(&root_blocks, 1)?;
        for (index, decoder) in decoders.iter().enumerate() {
            at[index] = at[index].map(|offset| offset + offsets[slots[decoder.slot].root]);
        }
        for (port, slot) in ports.iter_mut().zip(slots) {
            let start = offsets[slot.root];
            *port = port.take().map(|range| range.start + start..range.end + start);
        }
        let roots = root_blocks.iter().zip(&offsets);
        let roots =
            roots.map(|(block, start)| (block.size > 0).then(|| *start..start + block.size));
        Some(Self { whole, decoders: at, ports, roots: roots.collect() })
    }

    /// Puts it at the start of `window`; `None` when it does not fit.
    pub(super) fn place(self, window: Range<u64>) -> Option<Placed> {
        let base = window.start.checked_next_multiple_of(self.whole.align)?;
        let fits = base.checked_add(self.whole.size)? <= window.end;
        fits.then_some(Placed { arrangement: self, base, window })
    }
}

/// An arrangement with its addresses.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    arrangement: Arrangement,
    base: u64,
    window: Range<u64>,
}

impl Placed {
    /// Address of a decoder.
    pub(super) fn decoder(&self, index: usize) -> Option<u64> {
        self.arrangement.decoders[index].map(|offset| self.base + offset)
    }

    /// What the port of a slot forwards.
    pub(super) fn port(&self, slot: usize) -> Option<Range<u64>> {
        self.arrangement.ports[slot].as_ref().map(|range| self.moved(range))
    }

    /// What each host bridge forwards: together all of the window, divided where the next one's
    /// part starts, so that a guest which rearranges has room. Host bridges with nothing below
    /// them get nothing, unless there is only one.
    pub(super) fn roots(&self) -> Vec<Option<Range<u64>>> {
        let roots = &self.arrangement.roots;
        if roots.len() == 1 {
            return vec![Some(self.window.clone()).filter(|window| !window.is_empty())];
        }
        let starts = || roots.iter().flatten().map(|range| self.moved(range).start);
        let lowest = starts().min();
        let divided = roots.iter().map(|range| {
            let start = self.moved(range.as_ref()?).start;
            let end = starts().filter(|other| *other > start).min().unwrap_or(self.window.end);
            Some(if Some(start) == lowest { self.window.start } else { start }..end)
        });
        divided.collect()
    }

    fn moved(&self, range: &Range<u64>) -> Range<u64> {
        self.base + range.start..self.base + range.end
    }
}

impl Decoder {
    fn block(&self) -> Block {
        let size = match self.window {
            Window::Io => self.size,
            Window::Low | Window::High => self.size.max(PAGE),
        };
        // A power of two already, unless a host was described wrongly.
        Block { size, align: size.checked_next_power_of_two().unwrap_or(1 << 63) }
    }
}

/// Places blocks without overlap, those with the strictest alignment first and smaller ones into
/// the gaps that they leave. The whole ends at a multiple of `step`. `None` when sizes exceed the
/// address space.
fn pack(blocks: &[Block], step: u64) -> Option<(Block, Vec<u64>)> {
    let mut order: Vec<usize> = (0..blocks.len()).filter(|index| blocks[*index].size > 0).collect();
    // Stable: equals stay in the order of the config.
    order.sort_by_key(|index| Reverse((blocks[*index].align, blocks[*index].size)));
    // From 0, with no end but that of the addresses.
    let mut space = AddressAllocator::new(0, u64::MAX).ok()?;
    let mut offsets = vec![0; blocks.len()];
    let mut end = 0u64;
    let mut align = step;
    for index in order {
        let block = blocks[index];
        align = align.max(block.align);
        let place = space.allocate(block.size, block.align, AllocPolicy::FirstMatch).ok()?;
        end = end.max(place.end() + 1);
        offsets[index] = place.start();
    }
    let size = end.checked_next_multiple_of(step)?;
    Some((Block { size, align: if size > 0 { align } else { step } }, offsets))
}

#[cfg(test)]
mod tests;

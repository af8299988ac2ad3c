//! Guest memory in pieces, each of which one thread makes ready.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use berth_devices::vfio::{AddressSpace, DmaPort};
use rustix::mm::{Advice, madvise, mlock};

use super::MemoryError;
use super::mapping::Mapping;
use crate::machine::BuildError;
use crate::plan::RamRegion;
use crate::units::PageSize;

/// Bytes of a chunk at most. What is mapped for DMA at once is one, of which the kernel lets a process
/// have 65,535 (`dma_entry_limit` of vfio_iommu_type1).
const CHUNK: usize = 1 << 30;

/// Bytes that are filled in one call: after it a thread looks at whether it is to end.
const STEP: usize = 64 << 20;

/// A piece of guest memory, on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Guest physical address.
    pub guest: u64,
    /// Host node that it is bound to.
    pub node: Option<u32>,
    /// In this process.
    pub address: usize,
    /// Bytes.
    pub length: usize,
}

/// All of a region, in address order.
pub fn of(mapping: &Mapping, planned: &RamRegion) -> impl Iterator<Item = Chunk> {
    let (start, size) = (mapping.as_ptr() as usize, mapping.len());
    let (guest, node) = (planned.guest.start, planned.node);
    (0..size).step_by(CHUNK).map(move |at| Chunk {
        guest: guest + at as u64,
        node,
        address: start + at,
        length: CHUNK.min(size - at),
    })
}

/// The pages that `ranges` of guest physical addresses are in, once each.
pub fn pages_of(
    regions: &[(&Mapping, &RamRegion)],
    ranges: &[Range<u64>],
    page_size: PageSize,
) -> Vec<Chunk> {
    let page = page_size.bytes();
    let mut wanted: Vec<Range<u64>> = ranges
        .iter()
        .map(|range| range.start / page * page..range.end.next_multiple_of(page))
        .collect();
    wanted.sort_unstable_by_key(|range| range.start);
    let mut chunks = Vec::new();
    for (mapping, planned) in regions {
        let mut end = planned.guest.start;
        for range in &wanted {
            let part = range.start.max(end)..range.end.min(planned.guest.end);
            if part.start < part.end {
                end = part.end;
                let at = (part.start - planned.guest.start) as usize;
                chunks.push(Chunk {
                    guest: part.start,
                    node: planned.node,
                    address: mapping.as_ptr() as usize + at,
                    length: (part.end - part.start) as usize,
                });
            }
        }
    }
    chunks
}

/// What makes a chunk ready for a guest and its devices.
#[derive(Clone)]
pub struct Ready {
    /// Pages that back it.
    pub page_size: PageSize,
    /// Whether it is to be locked.
    pub locked: bool,
    /// Where devices reach it, if there are any.
    pub space: Option<AddressSpace>,
}

impl Ready {
    /// Faults every page in; returns whether it did. Once `stop` is set it ends early.
    ///
    /// # Errors
    /// Pages are missing.
    pub fn fill(&self, chunk: &Chunk, stop: &AtomicBool) -> Result<bool, MemoryError> {
        let step = STEP.max(self.page_size.bytes() as usize);
        for at in (0..chunk.length).step_by(step) {
            if stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            populate(chunk.address + at, step.min(chunk.length - at)).map_err(|source| {
                let (guest, node) = (chunk.guest + at as u64, chunk.node);
                MemoryError::Populate { guest, page_size: self.page_size, node, source }
            })?;
        }
        Ok(true)
    }

    /// Keeps what is filled from being swapped, and lets devices reach it.
    ///
    /// # Errors
    /// The host refuses to lock it, or to map it.
    pub fn finish(&self, chunk: &Chunk) -> Result<(), BuildError> {
        if self.locked {
            // SAFETY: the range is a mapping of ours, and its content does not change.
            let locked = unsafe { mlock(chunk.address as *mut _, chunk.length) };
            locked
                .map_err(|error| MemoryError::Lock { guest: chunk.guest, source: error.into() })?;
        }
        if let Some(space) = &self.space {
            let (iova, length) = (chunk.guest, chunk.length as u64);
            // SAFETY: guest memory outlives the address space and is never borrowed.
            let mapped = unsafe { space.map(iova, chunk.address as *mut u8, length) };
            mapped.map_err(|source| BuildError::MapDma { range: iova..iova + length, source })?;
        }
        Ok(())
    }
}

fn populate(address: usize, length: usize) -> io::Result<()> {
    // SAFETY: the range is a mapping of ours, and what is there keeps its content.
    Ok(unsafe { madvise(address as *mut _, length, Advice::LinuxPopulateWrite) }?)
}

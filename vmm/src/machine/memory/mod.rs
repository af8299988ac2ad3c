//! Guest RAM, each part bound to its node, and who fills it: [`mod@fill`] before the guest starts, and
//! [`mod@behind`] it.
//!
//! Filled with `MADV_POPULATE_WRITE`, which reports a short pool as an error; a touch would be a
//! SIGBUS in the middle of a guest. hugetlb pages and those that VFIO pins are never swapped; others
//! are locked.

mod behind;
mod chunk;
mod fill;
mod mapping;

use std::fs::File;
use std::io;
use std::ops::Range;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::mm::{Advice, madvise};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap};

use crate::plan::MemoryPlan;
use crate::units::PageSize;
pub use behind::{Behind, Filling, Go};
pub use chunk::{Chunk, Ready};
pub use fill::fill;
use mapping::Mapping;

/// Why guest memory is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The memfd was refused.
    #[error("cannot reserve {size_mib} MiB of guest memory in {page_size} pages")]
    Reserve {
        /// Guest memory.
        size_mib: u64,
        /// Kind of pages.
        page_size: PageSize,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A region could not be mapped.
    #[error("cannot map guest memory at {guest:#x}")]
    Map {
        /// Guest physical address.
        guest: u64,
        /// Cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Memory could not be bound to its node.
    #[error("cannot bind guest memory to NUMA node {node}")]
    Bind {
        /// Host node.
        node: u32,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Memory could not be locked.
    #[error("cannot lock guest memory at {guest:#x}, so that it is never swapped")]
    Lock {
        /// Guest physical address.
        guest: u64,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A thread that fills memory could not be started.
    #[error("cannot start a thread that fills guest memory at {guest:#x}")]
    Thread {
        /// Guest physical address.
        guest: u64,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Pages were missing.
    #[error("guest memory at {guest:#x} cannot be filled with {page_size} pages{}", on_node(*.node))]
    Populate {
        /// Guest physical address.
        guest: u64,
        /// Kind of pages.
        page_size: PageSize,
        /// Host node.
        node: Option<u32>,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

fn on_node(node: Option<u32>) -> String {
    node.map_or(String::new(), |node| format!(" of NUMA node {node}"))
}

/// Guest RAM, mapped into this process.
pub struct Ram {
    /// What is read and written through; before what it points to.
    memory: GuestMemoryMmap,
    mappings: Vec<Mapping>,
    plan: MemoryPlan,
}

impl Ram {
    /// Maps it, each region bound to its node; no page of it is there yet.
    ///
    /// # Errors
    /// A pool is too small, addresses are short, or a node is not there.
    pub fn reserve(plan: &MemoryPlan) -> Result<Self, MemoryError> {
        let mappings = map(plan)?;
        let regions = mappings.iter().zip(&plan.regions).map(|(mapping, planned)| {
            let guest = planned.guest.start;
            // SAFETY: the mapping is dropped after all that points to it.
            let raw = unsafe {
                MmapRegionBuilder::new(mapping.len()).with_raw_mmap_pointer(mapping.as_ptr())
            };
            let region =
                raw.build().map_err(|error| MemoryError::Map { guest, source: error.into() })?;
            let region = GuestRegionMmap::new(region, GuestAddress(guest));
            Ok(region.expect("the plan's regions end below 2^64"))
        });
        let regions = regions.collect::<Result<_, MemoryError>>()?;
        let memory = GuestMemoryMmap::from_regions(regions)
            .map_err(|error| MemoryError::Map { guest: 0, source: error.into() })?;
        Ok(Self { memory, mappings, plan: plan.clone() })
    }

    /// To read and write it. A page that is not there yet comes with the first touch, or SIGBUS.
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// All of it, in address order.
    pub fn chunks(&self) -> Vec<Chunk> {
        let regions = self.mappings.iter().zip(&self.plan.regions);
        regions.flat_map(|(mapping, planned)| chunk::of(mapping, planned)).collect()
    }

    /// The pages that `ranges` of guest physical addresses are in, once each.
    pub fn pages_of(&self, ranges: &[Range<u64>]) -> Vec<Chunk> {
        let regions: Vec<_> = self.mappings.iter().zip(&self.plan.regions).collect();
        chunk::pages_of(&regions, ranges, self.plan.page_size)
    }
}

fn map(plan: &MemoryPlan) -> Result<Vec<Mapping>, MemoryError> {
    let refused = |source| MemoryError::Reserve {
        size_mib: plan.size >> 20,
        page_size: plan.page_size,
        source,
    };
    // Not needed once all is mapped.
    let file = memfd(plan.page_size).map_err(refused)?;
    if let Some(file) = &file {
        file.set_len(plan.size).map_err(refused)?;
    }
    let mappings = plan.regions.iter().map(|planned| {
        let guest = planned.guest.start;
        let length = planned.guest.end - guest;
        let mapping = match &file {
            Some(file) => Mapping::of_file(file, planned.file_offset, length as usize),
            None => Mapping::anonymous(length as usize),
        };
        let mapping = mapping.map_err(|error| MemoryError::Map { guest, source: error.into() })?;
        if let Some(node) = planned.node {
            bind(mapping.as_ptr(), mapping.len(), node)
                .map_err(|source| MemoryError::Bind { node, source })?;
        }
        // A core dump of berth is about berth; it would take the guest's size and secrets.
        // Failing to leave them out does no harm to the machine.
        // SAFETY: the range is a mapping of ours, and its content does not change.
        let _ = unsafe { madvise(mapping.as_ptr().cast(), mapping.len(), Advice::LinuxDontDump) };
        Ok(mapping)
    });
    mappings.collect()
}

/// Where huge pages are; base pages need no file.
fn memfd(page_size: PageSize) -> io::Result<Option<File>> {
    let pages = match page_size {
        PageSize::Size4K => return Ok(None),
        PageSize::Size2M => MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB,
        PageSize::Size1G => MemfdFlags::HUGETLB | MemfdFlags::HUGE_1GB,
    };
    Ok(Some(memfd_create(c"berth-ram", MemfdFlags::CLOEXEC | pages)?.into()))
}

/// Pages of this mapping come from `node` and no other. A hugetlb reservation counts the whole
/// pool, so that only populating shows whether the node has them.
fn bind(address: *mut u8, length: usize, node: u32) -> io::Result<()> {
    let mut mask = vec![0 as libc::c_ulong; node as usize / 64 + 1];
    mask[node as usize / 64] = 1 << (node % 64);
    // The kernel looks at `maxnode - 1` bits (mm/mempolicy.c, get_nodes).
    let bits = mask.len() * 64 + 1;
    // SAFETY: the range is a mapping of ours, and `mask` holds the bits that `bits` announces.
    let failed = unsafe {
        libc::syscall(libc::SYS_mbind, address, length, libc::MPOL_BIND, mask.as_ptr(), bits, 0)
    };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests;

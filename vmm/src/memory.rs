//! Guest RAM: one shared memfd, bound to its node, every page there before the guest starts.
//!
//! Shared, because a private mapping doubles under pinning when anything forks or copies on
//! write. Populated with `MADV_POPULATE_WRITE`, which reports a short pool as an error; a later
//! touch would be a SIGBUS in the middle of a guest. hugetlb pages and those that VFIO pins are
//! never swapped; others are locked.

use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;
use std::sync::Arc;
use std::thread;

use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap};

use crate::affinity;
use crate::plan::{MemoryPlan, VcpuPlan};
use crate::units::PageSize;

/// Bytes that one thread populates at a time.
const CHUNK: usize = 1 << 30;

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

/// Makes guest RAM as planned. All of it is there when this returns. It is filled from the CPUs of
/// the vCPUs of its node.
pub fn allocate(plan: &MemoryPlan, vcpus: &[VcpuPlan]) -> Result<GuestMemoryMmap, MemoryError> {
    let reserve = |source| MemoryError::Reserve {
        size_mib: plan.size >> 20,
        page_size: plan.page_size,
        source,
    };
    let file = Arc::new(memfd(plan.page_size).map_err(reserve)?);
    file.set_len(plan.size).map_err(reserve)?;
    let mut regions = Vec::new();
    for planned in &plan.regions {
        let guest = planned.guest.start;
        let length = (planned.guest.end - guest) as usize;
        // Not `GuestMemoryMmap::from_ranges_with_files`: it maps with MAP_NORESERVE, with which
        // a short pool goes unnoticed here.
        let mapping = MmapRegionBuilder::new(length)
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_SHARED)
            .with_file_offset(FileOffset::from_arc(file.clone(), planned.file_offset))
            .build()
            .map_err(|error| MemoryError::Map { guest, source: error.into() })?;
        let (address, node) = (mapping.as_ptr(), planned.node);
        if let Some(node) = node {
            bind(address, length, node).map_err(|source| MemoryError::Bind { node, source })?;
        }
        populate(address as usize, length, &cpus_near(vcpus, node)).map_err(|source| {
            MemoryError::Populate { guest, page_size: plan.page_size, node, source }
        })?;
        let region = GuestRegionMmap::new(mapping, GuestAddress(guest));
        if plan.locked {
            lock(address, length).map_err(|source| MemoryError::Lock { guest, source })?;
        }
        // A core dump of berth is about berth; it would take the guest's size and secrets.
        // Failing to leave them out does no harm to the machine.
        // SAFETY: the range is a mapping of ours, and its content does not change.
        unsafe { libc::madvise(address.cast(), length, libc::MADV_DONTDUMP) };
        regions.push(region.expect("the plan's regions end below 2^64"));
    }
    GuestMemoryMmap::from_regions(regions)
        .map_err(|error| MemoryError::Map { guest: 0, source: error.into() })
}

/// CPUs of the vCPUs of a node, or of all when it has none.
fn cpus_near(vcpus: &[VcpuPlan], node: Option<u32>) -> Vec<u32> {
    let of = |near: &dyn Fn(&VcpuPlan) -> bool| -> Vec<u32> {
        vcpus.iter().filter(|vcpu| near(vcpu)).map(|vcpu| vcpu.cpu).collect()
    };
    let here = of(&|vcpu| vcpu.node == node);
    if here.is_empty() { of(&|_| true) } else { here }
}

fn memfd(page_size: PageSize) -> io::Result<File> {
    let pages = match page_size {
        PageSize::Size4K => 0,
        PageSize::Size2M => libc::MFD_HUGETLB | libc::MFD_HUGE_2MB,
        PageSize::Size1G => libc::MFD_HUGETLB | libc::MFD_HUGE_1GB,
    };
    // SAFETY: the name is a valid C string.
    let fd = unsafe { libc::memfd_create(c"berth-ram".as_ptr(), libc::MFD_CLOEXEC | pages) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and owned by nobody else.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Keeps base pages that no device pins from being swapped.
fn lock(address: *mut u8, length: usize) -> io::Result<()> {
    // SAFETY: the range is a mapping of ours, and its content does not change.
    match unsafe { libc::mlock(address.cast(), length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
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

/// Faults every page in, in parallel: clearing is what takes the time.
fn populate(address: usize, length: usize, cpus: &[u32]) -> io::Result<()> {
    let chunks: Vec<(usize, usize)> =
        (0..length).step_by(CHUNK).map(|at| (address + at, CHUNK.min(length - at))).collect();
    let share = chunks.len().div_ceil(cpus.len().max(1)).max(1);
    let fill = |cpu: Option<&u32>, part: &[(usize, usize)]| {
        if let Some(cpu) = cpu {
            affinity::pin_this_thread(&[*cpu])?;
        }
        part.iter().try_for_each(|chunk| populate_chunk(*chunk))
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (chunks.chunks(share).enumerate())
            .map(|(index, part)| scope.spawn(move || fill(cpus.get(index), part)))
            .collect();
        let mut joined = workers.into_iter().map(|worker| worker.join());
        joined.try_for_each(|result| result.expect("filling memory does not panic"))
    })
}

fn populate_chunk((address, length): (usize, usize)) -> io::Result<()> {
    // SAFETY: the range is a mapping of ours that nobody reads yet, and it keeps its content.
    match unsafe { libc::madvise(address as *mut _, length, libc::MADV_POPULATE_WRITE) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestMemoryBackend};

    use super::*;
    use crate::plan::RamRegion;

    fn region(guest: std::ops::Range<u64>, file_offset: u64, node: u32) -> RamRegion {
        RamRegion { guest, file_offset, node: Some(node) }
    }

    #[test]
    fn regions_are_there_and_share_one_file() {
        let plan = MemoryPlan {
            size: 6 << 20,
            page_size: PageSize::Size4K,
            node: Some(0),
            pages: Vec::new(),
            locked: false,
            regions: vec![
                region(0..2 << 20, 0, 0),
                region(1 << 32..(1 << 32) + (4 << 20), 2 << 20, 0),
            ],
        };
        let memory = allocate(&plan, &[]).expect("4 KiB pages are always there");
        assert_eq!(memory.num_regions(), 2);
        let last = GuestAddress((1 << 32) + (4 << 20) - 8);
        assert!(memory.write_obj(7u64, last).is_ok());
        assert_eq!(memory.read_obj::<u64>(last).ok(), Some(7));
    }

    #[test]
    fn a_node_that_is_not_there_is_named() {
        let plan = MemoryPlan {
            size: 2 << 20,
            page_size: PageSize::Size4K,
            node: Some(900),
            pages: Vec::new(),
            locked: false,
            regions: vec![region(0..2 << 20, 0, 900)],
        };
        assert!(matches!(allocate(&plan, &[]), Err(MemoryError::Bind { node: 900, .. })));
    }
}

//! Guest RAM: one shared memfd, bound to its node, every page there before the guest starts.
//!
//! Shared, because a private mapping doubles under pinning when anything forks or copies on
//! write. Populated with `MADV_POPULATE_WRITE`, which reports a short pool as an error; a later
//! touch would be a SIGBUS in the middle of a guest. hugetlb pages and those that VFIO pins are
//! never swapped; others are locked.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::mm::{Advice, madvise, mlock};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap};

use crate::machine::pin;
use crate::plan::{MemoryPlan, RamRegion, VcpuPlan};
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

/// Makes guest RAM as planned. All of it is there when this returns. It is filled from the CPUs of
/// the vCPUs of its node, while this thread does what `meanwhile` says: clearing a page of 1 GiB
/// takes about as long as a device takes to be opened.
pub fn allocate<T>(
    plan: &MemoryPlan,
    vcpus: &[VcpuPlan],
    meanwhile: impl FnOnce() -> T,
) -> Result<(GuestMemoryMmap, T), MemoryError> {
    let regions = reserve(plan)?;
    let chunks: Vec<Chunk> = regions.iter().zip(&plan.regions).flat_map(chunks_of).collect();
    let (filled, result) = fill(shares(&chunks, vcpus), thread::Builder::new, meanwhile);
    filled.map_err(|FillError { guest, node, reason }| match reason {
        Reason::Thread(source) => MemoryError::Thread { guest, source },
        Reason::Pages(source) => {
            MemoryError::Populate { guest, page_size: plan.page_size, node, source }
        }
    })?;
    for region in &regions {
        let (address, length) = (region.as_ptr(), region.size());
        if plan.locked {
            // Keeps base pages that no device pins from being swapped.
            // SAFETY: the range is a mapping of ours, and its content does not change.
            unsafe { mlock(address.cast(), length) }.map_err(|source| MemoryError::Lock {
                guest: region.start_addr().0,
                source: source.into(),
            })?;
        }
        // A core dump of berth is about berth; it would take the guest's size and secrets.
        // Failing to leave them out does no harm to the machine.
        // SAFETY: the range is a mapping of ours, and its content does not change.
        let _ = unsafe { madvise(address.cast(), length, Advice::LinuxDontDump) };
    }
    let memory = GuestMemoryMmap::from_regions(regions)
        .map_err(|error| MemoryError::Map { guest: 0, source: error.into() })?;
    Ok((memory, result))
}

/// Maps guest RAM, each region bound to its node; no page of it is there yet.
fn reserve(plan: &MemoryPlan) -> Result<Vec<GuestRegionMmap>, MemoryError> {
    let reserve = |source| MemoryError::Reserve {
        size_mib: plan.size >> 20,
        page_size: plan.page_size,
        source,
    };
    let file = Arc::new(memfd(plan.page_size).map_err(reserve)?);
    file.set_len(plan.size).map_err(reserve)?;
    let regions = plan.regions.iter().map(|planned| {
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
        if let Some(node) = planned.node {
            bind(mapping.as_ptr(), length, node)
                .map_err(|source| MemoryError::Bind { node, source })?;
        }
        let region = GuestRegionMmap::new(mapping, GuestAddress(guest));
        Ok(region.expect("the plan's regions end below 2^64"))
    });
    regions.collect()
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
        PageSize::Size4K => MemfdFlags::empty(),
        PageSize::Size2M => MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB,
        PageSize::Size1G => MemfdFlags::HUGETLB | MemfdFlags::HUGE_1GB,
    };
    Ok(memfd_create(c"berth-ram", MemfdFlags::CLOEXEC | pages)?.into())
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

/// Memory that one thread fills in one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Chunk {
    guest: u64,
    node: Option<u32>,
    address: usize,
    length: usize,
}

fn chunks_of((region, planned): (&GuestRegionMmap, &RamRegion)) -> Vec<Chunk> {
    let (start, size) = (region.as_ptr() as usize, region.size());
    let chunk = |at: usize| Chunk {
        guest: planned.guest.start + at as u64,
        node: planned.node,
        address: start + at,
        length: CHUNK.min(size - at),
    };
    (0..size).step_by(CHUNK).map(chunk).collect()
}

/// Which CPU fills what. Each node's chunks are shared by the CPUs near it.
fn shares(chunks: &[Chunk], vcpus: &[VcpuPlan]) -> Vec<(Option<u32>, Vec<Chunk>)> {
    let nodes: BTreeSet<_> = chunks.iter().map(|chunk| chunk.node).collect();
    let mut shares = Vec::new();
    for node in nodes {
        let here: Vec<_> = chunks.iter().filter(|chunk| chunk.node == node).copied().collect();
        let cpus = cpus_near(vcpus, node);
        let share = here.len().div_ceil(cpus.len().max(1)).max(1);
        let parts = here.chunks(share).enumerate();
        shares.extend(parts.map(|(index, part)| (cpus.get(index).copied(), part.to_vec())));
    }
    shares
}

/// Where memory could not be filled, and why.
#[derive(Debug)]
struct FillError {
    guest: u64,
    node: Option<u32>,
    reason: Reason,
}

#[derive(Debug)]
enum Reason {
    /// A thread was refused.
    Thread(io::Error),
    /// Its CPU or its pages were.
    Pages(io::Error),
}

/// Faults every page in, in parallel: clearing is what takes the time. The threads are of `kind`.
/// Once one fails, the others end after the chunk that they are at. This thread does what
/// `meanwhile` says.
fn fill<T>(
    shares: Vec<(Option<u32>, Vec<Chunk>)>,
    kind: impl Fn() -> thread::Builder,
    meanwhile: impl FnOnce() -> T,
) -> (Result<(), FillError>, T) {
    let failed = &AtomicBool::new(false);
    let fail = |chunk: &Chunk, reason| {
        failed.store(true, Ordering::Relaxed);
        FillError { guest: chunk.guest, node: chunk.node, reason }
    };
    let fill_share = |cpu: Option<u32>, chunks: Vec<Chunk>| {
        for chunk in chunks {
            if failed.load(Ordering::Relaxed) {
                break;
            }
            cpu.map_or(Ok(()), |cpu| pin::pin_this_thread(&[cpu]))
                .and_then(|()| populate(&chunk))
                .map_err(|error| fail(&chunk, Reason::Pages(error)))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = shares
            .into_iter()
            .map(|(cpu, chunks)| {
                let first = chunks[0];
                let worker = kind().spawn_scoped(scope, move || fill_share(cpu, chunks));
                worker.map_err(|source| fail(&first, Reason::Thread(source)))
            })
            .collect();
        let result = meanwhile();
        let mut ended = workers.into_iter().map(|worker| {
            worker.and_then(|worker| worker.join().expect("filling memory does not panic"))
        });
        (ended.try_for_each(|result| result), result)
    })
}

fn populate(chunk: &Chunk) -> io::Result<()> {
    let (address, length) = (chunk.address as *mut _, chunk.length);
    // SAFETY: the range is a mapping of ours that nobody reads yet, and it keeps its content.
    Ok(unsafe { madvise(address, length, Advice::LinuxPopulateWrite) }?)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use serde_json::json;
    use vm_memory::{Bytes, GuestMemoryBackend};

    use super::*;

    fn region(guest: std::ops::Range<u64>, file_offset: u64, node: u32) -> RamRegion {
        RamRegion { guest, file_offset, node: Some(node) }
    }

    fn chunk(address: usize, length: usize) -> Chunk {
        Chunk { guest: 7, node: Some(1), address, length }
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
        let allocated = allocate(&plan, &[], || "done meanwhile");
        let (memory, done) = allocated.expect("4 KiB pages are always there");
        assert_eq!(done, "done meanwhile");
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
        assert!(matches!(allocate(&plan, &[], || ()), Err(MemoryError::Bind { node: 900, .. })));
    }

    /// As with a limit on threads (TasksMax, RLIMIT_NPROC), which a test as root cannot set up: the
    /// host refuses a thread, here for its stack.
    #[test]
    fn a_thread_that_the_host_refuses_is_an_error() {
        let mapping = MmapRegionBuilder::<()>::new(1 << 20)
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)
            .build()
            .expect("a mapping");
        let huge = || thread::Builder::new().stack_size(1 << 56);
        let whole = chunk(mapping.as_ptr() as usize, 1 << 20);
        let (result, ()) = fill(vec![(None, vec![whole])], huge, || ());
        assert!(matches!(result, Err(FillError { reason: Reason::Thread(_), .. })), "{result:?}");
    }

    #[test]
    fn what_cannot_be_filled_is_an_error() {
        // Nothing is mapped there.
        let nowhere = vec![(None, vec![chunk(0x1000, 0x1000)])];
        let (result, ()) = fill(nowhere, thread::Builder::new, || ());
        assert!(
            matches!(result, Err(FillError { guest: 7, node: Some(1), reason: Reason::Pages(_) })),
            "{result:?}"
        );
    }

    const TURNS: usize = 5;
    const MIB: u64 = 1 << 20;

    /// Each thread has a page at least.
    fn bench_size(page_size: PageSize, threads: usize) -> u64 {
        (512 * MIB).max(page_size.bytes() * threads as u64)
    }

    /// Memory of a benchmark and who fills it: one chunk of the same size for each CPU.
    fn shared_by(page_size: PageSize, cpus: &[u32]) -> Option<(Vec<GuestRegionMmap>, Shares)> {
        let size = bench_size(page_size, cpus.len());
        let plan = MemoryPlan {
            size,
            page_size,
            node: None,
            pages: Vec::new(),
            locked: false,
            regions: vec![RamRegion { guest: 0..size, file_offset: 0, node: None }],
        };
        let regions = reserve(&plan).ok()?;
        let each = size as usize / cpus.len();
        let shares = cpus.iter().enumerate().map(|(index, cpu)| {
            let address = regions[0].as_ptr() as usize + index * each;
            (Some(*cpu), vec![Chunk { guest: 0, node: None, address, length: each }])
        });
        let shares = shares.collect();
        Some((regions, shares))
    }

    type Shares = Vec<(Option<u32>, Vec<Chunk>)>;

    fn memset(shares: &Shares) {
        thread::scope(|scope| {
            for (cpu, chunks) in shares {
                scope.spawn(move || {
                    pin::pin_this_thread(&[cpu.expect("each has one")]).expect("one of ours");
                    for chunk in chunks {
                        // SAFETY: the range is a mapping of this test's own.
                        unsafe { std::ptr::write_bytes(chunk.address as *mut u8, 1, chunk.length) };
                    }
                });
            }
        });
    }

    /// Memory that is filled as a machine's is, beside memory that is written to once.
    #[test]
    #[ignore = "a benchmark, for scripts/bench"]
    fn bench_fill() {
        let own = rustix::thread::sched_getaffinity(None).expect("a thread has CPUs");
        let own: Vec<u32> =
            (0..1024).filter(|cpu| own.is_set(*cpu)).map(|cpu| cpu as u32).collect();
        let mut counts: Vec<usize> = (0..6).map(|power| 1 << power).collect();
        counts.retain(|count| *count <= own.len());
        for page_size in [PageSize::Size4K, PageSize::Size2M, PageSize::Size1G] {
            for threads in &counts {
                let (mut fills, mut memsets) = (Vec::new(), Vec::new());
                for _ in 0..TURNS {
                    let Some((_regions, shares)) = shared_by(page_size, &own[..*threads]) else {
                        break;
                    };
                    let start = Instant::now();
                    if fill(shares, thread::Builder::new, || ()).0.is_err() {
                        break;
                    }
                    fills.push(start.elapsed());
                    drop(_regions);
                    let Some((_regions, shares)) = shared_by(page_size, &own[..*threads]) else {
                        break;
                    };
                    let start = Instant::now();
                    memset(&shares);
                    memsets.push(start.elapsed());
                }
                if memsets.len() < TURNS {
                    println!(
                        "BENCH {}",
                        json!({ "of": "fill", "pages": page_size, "threads": threads,
                        "skipped": "the host has no such pages free" })
                    );
                    continue;
                }
                fills.sort_unstable();
                memsets.sort_unstable();
                let ms = |times: &[Duration]| times[TURNS / 2].as_secs_f64() * 1000.0;
                let ratio = ms(&memsets) / ms(&fills);
                println!(
                    "BENCH {}",
                    json!({ "of": "fill", "pages": page_size, "threads": threads,
                    "mib": bench_size(page_size, *threads) / MIB, "fill_ms": ms(&fills), "memset_ms": ms(&memsets), "rate_of_memset": ratio })
                );
            }
        }
    }
}

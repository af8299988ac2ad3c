use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use berth_devices::pci::DmaGate;
use serde_json::json;
use vm_memory::{Bytes, GuestMemoryBackend};

use super::fill::{Share, fill_shares, shares};
use super::*;
use crate::machine::{BuildError, pin};
use crate::plan::{Fill, RamRegion, SandboxPlan};
use crate::sandbox::{Mode, Restrictions, Role};

const GIB: u64 = 1 << 30;

fn region(guest: Range<u64>, file_offset: u64, node: u32) -> RamRegion {
    RamRegion { guest, file_offset, node: Some(node) }
}

fn plan(regions: Vec<RamRegion>) -> MemoryPlan {
    MemoryPlan {
        size: regions.iter().map(|region| region.guest.end - region.guest.start).sum(),
        page_size: PageSize::Size4K,
        node: Some(0),
        pages: Vec::new(),
        locked: false,
        fill: Fill::Behind,
        regions,
    }
}

fn ready(page_size: PageSize) -> Ready {
    Ready { page_size, locked: false, space: None }
}

fn chunk(address: usize, length: usize) -> Chunk {
    Chunk { guest: 7, node: Some(1), address, length }
}

/// Whether the pages are there.
fn is_there(chunk: &Chunk) -> bool {
    let mut pages = vec![0u8; chunk.length / 4096];
    // SAFETY: the kernel writes a byte for each page.
    let result =
        unsafe { libc::mincore(chunk.address as *mut _, chunk.length, pages.as_mut_ptr()) };
    assert_eq!(result, 0, "{chunk:x?} is mapped");
    pages.iter().all(|page| page & 1 == 1)
}

#[test]
fn what_is_filled_first_is_there_and_the_rest_is_not() {
    let high = 4 * GIB;
    let regions = vec![region(0..8 << 20, 0, 0), region(high..high + (8 << 20), 8 << 20, 0)];
    let ram = Ram::reserve(&plan(regions)).expect("4 KiB pages are always there");
    let first = ram.pages_of(&[0..1, 0x5000..0x6001, 0x2000..0x5800, high - 10..high + 1]);
    let found: Vec<_> = first.iter().map(|chunk| (chunk.guest, chunk.length)).collect();
    assert_eq!(found, [(0, 0x1000), (0x2000, 0x4000), (0x6000, 0x1000), (high, 0x1000)]);
    let (filled, done) = fill(&first, &ready(PageSize::Size4K), &[], || "done meanwhile");
    filled.expect("there is memory");
    assert_eq!(done, "done meanwhile");
    assert!(first.iter().all(is_there));
    assert!(!ram.chunks().iter().any(is_there));
    assert_eq!(ram.memory().num_regions(), 2);
    let last = GuestAddress(high + (8 << 20) - 8);
    assert!(ram.memory().write_obj(7u64, last).is_ok());
    assert_eq!(ram.memory().read_obj::<u64>(last).ok(), Some(7));
}

#[test]
fn pages_of_a_gib_are_asked_for_once_each() {
    let of = |pages: &[Range<u64>]| -> Vec<_> {
        let mapping = Mapping::anonymous(1 << 20).expect("addresses");
        let region = RamRegion { guest: 0..4 * GIB, file_offset: 0, node: None };
        let chunks = chunk::pages_of(&[(&mapping, &region)], pages, PageSize::Size1G);
        chunks.iter().map(|chunk| (chunk.guest, chunk.length as u64)).collect()
    };
    assert_eq!(of(&[0..0x10_0000, 0x100_0000..0x400_0000, GIB - 4096..GIB]), [(0, GIB)]);
    assert_eq!(of(&[2 * GIB + 1..2 * GIB + 2, 0..1]), [(0, GIB), (2 * GIB, GIB)]);
}

#[test]
fn a_node_that_is_not_there_is_named() {
    let of_node = plan(vec![region(0..2 << 20, 0, 900)]);
    assert!(matches!(Ram::reserve(&of_node), Err(MemoryError::Bind { node: 900, .. })));
}

/// As with a limit on threads (TasksMax, RLIMIT_NPROC), which a test as root cannot set up: the
/// host refuses a thread, here for its stack.
#[test]
fn a_thread_that_the_host_refuses_is_an_error() {
    let mapping = Mapping::anonymous(1 << 20).expect("a mapping");
    let huge = || thread::Builder::new().stack_size(1 << 56);
    let whole = chunk(mapping.as_ptr() as usize, 1 << 20);
    let (result, ()) =
        fill_shares(vec![(None, vec![whole])], &ready(PageSize::Size4K), huge, || ());
    assert!(matches!(result, Err(MemoryError::Thread { guest: 7, .. })), "{result:?}");
}

#[test]
fn what_cannot_be_filled_is_an_error() {
    // Nothing is mapped there.
    let nowhere = vec![(None, vec![chunk(0x1000, 0x1000)])];
    let (result, ()) = fill_shares(nowhere, &ready(PageSize::Size4K), thread::Builder::new, || ());
    assert!(
        matches!(result, Err(MemoryError::Populate { guest: 7, node: Some(1), .. })),
        "{result:?}"
    );
}

#[test]
fn each_node_is_filled_by_its_own_cpus_from_the_top() {
    let at = |index: u64, node| Chunk {
        guest: index * GIB,
        node: Some(node),
        address: 0,
        length: 1 << 30,
    };
    let chunks = [at(0, 0), at(1, 0), at(2, 0), at(4, 1)];
    let near = |node| if node == Some(0) { vec![3, 5] } else { vec![] };
    let found: Vec<(Option<u32>, Vec<u64>)> = shares(&chunks, near)
        .into_iter()
        .map(|(cpu, chunks)| (cpu, chunks.iter().map(|chunk| chunk.guest / GIB).collect()))
        .collect();
    assert_eq!(found, [(Some(3), vec![2, 0]), (Some(5), vec![1]), (None, vec![4])]);
}

/// What becomes of memory behind a guest: what was told, and the gate's answer.
fn behind(chunks: &[Chunk]) -> (Vec<BuildError>, bool) {
    let gate = Arc::new(DmaGate::closed());
    let behind = Behind::new(chunks, ready(PageSize::Size4K), &[], gate.clone());
    let restriction = Restrictions::new(Mode::Off, &SandboxPlan::default()).of(Role::Memory);
    let (restricted, all_restricted) = mpsc::channel();
    let (failed, failures) = mpsc::channel();
    let failed = move |error| failed.send(error).expect("the test listens");
    let (filling, gos) = behind.start(&restriction, &restricted, failed).expect("threads");
    drop(restricted);
    assert!(all_restricted.recv_timeout(Duration::from_millis(50)).is_err(), "nothing runs yet");
    drop(gos);
    assert!(all_restricted.iter().count() >= 1);
    filling.complete();
    (failures.iter().collect(), gate.is_open())
}

#[test]
fn memory_that_is_ready_behind_a_guest_opens_the_gate() {
    let ram = Ram::reserve(&plan(vec![region(0..8 << 20, 0, 0)])).expect("4 KiB pages");
    let chunks = ram.chunks();
    let (failures, is_open) = behind(&chunks);
    assert!(failures.is_empty(), "{failures:?}");
    assert!(is_open && chunks.iter().all(is_there));
}

#[test]
fn memory_that_cannot_be_had_behind_a_guest_is_told_and_no_device_reaches_any() {
    let (failures, is_open) = behind(&[chunk(0x1000, 0x1000)]);
    let [BuildError::Memory(MemoryError::Populate { guest: 7, .. })] = failures.as_slice() else {
        panic!("{failures:?}")
    };
    assert!(!is_open);
}

const TURNS: usize = 5;
const MIB: u64 = 1 << 20;

/// Each thread has a page at least.
fn bench_size(page_size: PageSize, threads: usize) -> u64 {
    (512 * MIB).max(page_size.bytes() * threads as u64)
}

/// Memory of a benchmark and who fills it: one chunk of the same size for each CPU.
fn shared_by(page_size: PageSize, cpus: &[u32]) -> Option<(Ram, Vec<Share>)> {
    let size = bench_size(page_size, cpus.len());
    let region = RamRegion { guest: 0..size, file_offset: 0, node: None };
    let ram = Ram::reserve(&MemoryPlan { page_size, ..plan(vec![region]) }).ok()?;
    let start = ram.chunks()[0].address;
    let each = size as usize / cpus.len();
    let shares = cpus.iter().enumerate().map(|(index, cpu)| {
        let address = start + index * each;
        (Some(*cpu), vec![Chunk { guest: 0, node: None, address, length: each }])
    });
    let shares = shares.collect();
    Some((ram, shares))
}

fn memset(shares: &[Share]) {
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
    let own: Vec<u32> = (0..1024).filter(|cpu| own.is_set(*cpu)).map(|cpu| cpu as u32).collect();
    let mut counts: Vec<usize> = (0..6).map(|power| 1 << power).collect();
    counts.retain(|count| *count <= own.len());
    for page_size in [PageSize::Size4K, PageSize::Size2M, PageSize::Size1G] {
        for threads in &counts {
            let (mut fills, mut memsets) = (Vec::new(), Vec::new());
            for _ in 0..TURNS {
                let Some((_ram, shares)) = shared_by(page_size, &own[..*threads]) else {
                    break;
                };
                let start = Instant::now();
                if fill_shares(shares, &ready(page_size), thread::Builder::new, || ()).0.is_err() {
                    break;
                }
                fills.push(start.elapsed());
                drop(_ram);
                let Some((_ram, shares)) = shared_by(page_size, &own[..*threads]) else {
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

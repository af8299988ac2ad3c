//! Memory that is filled before the guest starts, by all CPUs that it is near to.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::{Chunk, MemoryError, Ready};
use crate::machine::pin;
use crate::plan::VcpuPlan;

/// What one thread fills, and on which CPU; without one it stays on those of the thread that starts
/// it.
pub type Share = (Option<u32>, Vec<Chunk>);

/// Which CPU fills what. Each node's chunks are shared by those CPUs that `near` has for it, from the
/// highest address down: from there a kernel takes its first memory.
pub fn shares(chunks: &[Chunk], near: impl Fn(Option<u32>) -> Vec<u32>) -> Vec<Share> {
    let nodes: BTreeSet<_> = chunks.iter().map(|chunk| chunk.node).collect();
    let mut shares = Vec::new();
    for node in nodes {
        let here: Vec<_> = chunks.iter().rev().filter(|chunk| chunk.node == node).collect();
        let cpus = near(node);
        let workers = cpus.len().clamp(1, here.len());
        shares.extend((0..workers).map(|worker| {
            let own = here.iter().skip(worker).step_by(workers);
            (cpus.get(worker).copied(), own.map(|chunk| **chunk).collect())
        }));
    }
    shares
}

/// CPUs of the vCPUs of a node, or of all when it has none.
pub fn cpus_near(vcpus: &[VcpuPlan], node: Option<u32>) -> Vec<u32> {
    let of = |near: &dyn Fn(&VcpuPlan) -> bool| -> Vec<u32> {
        vcpus.iter().filter(|vcpu| near(vcpu)).map(|vcpu| vcpu.cpu).collect()
    };
    let here = of(&|vcpu| vcpu.node == node);
    if here.is_empty() { of(&|_| true) } else { here }
}

/// Fills `chunks`, in parallel: clearing is what takes the time. Once one fails, the others end. This
/// thread does what `meanwhile` says: a page of 1 GiB takes about as long as a device takes to be
/// opened.
pub fn fill<T>(
    chunks: &[Chunk],
    ready: &Ready,
    vcpus: &[VcpuPlan],
    meanwhile: impl FnOnce() -> T,
) -> (Result<(), MemoryError>, T) {
    let shares = shares(chunks, |node| cpus_near(vcpus, node));
    fill_shares(shares, ready, thread::Builder::new, meanwhile)
}

/// The same, by threads of `kind`.
pub fn fill_shares<T>(
    shares: Vec<Share>,
    ready: &Ready,
    kind: impl Fn() -> thread::Builder,
    meanwhile: impl FnOnce() -> T,
) -> (Result<(), MemoryError>, T) {
    let failed = &AtomicBool::new(false);
    let fill_share = move |cpu: Option<u32>, chunks: Vec<Chunk>| {
        for chunk in chunks {
            cpu.map_or(Ok(()), |cpu| pin::pin_this_thread(&[cpu]))
                .map_err(|source| MemoryError::Thread { guest: chunk.guest, source })
                .and_then(|()| ready.fill(&chunk, failed))
                .inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = shares
            .into_iter()
            .map(|(cpu, chunks)| {
                let guest = chunks.first().map_or(0, |chunk| chunk.guest);
                let worker = kind().spawn_scoped(scope, move || fill_share(cpu, chunks));
                worker.map_err(|source| {
                    failed.store(true, Ordering::Relaxed);
                    MemoryError::Thread { guest, source }
                })
            })
            .collect();
        let result = meanwhile();
        let mut ended = workers.into_iter().map(|worker| {
            worker.and_then(|worker| worker.join().expect("filling memory does not panic"))
        });
        (ended.try_for_each(|result| result), result)
    })
}

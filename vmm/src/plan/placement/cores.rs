//! CPUs by the core that they are threads of, and what the cores are near to.

use std::collections::BTreeMap;

use crate::host::{HostProfile, IdSet};

/// Threads of one core that may be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Core {
    /// In ascending order; never empty.
    pub(super) threads: Vec<u32>,
    /// These are all of its threads that are online.
    pub(super) whole: bool,
    /// The host's own interrupts and timers start there, because CPU 0 is one of its threads.
    pub(super) is_first: bool,
    /// Other machines have threads and interrupts of their own there.
    pub(super) is_shared: bool,
    /// Its package. Cores of which nothing is known are taken to be together.
    pub(super) package: Option<u32>,
    /// Its L3 cache, by the lowest CPU that shares it.
    pub(super) l3_cache: Option<u32>,
    /// Its kind: 0 is the fastest, or nothing is known of kinds.
    pub(super) kind: usize,
}

/// The cores of `cpus`, by their lowest CPU.
pub(super) fn cores(host: &HostProfile, cpus: &IdSet) -> Vec<Core> {
    let mut by_core: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for cpu in cpus.iter() {
        by_core.entry(host.cpus.core_of(cpu)).or_default().push(cpu);
    }
    let shared = cores_of_other_threads(host);
    let packages = by_cpu(host.cpus.packages.iter().map(|(number, cpus)| (*number, cpus)));
    let caches = &host.cpus.l3_caches;
    let caches = by_cpu(caches.iter().filter_map(|cpus| Some((cpus.first()?, cpus))));
    let kinds = by_cpu(host.cpus.core_kinds.iter().map(|kind| &kind.cpus).enumerate());
    let core = |(core, threads): (u32, Vec<u32>)| {
        let first = threads[0];
        Core {
            whole: siblings(host, first).len() == threads.len(),
            is_first: core == host.cpus.core_of(0),
            is_shared: shared.contains(core),
            package: packages.get(&first).copied(),
            l3_cache: caches.get(&first).copied(),
            kind: kinds.get(&first).copied().unwrap_or(0),
            threads,
        }
    };
    by_core.into_iter().map(core).collect()
}

/// The set that each CPU is in.
fn by_cpu<'a, Id: Copy>(sets: impl Iterator<Item = (Id, &'a IdSet)>) -> BTreeMap<u32, Id> {
    sets.flat_map(|(id, cpus)| cpus.iter().map(move |cpu| (cpu, id))).collect()
}

/// Cores where other machines have threads that are no vCPUs.
fn cores_of_other_threads(host: &HostProfile) -> IdSet {
    // What may run anywhere has no place.
    let placed = host.machines.iter().filter(|m| m.own.len() < host.cpus.online.len());
    placed.flat_map(|machine| machine.own.iter()).map(|cpu| host.cpus.core_of(cpu)).collect()
}

/// Online threads of the core of `cpu`, itself included.
pub(super) fn siblings(host: &HostProfile, cpu: u32) -> IdSet {
    let all = host.cpus.siblings.get(&cpu).cloned().unwrap_or_default();
    let online = all.intersection(&host.cpus.online);
    if online.is_empty() { IdSet::from_iter([cpu]) } else { online }
}
